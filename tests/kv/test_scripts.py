"""The golden scripts of tests/testdata/kv, over the memory store and the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etcdpb.kv_pb2 import KeyValue
from etcdpb.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from kv.batch import Op, encode_batch
from kv.errors import EtcdError, by_number
from kv.store import Result
from kv.txn import is_read_only
from tests.datadriven import Command, parse, run, scripts
from tests.kv.driver import KINDS, MemoryDriver, driver_over

FOLDER = Path(__file__).parent.parent / "testdata" / "kv"
FLAGS = {"prev-kv", "ignore-value", "ignore-lease", "keys-only", "count-only"}
SIGNS = {"=": "EQUAL", "!=": "NOT_EQUAL", ">": "GREATER", "<": "LESS"}
TARGETS = {"version": "version", "create": "create_revision", "mod": "mod_revision"}


def raw(text: str) -> bytes:
    r"""Read a key: `\0` is the zero byte, `""` nothing."""
    return b"" if text == '""' else text.replace("\\0", "\0").encode()


def fill(message: Any, command: Command, names: tuple[str, ...]) -> Any:
    """Fill a request: positional bytes by name, flags, and options by their field's name."""
    plain = [arg for arg in command.args if arg not in FLAGS]
    for name, value in zip(names, plain, strict=False):
        setattr(message, name, raw(value))
    for flag in FLAGS.intersection(command.args):
        setattr(message, flag.replace("-", "_"), True)
    for option, (value,) in command.options.items():
        name = option.replace("-", "_")
        if name == "order":
            message.sort_order = RangeRequest.SortOrder.Value(value.upper())
        elif name == "target":
            message.sort_target = RangeRequest.SortTarget.Value(value.upper())
        else:
            setattr(message, name, int(value))
    return message


def request_of(command: Command) -> Any:
    """Return the request a command stands for."""
    if command.name == "put":
        return fill(PutRequest(), command, ("key", "value"))
    if command.name == "delete":
        return fill(DeleteRangeRequest(), command, ("key", "range_end"))
    if command.name == "range":
        return fill(RangeRequest(), command, ("key", "range_end"))
    if command.name == "compact":
        return CompactionRequest(revision=int(command.args[0]))
    assert command.name == "txn", command.name
    return txn_of([line for line in command.input.splitlines() if line.strip()], 0)[0]


def txn_of(lines: list[str], place: int, depth: int = 0) -> tuple[TxnRequest, int]:
    """Read `if`, `then` and `else` lines; a nested txn's are indented by two more."""
    txn = TxnRequest()
    while place < len(lines):
        line = lines[place]
        if (len(line) - len(line.lstrip())) // 2 < depth:
            break
        word, _, rest = line.strip().partition(" ")
        place += 1
        if word == "if":
            txn.compare.append(compare_of(rest.split()))
            continue
        op = RequestOp()
        if rest == "txn":
            nested, place = txn_of(lines, place, depth + 1)
            op.request_txn.CopyFrom(nested)
        else:
            command = parse(rest)
            kind = "delete_range" if command.name == "delete" else command.name
            getattr(op, f"request_{kind}").CopyFrom(request_of(command))
        (txn.success if word == "then" else txn.failure).append(op)
    return txn, place


def compare_of(words: list[str]) -> Compare:
    """Read `target key [..end] sign operand`."""
    target, key, *end, sign, operand = words
    compare: Any = Compare(key=raw(key))
    compare.result = Compare.CompareResult.Value(SIGNS[sign])
    compare.target = Compare.CompareTarget.Value(target.upper())
    if end:
        compare.range_end = raw(end[0].removeprefix(".."))
    if target == "value":
        compare.value = raw(operand)
    else:
        setattr(compare, TARGETS.get(target, target), int(operand))
    done: Compare = compare
    return done


def describe_kv(kv: KeyValue) -> str:
    text = f"{kv.key.decode()!r}={kv.value.decode()!r} created={kv.create_revision}"
    return f"{text} mod={kv.mod_revision} version={kv.version}"


def describe_range(response: RangeResponse) -> str:
    more = " more" if response.more else ""
    return "\n".join([f"count={response.count}{more}", *map(describe_kv, response.kvs)])


