"""A gateway's session: what was proposed and is not yet answered (RIFL, RULES A3).

Requests are numbered from 1 and travel in batches; a batch keeps its content and its number for
ever, so proposing it again is safe: the state machine answers a copy with the first result. The
session's *mark* is the lowest number not yet answered: what is below it may be forgotten.
A revocation of a lease does not wait behind other requests, and finds room when they have none.

Invariants: numbers of unanswered batches ascend; outstanding requests and bytes never exceed the
credit; a call is answered at most once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from actors.gathering import Gathering
from actors.messages import Propose
from kv.batch import Op, encode_batch
from kv.errors import ANSWERED_ALREADY, TIMEOUT, Status, by_number
from kv.operations import operations_of
from kv.session import CLOSED

Result = int | tuple[int, bytes]
CREDIT_REQUESTS: Final = 5000
CREDIT_BYTES: Final = 64 << 20
BATCH_REQUESTS_MAX: Final = 1000
BATCH_BYTES_MAX: Final = 1 << 20
QUEUE_MAX: Final = 100_000
QUEUE_BYTES_MAX: Final = 256 << 20
RETRY_SECONDS: Final = 0.5
RETRY_SECONDS_MAX: Final = 4.0
URGENT: Final = frozenset((Op.LEASE_REVOKE,))


class SessionClosedError(Exception):
    """The log has closed the session, so another gateway has its slot: this one must not go on."""


class Answer(Protocol):
    """Who waits for a result: a call of the client API, or the gateway itself."""

    closed: bool

    def answered(self, revision: int, body: bytes) -> None:
        """The request was applied at `revision`; `body` is the response without header."""

    def fail(self, status: Status) -> None:
        """The request was refused; nothing changed."""


@dataclass(slots=True)
class _Batch:
    first_id: int
    payload: bytes
    count: int
    answers: list[Answer]
    deadline: float
    next_try: float
    pause: float
    operations: int = 0


@dataclass(slots=True)
class _Taken:
    """What is to be proposed as one batch; `size` in bytes of requests."""

    ops: bytearray = field(default_factory=bytearray)
    requests: list[bytes] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    size: int = 0


class _Queue:
    """Requests that were not proposed yet, first in, first out."""

    __slots__ = ("_ages", "_items", "_taken", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self._items: deque[tuple[int, bytes, Answer]] = deque()
        self._taken = 0  # requests that have left, ever
        self._ages: deque[tuple[float, int]] = deque()  # (time, requests added by then, ever)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        return len(self._items) >= QUEUE_MAX or self.bytes >= QUEUE_BYTES_MAX

    def add(self, op: int, request: bytes, answer: Answer) -> None:
        self._items.append((op, request, answer))
        self.bytes += len(request)

    def take_into(self, batch: _Taken, room: int) -> None:
        """Move to `batch` what anybody still waits for, until it has `room` or is long enough."""
        items, ops, requests, answers = self._items, batch.ops, batch.requests, batch.answers
        size, before, waited = batch.size, len(items), self.bytes
        while items and len(requests) < room and size < BATCH_BYTES_MAX:
            op, request, answer = items.popleft()
            waited -= len(request)
            if not answer.closed:
                ops.append(op)
                requests.append(request)
                answers.append(answer)
                size += len(request)
        batch.size, self.bytes = size, waited
        self._taken += before - len(items)

    def take_older(self, now: float, timeout: float) -> Iterator[tuple[Answer, float]]:
        """Take out what is past its timeout; yield (answer, start).

        What waits is as old as the last call before it came.
        """
        ages = self._ages
        while ages and ages[0][0] + timeout <= now:
            start, added = ages.popleft()
            while self._taken < added:
                _, request, answer = self._items.popleft()
                self.bytes -= len(request)
                self._taken += 1
                yield answer, start
        if self._items:
            ages.append((now, self._taken + len(self._items)))


class Proposals:
    """All of one gateway's proposals. Knows no clock and no socket."""

    def __init__(
        self,
        session: int,
        send: Callable[[Propose], bool],
        deliver: Callable[[Answer, int, bytes], None],
        *,
        timeout: float,
        timed_out: Callable[[float], Status] = lambda start: TIMEOUT,
    ) -> None:
        """`timeout` in seconds: etcd's ReqTimeout, 5 s and two election timeouts.

        `timed_out(start)` says what a request that came at `start` is told after that.
        """
        self.session = session
        self.open = False
        self._send = send
        self._deliver = deliver
        self._timeout = timeout
        self._timed_out = timed_out
        self._next_id = 1
        self._urgent = _Queue()
        self._queue = _Queue()
        self._batches: dict[int, _Batch] = {}
        self._outstanding = 0
        self._outstanding_bytes = 0
        self._mark_sent = 0
        self._idle_since: float | None = None
        self._gathering = Gathering()

    def __len__(self) -> int:
        return self._queued + self._outstanding

    @property
    def _queued(self) -> int:
        return len(self._urgent) + len(self._queue)

    def refuses(self, op: int, *, overloaded: bool = False) -> bool:
        """Whether a new request must be refused with `too many requests`.

        `overloaded`: there is too much that was proposed and not carried out yet.
        """
        if op in URGENT:
            return self._urgent.is_full
        return overloaded or self._queue.is_full

    @property
    def mark(self) -> int:
        """The lowest number not answered."""
        for first_id in self._batches:
            return first_id
        return self._next_id

    def add(self, op: int, request: bytes, answer: Answer) -> None:
        """Queue one request for the next batch."""
        (self._urgent if op in URGENT else self._queue).add(op, request, answer)

    def flush(self, now: float, spacing: float = 0.0) -> float:
        """Propose what is queued, as far as the credit goes; what nobody waits for is dropped.

        Returns in how many seconds it is to be called again, since something waits for more to go
        with it (gathering.py, also for `spacing`); 0.0 when nothing does.
        """
        if self.open and not self._urgent:
            pause = self._gathering.pause(len(self._queue), now, spacing)
            if pause:
                return pause
        while self.open and self._queued and self._outstanding < CREDIT_REQUESTS:
            if self._outstanding_bytes >= CREDIT_BYTES:
                break
            self._propose_batch(now)
        return 0.0

    def _propose_batch(self, now: float) -> None:
        taken = _Taken()
        room = min(BATCH_REQUESTS_MAX, CREDIT_REQUESTS - self._outstanding)
        for queue in (self._urgent, self._queue):
            queue.take_into(taken, room)
        count = len(taken.requests)
        if not count:
            return
        first_id = self._next_id
        self._next_id += count
        mark = self.mark if self._batches else first_id
        kinds = bytes(taken.ops)
        payload = encode_batch(self.session, mark, first_id, kinds, taken.requests)
        self._mark_sent = mark
        self._idle_since = None
        self._batches[first_id] = _Batch(
            first_id,
            payload,
            count,
            taken.answers,
            now + self._timeout,
            now + RETRY_SECONDS,
            RETRY_SECONDS,
            operations := operations_of(kinds),
        )
        self._outstanding += count
        self._outstanding_bytes += len(payload)
        self._send(Propose(self.session, first_id, count, payload, operations))

    def open_session(self, member_id_and_slot: bytes) -> None:
        """Propose the session itself; `opened` follows when it has been applied."""
        batch = encode_batch(self.session, 0, 0, bytes([Op.OPEN_SESSION]), [member_id_and_slot])
        self._send(Propose(self.session, 0, 1, batch))

    def check(self, results: Sequence[Any]) -> None:
        """Raise SessionClosedError if these results of the session say that it is closed."""
        if results and results[0] == CLOSED:
            raise SessionClosedError(f"session {self.session:x} was closed by another gateway's")

    def applied(self, first_id: int, results: list[Result | list[int | bytes] | None]) -> None:
        """Answer a batch; a copy of an answer already given is ignored.

        Raises SessionClosedError, and then answers nobody: whether a request was carried out before
        the session was closed can't be told.
        """
        batch = self._batches.get(first_id)
        if batch is None:
            return
        self.check(results)
        del self._batches[first_id]
        assert len(results) == batch.count, f"{len(results)} results for {batch.count} requests"
        self._gathering.answered(batch.count)
        self._outstanding -= batch.count
        self._outstanding_bytes -= len(batch.payload)
        for answer, result in zip(batch.answers, results, strict=True):
            if answer.closed:
                continue
            if type(result) is int:
                if result > 0:
                    self._deliver(answer, result, b"")
                else:
                    answer.fail(by_number(-result))
            elif result is None:
                answer.fail(ANSWERED_ALREADY)
            else:
                self._deliver(answer, result[0], result[1])  # type: ignore[index,arg-type]

    def unanswered(self) -> Iterator[tuple[int, int]]:
        """Yield (first id, count) of every batch that waits."""
        for batch in self._batches.values():
            yield batch.first_id, batch.count

    def propose_again(self, now: float) -> int:
        """Propose every unanswered batch again, in order; return how many requests that were."""
        for batch in self._batches.values():
            batch.pause = RETRY_SECONDS
            self._again(batch, now)
        return self._outstanding

    def _again(self, batch: _Batch, now: float) -> None:
        batch.next_try = now + batch.pause
        self._send(
            Propose(self.session, batch.first_id, batch.count, batch.payload, batch.operations)
        )

    def late(self, now: float) -> list[tuple[int, int]]:
        """Return the batches whose retry is due, and give up on calls past their timeout.

        To be called regularly: what waits in a queue is as old as the last call before it came.
        """
        for queue in (self._urgent, self._queue):
            for answer, start in queue.take_older(now, self._timeout):
                self._give_up((answer,), start)
        due = []
        for batch in self._batches.values():
            if now >= batch.deadline:
                self._give_up(batch.answers, batch.deadline - self._timeout)
            if now >= batch.next_try:
                batch.pause = min(RETRY_SECONDS_MAX, 2 * batch.pause)
                batch.next_try = now + batch.pause
                due.append((batch.first_id, batch.count))
        return due

    def _give_up(self, answers: Sequence[Answer], start: float) -> None:
        waiting = [answer for answer in answers if not answer.closed]
        if waiting:
            status = self._timed_out(start)
            for answer in waiting:
                answer.fail(status)

    def retry(self, first_id: int, now: float) -> None:
        """Propose one batch again: it is not in the database."""
        batch = self._batches.get(first_id)
        if batch is not None:
            self._again(batch, now)

    def tell_mark(self, now: float) -> None:
        """An idle session tells its mark a second after its last answer, so rows can go."""
        if self._batches or self._queued or self._mark_sent == self._next_id or not self.open:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= 1.0:
            self._mark_sent = self._next_id
            batch = encode_batch(self.session, self._next_id, 0, b"", [])
            self._send(Propose(self.session, 0, 0, batch))
