"""Scans take turns: one slice each, none while the client does not read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.scans import SCANS_MAX, Scans
from api.header import HeaderWriter
from etcdpb.rpc_pb2 import RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from kv.errors import COMPACTED, REQUEST_TOO_MANY_REQUESTS, EtcdError, Status
from storage import scan as scan_module
from tests.storage.database_driver import filled


class Loop:
    """An event loop whose turns are counted."""

    def __init__(self) -> None:
        self.due: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def turn(self) -> None:
        for _ in range(len(self.due)):
            self.due.popleft()()


class Caller:
    """A call."""

    def __init__(self, connection: object = None) -> None:
        self.connection = connection
        self.closed = False
        self.room = True
        self.on_drain: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        self.outcome: Any = None

    def take_room(self, size: int) -> bool:
        return self.room

    def reply(self, message: bytes) -> None:
        self.closed = True
        self.outcome = message

    def fail(self, status: Status) -> None:
        self.closed = True
        self.outcome = status

    def drained(self) -> None:
        assert self.on_drain is not None
        self.on_drain()


class Job:
    """Work of a number of steps."""

    def __init__(self, steps: int, error: EtcdError | None = None) -> None:
        self.steps = steps
        self.stepped = 0
        self.room = True
        self.closings = 0
        self._error = error

    def ready(self) -> bool:
        return self.room

    def step(self) -> bool:
        if self._error is not None:
            raise self._error
        self.stepped += 1
        return self.stepped == self.steps

    def finish(self, call: Any) -> None:
        call.outcome = "done"

    def close(self) -> None:
        self.closings += 1


class Desk:
    def __init__(self) -> None:
        self.loop = Loop()
        self.scans = Scans(None, None, self.loop.call_soon)  # type: ignore[arg-type]

    def start(self, job: Job, connection: object = None) -> Caller:
        caller = Caller(connection)
        self.scans.start(caller, job)  # type: ignore[arg-type]
        return caller


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_one_slice_is_worked_in_a_turn_of_the_loop(desk: Desk) -> None:
    job = Job(3)
    caller = desk.start(job)

    desk.loop.turn()
    first = job.stepped, caller.outcome
    desk.loop.turn()
    desk.loop.turn()

    assert first == (1, None)
    assert caller.outcome == "done"
    assert (job.closings, len(desk.scans), len(desk.loop.due)) == (1, 0, 0)


def test_scans_take_turns(desk: Desk) -> None:
    jobs = [Job(5), Job(5)]
    for job in jobs:
        desk.start(job)

    for _ in range(4):
        desk.loop.turn()

    assert [job.stepped for job in jobs] == [2, 2]


def test_a_scan_nobody_waits_for_ends(desk: Desk) -> None:
    job = Job(5)
    caller = desk.start(job)
    caller.closed = True

    desk.loop.turn()

    assert (job.stepped, job.closings, len(desk.scans)) == (0, 1, 0)


def test_an_error_answers_the_call(desk: Desk) -> None:
    job = Job(5, EtcdError(COMPACTED))
    caller = desk.start(job)

    desk.loop.turn()

    assert (caller.outcome, job.closings, len(desk.scans)) == (COMPACTED, 1, 0)


def test_a_client_that_does_not_read_costs_no_turn_and_no_connection(desk: Desk) -> None:
    job = Job(5)
    desk.start(job)
    job.room = False

    desk.loop.turn()

    assert len(desk.loop.due) == 0
    assert (job.stepped, job.closings) == (0, 1)
    assert len(desk.scans) == 1


def test_a_stalled_scan_goes_on_when_the_client_reads(desk: Desk) -> None:
    job = Job(1)
    caller = desk.start(job)
    job.room = False
    desk.loop.turn()

    job.room = True
    caller.drained()
    desk.loop.turn()

    assert caller.outcome == "done"
    assert (caller.on_drain, caller.on_close) == (None, None)
    assert len(desk.scans) == 0


def test_a_stalled_scan_ends_with_its_call(desk: Desk) -> None:
    job = Job(1)
    caller = desk.start(job)
    job.room = False
    desk.loop.turn()

    caller.closed = True
    assert caller.on_close is not None
    caller.on_close()
    desk.loop.turn()

    assert (job.stepped, len(desk.scans), len(desk.loop.due)) == (0, 0, 0)


def stall(desk: Desk, count: int, connection: object) -> list[tuple[Caller, Job]]:
    """Start jobs of a client that does not read, and let them find out."""
    stalled = []
    for _ in range(count):
        job = Job(1)
        job.room = False
        stalled.append((desk.start(job, connection), job))
        desk.loop.turn()
    return stalled


def test_too_many_scans_at_once_are_refused(desk: Desk) -> None:
    for _ in range(SCANS_MAX):
        desk.start(Job(1))
    refused = Job(1)

    with pytest.raises(EtcdError) as caught:
        desk.start(refused)

    assert caught.value.status == REQUEST_TOO_MANY_REQUESTS
    assert refused.closings == 1


def test_a_client_that_does_not_read_takes_no_place_from_others(desk: Desk) -> None:
    stalled = stall(desk, SCANS_MAX + 5, "deaf")

    other = desk.start(Job(1), "other")
    desk.loop.turn()

    assert other.outcome == "done"
    assert len(desk.scans) == SCANS_MAX
    failed = [job for caller, job in stalled if caller.outcome == REQUEST_TOO_MANY_REQUESTS]
    assert [job.closings for job in failed] == [1] * 5


def test_a_client_that_reads_again_has_its_places_back(desk: Desk) -> None:
    for caller, job in stall(desk, SCANS_MAX, "slow"):
        job.room = True
        caller.drained()
    other = desk.start(Job(1), "other")
    for _ in range(SCANS_MAX + 1):
        desk.loop.turn()

    again = stall(desk, SCANS_MAX, "slow")

    assert other.outcome == "done"
    assert not [caller for caller, _ in again if caller.outcome]


def test_the_loop_turns_while_a_txn_reads_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "STEP_SECONDS", 0.0)
    driver = filled(tmp_path)
    driver.put(*(f"key{number}" for number in range(500)))
    loop, caller = Loop(), Caller()
    scans = Scans(driver.reader, HeaderWriter(1, 2), loop.call_soon)
    everything = RequestOp(request_range=RangeRequest(key=b"\0", range_end=b"\0"))
    request = TxnRequest(success=[everything])

    scans.start_txn(caller, request, driver.machine.applied_index)  # type: ignore[arg-type]
    turns = 0
    while not caller.closed:
        loop.turn()
        turns += 1

    response = TxnResponse.FromString(caller.outcome)
    assert turns >= 500
    assert (response.header.member_id, response.header.revision) == (2, 501)
    assert len(response.responses[0].response_range.kvs) == 500
    driver.close()


def test_a_range_of_a_client_that_does_not_read_is_not_even_begun(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a", "b")
    loop, callers = Loop(), [Caller() for _ in range(SCANS_MAX)]
    scans = Scans(driver.reader, HeaderWriter(1, 2), loop.call_soon)
    for caller in callers:
        caller.room = False
        request = RangeRequest(key=b"\0", range_end=b"\0")
        scans.start_range(caller, request, 0, stream=False)  # type: ignore[arg-type]
    for _ in range(SCANS_MAX):
        loop.turn()

    stalled = len(scans), len(loop.due), [caller.outcome for caller in callers if caller.outcome]
    callers[7].room = True
    callers[7].drained()
    while callers[7].outcome is None:
        loop.turn()

    assert stalled == (SCANS_MAX, 0, [])
    assert RangeResponse.FromString(callers[7].outcome).count == 2
    assert len(scans) == SCANS_MAX - 1
    driver.close()