def describe_body(kind: str, body: bytes) -> list[str]:
    """Return the lines of a response without header."""
    from etcdpb.rpc_pb2 import DeleteRangeResponse, PutResponse

    if kind == "put":
        put = PutResponse.FromString(body)
        return [f"  previous {describe_kv(put.prev_kv)}"] if put.HasField("prev_kv") else []
    if kind == "delete":
        deleted = DeleteRangeResponse.FromString(body)
        previous = [f"  previous {describe_kv(kv)}" for kv in deleted.prev_kvs]
        return [f"  deleted={deleted.deleted}", *previous]
    return describe_txn(TxnResponse.FromString(body)) if kind == "txn" else []


def describe_txn(response: TxnResponse) -> list[str]:
    lines = [f"  succeeded={response.succeeded}"]
    for op in response.responses:
        kind = op.WhichOneof("response")
        inner = getattr(op, kind)
        assert inner.HasField("header")
        name = kind.removeprefix("response_").removesuffix("_range") if kind else ""
        lines.append(f"  {name} revision={inner.header.revision}")
        if name == "txn":
            lines += ["  " + line for line in describe_txn(inner)]
        elif name == "range":
            lines += ["    " + line for line in describe_range(inner).splitlines()]
        else:
            lines += ["  " + line for line in describe_body(name, inner.SerializeToString())]
    return lines


def describe_result(kind: str, result: Result | None) -> str:
    if result is None:
        return "dropped"
    revision, body = (result, b"") if isinstance(result, int) else result
    if revision < 0:
        status = by_number(-revision)
        return f"{status.code.name}: {status.text}"
    return "\n".join([f"revision={revision}", *describe_body(kind, body)])


class Script:
    """Carries out commands over one driver."""

    def __init__(self, driver: MemoryDriver) -> None:
        self.driver = driver

    def __call__(self, command: Command) -> str:
        special = getattr(self, f"do_{command.name}", None)
        if special is not None:
            return str(special(command))
        request = request_of(command)
        (result,) = self.driver.propose(request)
        return describe_result(command.name, result)

    def do_range(self, command: Command) -> str:
        try:
            return describe_range(self.driver.range(request_of(command)))
        except EtcdError as error:
            return f"{error.status.code.name}: {error.status.text}"

    def do_txn(self, command: Command) -> str:
        request = request_of(command)
        if not is_read_only(request):
            (result,) = self.driver.propose(request)
            return describe_result("txn", result)
        try:
            body = self.driver.read_txn(request)
        except EtcdError as error:
            return f"{error.status.code.name}: {error.status.text}"
        return "\n".join(["read only", *describe_txn(TxnResponse.FromString(body))])

    def do_state(self, command: Command) -> str:
        machine = self.driver.machine
        numbers = f"revision={machine.revision} compact_revision={machine.compact_revision}"
        return f"{numbers} applied_index={machine.applied_index} hash={machine.hash:08x}"

    def do_prune(self, command: Command) -> str:
        self.driver.prune()
        return "ok"

    def do_restart(self, command: Command) -> str:
        before = self.do_state(command)
        self.driver.restart()
        assert self.do_state(command) == before
        return "ok"

    def do_open(self, command: Command) -> str:
        session, member_id, slot = (int(word) for word in command.args)
        return describe_result("open", self.driver.open_session(session, member_id, slot))

    def do_batch(self, command: Command) -> str:
        """Apply one entry: batch session=1 mark=1 first=1, then puts, one a line."""
        session, mark, first = (int(command.option(name)) for name in ("session", "mark", "first"))
        requests = [request_of(parse(line)) for line in command.input.splitlines()]
        batch = encode_batch(
            session,
            mark,
            first,
            bytes([Op.PUT] * len(requests)),
            [request.SerializeToString() for request in requests],
        )
        (applied,) = self.driver.entries(batch, commit="rollback" not in command.args)
        return "\n".join(describe_result("put", result) for result in applied.results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", scripts(FOLDER), ids=lambda path: path.stem)
def test_script(path: Path, kind: str, tmp_path: Path, rewrite: bool) -> None:
    driver = driver_over(kind, tmp_path)

    run(path, Script(driver), rewrite=rewrite)

    driver.close()
