"""Transactions: compare, choose a branch, do its operations at one revision.

Rules (etcd 3.5's applierV3backend Txn):
1. All compares, nested ones too, see the state before the transaction; they fix every branch.
2. Then the chosen operations are checked: first all puts, then all ranges. One refused operation
   refuses the transaction, and nothing has changed.
3. Then they are carried out in order; each sees what those before it did.
4. Responses carry a revision in their header: a put the transaction's, a range and a delete the
   one they saw. A nested txn's header is there but empty. The outermost header is the gateway's.
5. A response that gets too large (tally.py) is refused after all is carried out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from etcdpb.rpc_pb2 import (
    Compare,
    PutRequest,
    RangeRequest,
    RequestOp,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
)
from kv.apply import check_changes, delete_range, deletes, needs_previous, put, result_of
from kv.errors import COMPACTED, FUTURE_REV, KEY_NOT_FOUND, LEASE_NOT_FOUND, EtcdError
from kv.range import is_small, range_bounds, range_response
from kv.store import KV, Reads, Result
from kv.tally import Tally
from kv.writer import HistoryWriter

_MISSING: Final[KV] = (b"", b"", 0, 0, 0, 0)
_INTEGER_COLUMN: Final = {
    Compare.CREATE: (2, "create_revision"),
    Compare.MOD: (3, "mod_revision"),
    Compare.VERSION: (4, "version"),
    Compare.LEASE: (5, "lease"),
}
EMPTY_HEADER: Final = ResponseHeader()


def is_read_only(request: TxnRequest) -> bool:
    """Tell whether both branches are ranges only; a nested txn counts as a write, as in etcd."""
    return all(op.HasField("request_range") for op in _both_branches(request))


def is_serializable(request: TxnRequest) -> bool:
    """Tell whether both branches are serializable ranges only."""
    return all(
        op.HasField("request_range") and op.request_range.serializable
        for op in _both_branches(request)
    )


def is_small_txn(request: TxnRequest) -> bool:
    """Tell whether a read-only txn takes a bounded time: single keys, as they are now."""
    return not any(compare.range_end for compare in request.compare) and all(
        is_small(op.request_range) for op in _both_branches(request)
    )


def _both_branches(request: TxnRequest) -> Iterator[RequestOp]:
    yield from request.success
    yield from request.failure


# --- compares -------------------------------------------------------------------------------------


def choose(reads: Reads, request: TxnRequest) -> list[bool]:
    """Return which branches are taken: this txn's, then those of its nested ones, depth first."""
    path = [all(_holds_for_range(reads, compare) for compare in request.compare)]
    for op in _branch(request, path[0]):
        if op.HasField("request_txn"):
            path += choose(reads, op.request_txn)
    return path


def _branch(request: TxnRequest, succeeded: bool) -> Any:
    return request.success if succeeded else request.failure


def _holds_for_range(reads: Reads, compare: Compare) -> bool:
    """Every key of the range must compare; a range without keys compares as one empty key."""
    kvs: list[KV] = []
    if compare.range_end:
        kvs += reads.scan(compare.key, range_bounds(compare.range_end))
    elif (kv := reads.get(compare.key)) is not None:
        kvs.append(kv)
    return all(holds(compare, kv) for kv in kvs) if kvs else holds_for_none(compare)


def holds_for_none(compare: Compare) -> bool:
    """Compare a range without keys."""
    # There is no way to name a missing value: comparing it fails (etcd applyCompare).
    return compare.target != Compare.VALUE and holds(compare, _MISSING)


def holds(compare: Compare, kv: KV) -> bool:
    """Compare one key of a range; all must hold."""
    order = 0
    if compare.target == Compare.VALUE:
        value = compare.value
        order = (kv[1] > value) - (kv[1] < value)
    elif compare.target in _INTEGER_COLUMN:
        column, field = _INTEGER_COLUMN[compare.target]
        number: int = getattr(compare, field)
        have: Any = kv[column]
        order = (have > number) - (have < number)
    if compare.result == Compare.EQUAL:
        return order == 0
    if compare.result == Compare.NOT_EQUAL:
        return order != 0
    if compare.result == Compare.GREATER:
        return order > 0
    if compare.result == Compare.LESS:
        return order < 0
    return True


