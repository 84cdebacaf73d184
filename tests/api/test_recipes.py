"""Recipes step by step: what a caller that goes away, a refusal or a compaction makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from api.election import ElectionService
from api.header import HeaderWriter
from api.lock import LockService
from api.recipes import ROOM, CallEndedError, Cook, Recipe, Wait, Write, prefix_end
from etcdpb import election_pb2 as epb
from etcdpb import lock_pb2 as lpb
from etcdpb import rpc_pb2 as pb
from etcdpb.kv_pb2 import KeyValue
from kv.batch import Op
from kv.errors import LEASE_NOT_FOUND, EtcdError, Status
from tests.actors.watch_bench import Bench


class Caller:
    """A call; `leave` is the client going away."""

    def __init__(self) -> None:
        self.closed = False
        self.writable = True
        self.outcomes: list[Any] = []
        self.on_close: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None

    def reply(self, message: bytes) -> None:
        if not self.closed:
            self.closed = True
            self.outcomes.append(message)

    def send(self, message: bytes) -> None:
        self.outcomes.append(message)

    def finish(self, code: int = 0, text: str = "") -> None:
        if not self.closed:
            self.closed = True
            self.outcomes.append((int(code), text))

    def leave(self) -> None:
        self.closed = True
        assert self.on_close is not None
        self.on_close()


class Kitchen:
    """A backend that keeps what it is asked until the test answers."""

    def __init__(self) -> None:
        self.header = HeaderWriter(1, 2)
        self.writes: list[tuple[int, bytes, Any]] = []
        self.reads: list[tuple[Any, pb.RangeRequest]] = []
        self.refuse: Status | None = None
        self.bench = Bench()
        self.caller = Caller()

    def propose(self, op: int, request: bytes, answer: Any) -> None:
        if self.refuse is not None:
            answer.fail(self.refuse)
        self.writes.append((op, request, answer))

    def scan(self, call: Any, request: Any, *, serializable: bool, stream: bool) -> None:
        assert not serializable
        self.reads.append((call, request))

    def cook(self, recipe: Recipe) -> None:
        parts: tuple[Any, Any, Any] = (self, self.bench.hub, self.caller)
        Cook(*parts, recipe)

    def answer_read(self, revision: int, *kvs: KeyValue) -> pb.RangeRequest:
        call, request = self.reads.pop(0)
        response = pb.RangeResponse(header=pb.ResponseHeader(revision=revision), kvs=kvs)
        call.reply(response.SerializeToString())
        return request

    def answer_write(self, revision: int, response: Any = None) -> tuple[int, bytes]:
        op, request, answer = self.writes.pop(0)
        answer.answered(revision, response.SerializeToString() if response else b"")
        return op, request


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


def lock(kitchen: Kitchen, lease: int = 7) -> None:
    """Ask for the lock `l`."""
    hub: Any = kitchen.bench.hub
    backend: Any = kitchen
    call: Any = kitchen.caller
    LockService(backend, hub).lock(
        call, lpb.LockRequest(name=b"l", lease=lease).SerializeToString()
    )


def taken(*, ours: bool, first: int) -> pb.TxnResponse:
    """Return the result of a lock's first step: the queue's first key was created at `first`."""
    response = pb.TxnResponse(succeeded=ours)
    response.responses.add()
    response.responses.add().response_range.kvs.add(key=b"l/1", create_revision=first)
    return response


def deleted_key(written: tuple[int, bytes]) -> bytes:
    assert written[0] == Op.DELETE_RANGE
    return pb.DeleteRangeRequest.FromString(written[1]).key


def test_steps_are_carried_out_one_after_the_other(kitchen: Kitchen) -> None:
    came: list[Any] = []

    def recipe() -> Recipe:
        came.append((yield Write(Op.PUT, b"x")))
        came.append((yield pb.RangeRequest(key=b"a")).header.revision)
        came.append((yield Wait(b"k", b"", 0, lambda event: event.kv.value == b"2")).kv.value)

    kitchen.cook(recipe())
    kitchen.answer_write(5)
    kitchen.answer_read(6)
    kitchen.bench.write(k=b"1")
    kitchen.bench.write(k=b"2")

    assert came == [(5, b""), 6, b"2"]
    assert len(kitchen.bench.hub) == 0


def test_a_refusal_is_the_caller_s_answer_with_its_text_alone(kitchen: Kitchen) -> None:
    kitchen.refuse = LEASE_NOT_FOUND
    lock(kitchen)

    assert kitchen.caller.outcomes == [(2, "etcdserver: requested lease not found")]


def test_a_recipe_may_go_on_after_a_refusal(kitchen: Kitchen) -> None:
    def recipe() -> Recipe:
        try:
            yield Write(Op.PUT, b"x")
        except EtcdError:
            kitchen.refuse = None
            yield Write(Op.PUT, b"y")

    kitchen.refuse = LEASE_NOT_FOUND
    kitchen.cook(recipe())

    assert kitchen.writes[0][1] == b"y"
    assert kitchen.caller.outcomes == []


def test_who_leaves_while_waiting_is_tidied_up_after(kitchen: Kitchen) -> None:
    lock(kitchen)
    kitchen.answer_write(9, taken(ours=True, first=3))
    kitchen.answer_read(9, KeyValue(key=b"l/1", create_revision=3))
    assert len(kitchen.bench.hub) == 1

    kitchen.caller.leave()

    assert len(kitchen.bench.hub) == 0
    assert deleted_key(kitchen.answer_write(10)) == b"l/7"


def test_who_leaves_while_its_key_is_written_is_tidied_up_after(kitchen: Kitchen) -> None:
    lock(kitchen)

    kitchen.caller.leave()
    early = len(kitchen.writes)
    kitchen.answer_write(9, taken(ours=True, first=3))

    assert early == 1
    assert not kitchen.reads
    assert deleted_key(kitchen.answer_write(10)) == b"l/7"


def test_a_lock_that_nobody_waits_for_any_more_is_let_go(kitchen: Kitchen) -> None:
    lock(kitchen)

    kitchen.caller.leave()
    kitchen.answer_write(9, taken(ours=True, first=9))

    assert deleted_key(kitchen.answer_write(10)) == b"l/7"


def test_a_read_that_nobody_waits_for_is_dropped(kitchen: Kitchen) -> None:
    ended: list[str] = []

    def recipe() -> Recipe:
        try:
            yield pb.RangeRequest(key=b"a")
        except CallEndedError:
            ended.append("told")
            raise

    kitchen.cook(recipe())
    kitchen.caller.leave()
    kitchen.answer_read(6)

    assert ended == ["told"]
    assert kitchen.caller.outcomes == []


def test_a_compaction_during_a_wait_makes_the_queue_be_read_again(kitchen: Kitchen) -> None:
    for _ in range(6):
        kitchen.bench.write(other=b"x")
    lock(kitchen)
    kitchen.answer_write(7, taken(ours=True, first=3))
    kitchen.bench.history.compact(6)
    kitchen.answer_read(4, KeyValue(key=b"l/1", create_revision=3))
    kitchen.bench.loop.run()

    again = kitchen.answer_read(7)
    kitchen.answer_read(7, KeyValue(key=b"l/7", create_revision=7))

    assert again.max_create_revision == 6
    (answer,) = kitchen.caller.outcomes
    assert lpb.LockResponse.FromString(answer).key == b"l/7"


@pytest.mark.parametrize("path", ["Proclaim", "Resign"])
def test_a_leader_without_a_key_is_refused_as_by_etcd(kitchen: Kitchen, path: str) -> None:
    parts: tuple[Any, Any, Any] = (kitchen, kitchen.bench.hub, kitchen.caller)
    service = ElectionService(*parts[:2])
    request = getattr(epb, f"{path}Request")(leader=epb.LeaderKey(name=b"n"))

    getattr(service, path.lower())(parts[2], request.SerializeToString())

    assert kitchen.caller.outcomes == [(2, "etcdserver: key is not provided")]
    assert kitchen.writes == []


def test_room_is_waited_for(kitchen: Kitchen) -> None:
    def recipe() -> Recipe:
        yield ROOM
        kitchen.caller.send(b"one")
        kitchen.caller.writable = False
        yield ROOM
        kitchen.caller.send(b"two")

    kitchen.cook(recipe())
    before = list(kitchen.caller.outcomes)
    kitchen.caller.writable = True
    assert kitchen.caller.on_drain is not None
    kitchen.caller.on_drain()

    assert (before, kitchen.caller.outcomes) == ([b"one"], [b"one", b"two"])


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a/", b"a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
