"""A gateway's reads: one ReadIndex for all of a turn, one view for all that are due.

A linearizable read waits until the raft node has confirmed an index and a *view* (one read
transaction) holds it. What messages say of progress only wakes: the applied index that counts is
read in the same transaction as the data, so a reader can wait but never lie.

Invariants: ReadIndex ids grow for ever, over restarts of the gateway too, so that an answer to a
predecessor's question is never taken for one to ours; a read is served by a view whose
applied_index is at least the index confirmed for an id asked *after* the read came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from actors.gathering import Gathering
from api.grpc import Call
from kv.errors import TIMEOUT, EtcdError, Status
from kv.operations import Operation
from storage.reader import Reader, View

Serve = Callable[[Any, Call], None]
Read = tuple[Call, Serve]
RETRY_SECONDS: Final = 0.5
NAMED_MAX: Final = 8
"""Of so many reads of a round the recorder is told what they are."""
OPERATIONS: Final = {
    b"/etcdserverpb.KV/Range": Operation.RANGE,
    b"/etcdserverpb.KV/RangeStream": Operation.RANGE,
    b"/etcdserverpb.KV/Txn": Operation.TXN,
    b"/etcdserverpb.Lease/LeaseTimeToLive": Operation.LEASE_TIME_TO_LIVE,
}
"""Names of methods that read."""


@dataclass(slots=True)
class _Round:
    id: int
    reads: list[Read]
    asked: float
    deadline: float


@dataclass(slots=True)
class _Parked:
    index: int
    reads: list[Read]
    deadline: float


@dataclass(slots=True)
class Reads:
    """All reads of one gateway that wait for something. Knows no clock and no socket."""

    reader: Reader
    ask: Callable[[int], None]
    timeout: float
    timed_out: Callable[[float], Status] = lambda start: TIMEOUT
    incarnation: int = 0
    failed: int = 0
    """Rounds given up: nobody confirmed an index, or the database did not get there in time."""
    _new: list[Read] = field(default_factory=list)
    _now: list[Read] = field(default_factory=list)
    _rounds: deque[_Round] = field(default_factory=deque)
    _parked: deque[_Parked] = field(default_factory=deque)
    _gathering: Gathering = field(default_factory=Gathering)
    _next_id: int = 0

    def __post_init__(self) -> None:
        self._next_id = self.incarnation << 32

    def __len__(self) -> int:
        waiting = sum(len(r.reads) for r in self._rounds) + sum(len(p.reads) for p in self._parked)
        return waiting + len(self._new) + len(self._now)

    def add(self, call: Call, serve: Serve, *, serializable: bool) -> None:
        """Queue one read for the end of the turn."""
        (self._now if serializable else self._new).append((call, serve))

    def flush(self, now: float, spacing: float = 0.0) -> float:
        """Ask one index for all new linearizable reads; serve what is due.

        Returns in how many seconds it is to be called again, since something waits for more to go
        with it (gathering.py, also for `spacing`); 0.0 when nothing does.
        """
        pause = self._gathering.pause(len(self._new), now, spacing)
        if self._new and not pause:
            self._next_id += 1
            self._rounds.append(_Round(self._next_id, self._new, now, now + self.timeout))
            self._new = []
            self.ask(self._next_id)
        if self._now:
            due, self._now = self._now, []
            with self.reader.view() as view:
                serve_all(view, due)
        return pause

    def operations(self) -> int:
        """Return what the newest round's first reads are, as kv.operations."""
        found = 0
        for call, _ in self._rounds[-1].reads[:NAMED_MAX]:
            method = getattr(call, "method", None)
            found |= method.operation if method is not None else 0
        return found or int(Operation.OTHER)

    def confirmed(self, read_id: int, index: int) -> None:
        """Every round up to `read_id` may be served from `index` on."""
        reads: list[Read] = []
        deadline = 0.0
        while self._rounds and self._rounds[0].id <= read_id:
            first = self._rounds.popleft()
            reads += first.reads
            deadline = first.deadline
        if reads:
            self._parked.append(_Parked(index, reads, deadline))
            self.wake()

    def wake(self) -> None:
        """Serve the parked reads whose index the database has reached."""
        if not self._parked:
            return
        with self.reader.view() as view:
            while self._parked and self._parked[0].index <= view.applied_index:
                due = self._parked.popleft().reads
                serve_all(view, due)
                self._gathering.answered(len(due))

    def ask_again(self) -> None:
        """A new raft node or a gap: everything unconfirmed is asked for anew, under a new id."""
        if self._rounds:
            self._next_id += 1
            self._rounds[-1].id = self._next_id
            self.ask(self._next_id)

    def late(self, now: float) -> int:
        """Retry rounds that wait too long, end those past their timeout; return the retries.

        Also looks whether the database has reached what is parked: the message that says so may
        have been lost.
        """
        self.wake()
        while self._rounds and self._rounds[0].deadline <= now:
            over = self._rounds.popleft()
            self.failed += 1
            fail_all(over.reads, self.timed_out(over.deadline - self.timeout))
        while self._parked and self._parked[0].deadline <= now:
            self.failed += 1
            fail_all(self._parked.popleft().reads, TIMEOUT)
        if self._rounds and now - self._rounds[-1].asked >= RETRY_SECONDS:
            self._rounds[-1].asked = now
            self.ask_again()
            return 1
        return 0


def serve_all(view: View, reads: list[Read]) -> None:
    """Serve reads from one view; a refused one is answered with its status."""
    for call, serve in reads:
        if call.closed:
            continue
        try:
            serve(view, call)
        except EtcdError as error:
            call.fail(error.status)


def fail_all(reads: list[Read], status: Status) -> None:
    """Answer every read that is still waited for with a status."""
    for call, _ in reads:
        if not call.closed:
            call.fail(status)
