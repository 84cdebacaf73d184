"""The KV service: what is refused, what goes into the log, what is read and how."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from api.kv import ROOMLESS_BYTES, KvService
from etcdpb.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from kv.batch import Op
from kv.errors import COMPACTED, EMPTY_KEY, REQUEST_TOO_LARGE, TOO_MANY_OPS, Code
from kv.txn import is_serializable
from tests.api.backend import CLUSTER_ID, MEMBER_ID, TERM, Backend, Caller

LARGEST = 1000
MAX_OPS = 3
RUBBISH = b"\xff\xff"
METHODS = ["Range", "RangeStream", "Put", "DeleteRange", "Txn", "Compact"]
GET = RequestOp(request_range=RangeRequest(key=b"k"))
LOCAL_GET = RequestOp(request_range=RangeRequest(key=b"k", serializable=True))
BIG_GET = RequestOp(request_range=RangeRequest(key=b"k", range_end=b"l"))
OLD_GET = RequestOp(request_range=RangeRequest(key=b"k", revision=3))
PUT = RequestOp(request_put=PutRequest(key=b"k"))


class View:
    """A moment at revision 9."""

    revision = 9
    padding = b""

    def range(self, request: RangeRequest) -> bytes:
        return RangeResponse(count=1).SerializeToString() + self.padding

    def txn(self, request: TxnRequest) -> bytes:
        return TxnResponse(succeeded=True).SerializeToString() + self.padding


class Desk:
    def __init__(self) -> None:
        self.backend = Backend(View())
        backend: Any = self.backend
        service = KvService(backend, max_txn_ops=MAX_OPS, max_request_bytes=LARGEST)
        self._methods = service.methods()

    def ask(self, method: str, request: Message | bytes) -> Caller:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        caller: Any = Caller()
        handler = self._methods[b"/etcdserverpb.KV/" + method.encode()].message
        assert handler is not None
        handler(caller, data)
        return caller  # type: ignore[no-any-return]

    def proposed(self) -> list[tuple[int, bytes]]:
        return [(op, data) for op, data, _ in self.backend.proposed]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_parsed_is_refused_as_grpc_go_does(desk: Desk, method: str) -> None:
    caller = desk.ask(method, RUBBISH)

    ((code, text),) = caller.outcomes
    assert code == Code.INTERNAL
    assert text.startswith("grpc: error unmarshalling request")
    assert desk.backend.proposed == desk.backend.reads == desk.backend.scans == []


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Put", PutRequest()),
        ("Range", RangeRequest()),
        ("RangeStream", RangeRequest()),
        ("DeleteRange", DeleteRangeRequest()),
    ],
)
def test_a_request_without_a_key_is_refused(desk: Desk, method: str, request_: Message) -> None:
    caller = desk.ask(method, request_)

    assert caller.outcomes == [(EMPTY_KEY.code, EMPTY_KEY.text)]
    assert desk.backend.proposed == desk.backend.reads == desk.backend.scans == []


@pytest.mark.parametrize(
    ("method", "request_", "op"),
    [
        ("Put", PutRequest(key=b"k", value=b"v"), Op.PUT),
        ("DeleteRange", DeleteRangeRequest(key=b"k"), Op.DELETE_RANGE),
        ("Txn", TxnRequest(success=[PUT]), Op.TXN),
        ("Compact", CompactionRequest(revision=5), Op.COMPACT),
    ],
)
def test_what_writes_goes_into_the_log_as_the_clients_own_bytes(
    desk: Desk, method: str, request_: Message, op: Op
) -> None:
    caller = desk.ask(method, request_)

    assert desk.proposed() == [(op, request_.SerializeToString())]
    assert desk.backend.proposed[0][2] is caller
    assert caller.outcomes == []


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Put", PutRequest(key=b"k", value=b"v" * LARGEST)),
        ("DeleteRange", DeleteRangeRequest(key=b"k" * LARGEST)),
        (
            "Txn",
            TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"k", value=b"v" * LARGEST))]),
        ),
    ],
)
def test_what_is_too_large_for_the_log_is_refused(
    desk: Desk, method: str, request_: Message
) -> None:
    caller = desk.ask(method, request_)

    assert caller.outcomes == [(REQUEST_TOO_LARGE.code, REQUEST_TOO_LARGE.text)]
    assert desk.backend.proposed == []


@pytest.mark.parametrize("serializable", [False, True])
def test_one_key_is_read_from_a_view_with_its_revision_in_the_header(
    desk: Desk, serializable: bool
) -> None:
    caller = desk.ask("Range", RangeRequest(key=b"k", serializable=serializable))
    early = list(caller.outcomes)

    desk.backend.serve()

    response = RangeResponse.FromString(caller.outcomes[0])
    header = response.header
    assert early == []
    assert desk.backend.reads[0][2] is serializable
    assert response.count == 1
    assert (header.cluster_id, header.member_id, header.revision, header.raft_term) == (
        CLUSTER_ID,
        MEMBER_ID,
        9,
        TERM,
    )


def test_a_range_that_may_be_big_is_a_scan(desk: Desk) -> None:
    request = RangeRequest(key=b"a", range_end=b"z", serializable=True)

    desk.ask("Range", request)
    desk.ask("RangeStream", request)

    assert desk.backend.scans == [(request, True, False), (request, True, True)]
    assert desk.backend.reads == []


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (RangeRequest(key=b"a", sort_order=RangeRequest.DESCEND), "custom sort orders"),
        (RangeRequest(key=b"a", min_mod_revision=2), "revision filters"),
        (RangeRequest(key=b"a", max_create_revision=2), "revision filters"),
    ],
)
def test_a_stream_refuses_what_needs_the_whole_range(
    desk: Desk, request_: RangeRequest, text: str
) -> None:
    caller = desk.ask("RangeStream", request_)

    ((code, told),) = caller.outcomes
    assert code == Code.UNIMPLEMENTED
    assert told.endswith(text)


@pytest.mark.parametrize(
    ("operations", "serializable"), [([GET], False), ([LOCAL_GET], True), ([GET, LOCAL_GET], False)]
)
def test_a_txn_that_only_reads_is_served_from_a_view(
    desk: Desk, operations: list[RequestOp], serializable: bool
) -> None:
    caller = desk.ask("Txn", TxnRequest(compare=[Compare(key=b"k")], success=operations))

    desk.backend.serve()

    assert desk.backend.proposed == []
    assert desk.backend.reads[0][2] is serializable
    response = TxnResponse.FromString(caller.outcomes[0])
    assert (response.succeeded, response.header.revision) == (True, 9)


def test_what_a_client_does_not_read_is_read_again_when_it_does(desk: Desk) -> None:
    for method, request_ in (
        ("Range", RangeRequest(key=b"k")),
        ("Txn", TxnRequest(success=[GET])),
    ):
        desk.backend.view.padding = b"x" * ROOMLESS_BYTES
        caller = desk.ask(method, request_)
        caller.reads = False

        desk.backend.serve()

        assert caller.outcomes == []
        assert desk.backend.scans == [(request_, True, False)]
        desk.backend.scans.clear()
        desk.backend.reads.clear()


def test_a_small_answer_asks_for_no_room(desk: Desk) -> None:
    caller = desk.ask("Range", RangeRequest(key=b"k"))
    caller.reads = False

    desk.backend.serve()

    assert len(caller.outcomes) == 1
    assert desk.backend.scans == []


@pytest.mark.parametrize(
    "request_",
    [
        TxnRequest(success=[BIG_GET]),
        TxnRequest(success=[LOCAL_GET], failure=[BIG_GET]),
        TxnRequest(success=[OLD_GET]),
        TxnRequest(compare=[Compare(key=b"k", range_end=b"l")], failure=[LOCAL_GET]),
    ],
)
def test_a_txn_that_may_read_much_is_served_in_slices(desk: Desk, request_: TxnRequest) -> None:
    caller = desk.ask("Txn", request_)

    assert desk.backend.scans == [(request_, is_serializable(request_), False)]
    assert desk.backend.reads == desk.backend.proposed == caller.outcomes == []


def test_a_txn_of_too_many_operations_is_refused(desk: Desk) -> None:
    caller = desk.ask("Txn", TxnRequest(success=[GET] * (MAX_OPS + 1)))

    assert caller.outcomes == [(TOO_MANY_OPS.code, TOO_MANY_OPS.text)]


def test_a_physical_compaction_is_answered_when_the_disk_has_forgotten(desk: Desk) -> None:
    caller = desk.ask("Compact", CompactionRequest(revision=5, physical=True))
    (_, _, answer) = desk.backend.proposed[0]

    answer.answered(7, b"")
    early = list(caller.outcomes)
    ((revision, call, done),) = desk.backend.pruning
    done()

    assert early == []
    assert (revision, call) == (5, caller)
    assert CompactionResponse.FromString(caller.outcomes[0]).header.revision == 7


def test_a_refused_physical_compaction_waits_for_nothing(desk: Desk) -> None:
    caller = desk.ask("Compact", CompactionRequest(revision=5, physical=True))
    (_, _, answer) = desk.backend.proposed[0]

    answer.fail(COMPACTED)

    assert caller.outcomes == [(COMPACTED.code, COMPACTED.text)]
    assert answer.closed
    assert desk.backend.pruning == []