# --- checks ---------------------------------------------------------------------------------------


def _chosen(request: TxnRequest, path: Iterator[bool]) -> Iterator[RequestOp]:
    for op in _branch(request, next(path)):
        if op.HasField("request_txn"):
            yield from _chosen(op.request_txn, path)
        else:
            yield op


def _check_writes(writer: HistoryWriter, request: TxnRequest, path: list[bool]) -> None:
    """What one operation puts no other deletes (api/validate.py): their numbers add up."""
    changes = 0
    for op in _chosen(request, iter(path)):
        if op.HasField("request_put"):
            _check_put(writer, op.request_put)
            changes += 1
        elif op.HasField("request_delete_range"):
            changes += deletes(writer, op.request_delete_range)
    check_changes(changes)


def _check_put(writer: HistoryWriter, request: PutRequest) -> None:
    if needs_previous(request) and writer.get(request.key) is None:
        raise EtcdError(KEY_NOT_FOUND)
    if not writer.has_lease(request.lease):
        raise EtcdError(LEASE_NOT_FOUND)


def _check_ranges(request: TxnRequest, path: list[bool], current: int, compact: int) -> None:
    for op in _chosen(request, iter(path)):
        if op.HasField("request_range"):
            _check_range(op.request_range, current, compact)


def _check_range(request: RangeRequest, current: int, compact: int) -> None:
    """Unlike a range of its own, one in a txn may not ask for a negative revision."""
    if request.revision > current:
        raise EtcdError(FUTURE_REV)
    if request.revision and request.revision < compact:
        raise EtcdError(COMPACTED)


# --- execution ------------------------------------------------------------------------------------


def apply_txn(writer: HistoryWriter, request: TxnRequest, compact: int, tally: Tally) -> Result:
    """Carry out a txn. Raises EtcdError; nothing has changed then."""
    path = choose(writer, request)
    _check_writes(writer, request, path)
    _check_ranges(request, path, writer.revision, compact)
    response = TxnResponse()
    _execute(writer, request, iter(path), compact, response, tally)
    return result_of(writer, response, tally)


def _execute(
    writer: HistoryWriter,
    request: TxnRequest,
    path: Iterator[bool],
    compact: int,
    response: TxnResponse,
    tally: Tally,
) -> None:
    response.succeeded = next(path)
    for op in _branch(request, response.succeeded):
        answer = response.responses.add()
        kind = op.WhichOneof("request")
        if kind == "request_put":
            answer.response_put.CopyFrom(put(writer, op.request_put, tally))
            answer.response_put.header.revision = writer.next_revision
        elif kind == "request_range":
            if not tally.is_over:
                _answer_range(answer, writer, op.request_range, writer.revision, compact, tally)
        elif kind == "request_delete_range":
            deleted = delete_range(writer, op.request_delete_range, tally)
            answer.response_delete_range.CopyFrom(deleted)
            answer.response_delete_range.header.revision = writer.revision
        elif kind == "request_txn":
            answer.response_txn.header.CopyFrom(EMPTY_HEADER)
            _execute(writer, op.request_txn, path, compact, answer.response_txn, tally)


def _answer_range(
    answer: Any,
    reads: Reads,
    request: RangeRequest,
    current: int,
    compact: int,
    tally: Tally | None = None,
) -> None:
    answer.response_range.CopyFrom(range_response(reads, request, current, compact, tally))
    answer.response_range.header.revision = current


def read_txn(reads: Reads, request: TxnRequest, current: int, compact: int) -> TxnResponse:
    """Answer a read-only txn without header. Raises EtcdError."""
    path = choose(reads, request)
    assert len(path) == 1, "a nested txn is not read-only"
    response = TxnResponse(succeeded=path[0])
    for asked in chosen_ranges(request, path[0], current, compact):
        _answer_range(response.responses.add(), reads, asked, current, compact)
    return response


def chosen_ranges(
    request: TxnRequest, succeeded: bool, current: int, compact: int
) -> list[RangeRequest]:
    """Return the ranges of a read-only txn's branch. Raises EtcdError if one can't be read."""
    _check_ranges(request, [succeeded], current, compact)
    return [op.request_range for op in _branch(request, succeeded)]
