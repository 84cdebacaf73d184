"""A gateway's questions to the lessor: keep-alives and remaining TTLs.

Rules (RULES A6.6):
1. All questions of a turn are one message. They do not pass the log and never wait behind it.
2. A question without an answer is asked again after half a second: the lessor, the leader or a link
   may have died with it. Renewing twice does no harm.
3. "Unknown" is believed only after a linearizable read of the database has not found the lease
   either; if it is there, the lessor is asked again.
4. After `timeout` the question fails as in etcd: no leader, or timed out.

Ids begin at a random number, so an answer meant for a gateway that has died fits nothing here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, Protocol

from actors import failpoints
from actors.messages import LeaseAsk
from kv.errors import NO_LEADER, REQUEST_TOO_MANY_REQUESTS, TIMEOUT, Status
from kv.lease import AGAIN, UNKNOWN

RETRY_SECONDS: Final = 0.5
PAUSE_SECONDS_MIN: Final = 0.005
PAUSE_SECONDS_MAX: Final = 0.25
BATCH_MAX: Final = 1000
WAITING_MAX: Final = 200_000


class LeaseAnswer(Protocol):
    """Who asked; `token` is what it gave with the question."""

    closed: bool

    def told(self, token: Any, seconds: int) -> None:
        """The lease has so many seconds, or is UNKNOWN."""

    def refused(self, token: Any, status: Status) -> None:
        """There is no answer."""

    def settle(self) -> None:
        """All answers that came together have been told."""


class _Question:
    """Implements what a read of the gateway wants of a call.

    It is never `closed`, so that every read of it ends in `_look` or `fail`.
    """

    closed = False
    __slots__ = ("answer", "asked", "calls", "deadline", "id", "kind", "lease", "pause", "token")

    def __init__(
        self, calls: LeaseCalls, number: int, kind: int, lease: int, answer: LeaseAnswer, token: Any
    ) -> None:
        self.calls = calls
        self.id = number
        self.kind = kind
        self.lease = lease
        self.answer = answer
        self.token = token
        self.deadline = 0.0
        self.asked = 0.0
        self.pause = PAUSE_SECONDS_MIN

    def fail(self, status: Status) -> None:
        self.calls.done(self)
        self.answer.refused(self.token, status)
        self.answer.settle()


class LeaseCalls:
    """All questions of one gateway. Knows no clock and no socket."""

    def __init__(
        self,
        gateway: str,
        send: Callable[[LeaseAsk], bool],
        read: Callable[[Any, Callable[[Any, Any], None]], None],
        later: Callable[[float, Callable[[], None]], Any],
        has_leader: Callable[[], bool],
        *,
        timeout: float,
    ) -> None:
        """`read(call, serve)` is a linearizable read; `later(seconds, callback)` a timer."""
        self._gateway = gateway
        self._send = send
        self._read = read
        self._later = later
        self._has_leader = has_leader
        self._timeout = timeout
        self._next_id = random.SystemRandom().getrandbits(62)
        self._new: list[_Question] = []
        self._asked: dict[int, _Question] = {}  # in the order they were asked last
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def ask(self, kind: int, lease: int, answer: LeaseAnswer, token: Any) -> None:
        """Queue a question (messages.LeaseKind) for the end of the turn."""
        if self._waiting >= WAITING_MAX:
            answer.refused(token, REQUEST_TOO_MANY_REQUESTS)
            return
        self._next_id += 1
        self._waiting += 1
        self._new.append(_Question(self, self._next_id, kind, lease, answer, token))

    def flush(self, now: float) -> None:
        """Send what is queued."""
        if self._new:
            new, self._new = self._new, []
            for start in range(0, len(new), BATCH_MAX):
                self._ask(new[start : start + BATCH_MAX], now)

    def _ask(self, questions: list[_Question], now: float) -> None:
        ids: list[int] = []
        leases: list[int] = []
        kinds = bytearray()
        for question in questions:
            if question.answer.closed:
                self.done(question)
                continue
            if not question.deadline:
                question.deadline = now + self._timeout
            elif question.deadline <= now:
                self._time_out(question)
                continue
            question.asked = now
            self._asked[question.id] = question
            ids.append(question.id)
            leases.append(question.lease)
            kinds.append(question.kind)
        if ids:
            self._send(LeaseAsk(self._gateway, ids, leases, bytes(kinds)))

    def told(self, ids: list[int], seconds: list[int]) -> None:
        """Answer what is answered; one that was answered before is passed over."""
        settled: dict[LeaseAnswer, None] = {}
        pop = self._asked.pop
        for number, left in zip(ids, seconds, strict=True):
            question = pop(number, None)
            if question is None:
                continue
            if left >= 0:
                self._waiting -= 1
                question.answer.told(question.token, left)
                settled[question.answer] = None
            elif question.answer.closed:
                self._waiting -= 1
            elif left == AGAIN:
                self._ask_later(question)
            else:
                self._read(question, self._look)
        for answer in settled:
            answer.settle()

    def _look(self, view: Any, question: _Question) -> None:
        failpoints.hit("beforeLookupWhenLeaseTimeToLive")
        if view.lease(question.lease) is not None and not question.answer.closed:
            self._ask_later(question)
            return
        self.done(question)
        question.answer.told(question.token, UNKNOWN)
        question.answer.settle()

    def _ask_later(self, question: _Question) -> None:
        self._later(question.pause, lambda: self._new.append(question))
        question.pause = min(PAUSE_SECONDS_MAX, 2 * question.pause)

    def _time_out(self, question: _Question) -> None:
        question.fail(TIMEOUT if self._has_leader() else NO_LEADER)

    def done(self, question: _Question) -> None:
        """Forget a question."""
        self._asked.pop(question.id, None)
        self._waiting -= 1

    def ask_again(self, now: float) -> None:
        """The lessor or the leader is new: everything unanswered is asked for anew."""
        asked, self._asked = self._asked, {}
        self._ask_again(list(asked.values()), now)

    def late(self, now: float) -> None:
        """Ask again what waits too long; give up on what is past its timeout."""
        due: list[_Question] = []
        for question in self._asked.values():
            if question.asked + RETRY_SECONDS > now:
                break
            due.append(question)
        for question in due:
            del self._asked[question.id]
        self._ask_again(due, now)
        self.flush(now)

    def _ask_again(self, questions: list[_Question], now: float) -> None:
        for question in questions:
            if question.deadline <= now and not question.answer.closed:
                self._time_out(question)
            else:
                self._new.append(question)
