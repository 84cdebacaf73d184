"""Clients at work: threads with mixed operations, and a probe that puts on a schedule.

A client has an endpoint at a time and goes on to the next one when an attempt fails. Nothing is
tried twice: every attempt is an operation of its own in the history, with its own outcome.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Final, Self

from tests.client import Answer, Client
from tests.cluster_faults.history import History, Kind, Operation, Outcome

KEYS: Final = 5
PROBE_KEYS: Final = 4
CALL_SECONDS: Final = 2.0
PROBE_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 0.01  # of a client whose attempt failed at once
JOIN_SECONDS: Final = 15.0
_KINDS: Final = (
    *(Kind.PUT,) * 4, *(Kind.GET,) * 3, *(Kind.SWAP,) * 2, Kind.DELETE, Kind.SCAN,
)  # fmt: skip

_NUMBERS: Final = itertools.count(1)
"""No two loads or probes of a history write the same value: checkers tell writes apart by it."""


class Load:
    """`clients` threads over `endpoints`, until the end of the block; results go to `history`.

    `pinned` clients stay at their endpoint whatever happens. `pause` is between the operations of
    a client. `seconds` bounds an attempt.
    """

    def __init__(
        self,
        history: History,
        endpoints: Sequence[str],
        clients: int = 6,
        *,
        seed: int = 1,
        pinned: bool = False,
        pause: float = 0.0,
        seconds: float = CALL_SECONDS,
    ) -> None:
        self.history = history
        self.endpoints = list(endpoints)
        self.errors: Counter[str] = Counter()
        self.writes: list[tuple[float, str]] = []  # (returned, endpoint) of acknowledged writes
        self.outcomes: Counter[Outcome] = Counter()
        self._name = f"load-{next(_NUMBERS)}"
        self._pinned, self._pause, self._seconds = pinned, pause, seconds
        self._ending = threading.Event()
        self._crash: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed), name=f"client-{number}")
            for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), f"{thread.name} hangs"
        if self._crash is not None and error is None:
            raise self._crash

    def wait_for(self, writes: int, timeout: float = 30.0) -> float:
        """Wait until so many further writes are acknowledged; return the seconds it took."""
        begun, seen = time.monotonic(), len(self.writes)
        while len(self.writes) < seen + writes:
            waited = time.monotonic() - begun
            assert waited < timeout, f"not {writes} writes in {timeout} s; errors: {self.errors}"
            time.sleep(0.002)
        return time.monotonic() - begun

    def first_after(self, moment: float) -> float:
        """Return the seconds from a moment to the first write acknowledged after it."""
        return min(at for at, _ in list(self.writes) if at > moment) - moment

    def _run(self, number: int, seed: int) -> None:
        try:
            self._work(number, Random(f"{seed} {number}"))
        except BaseException as error:
            self._crash = error
            raise

    def _work(self, number: int, chance: Random) -> None:
        clients = [Client(endpoint) for endpoint in self.endpoints]
        turn, sequence, seen = number % len(clients), 0, dict[bytes, int]()
        name = f"{self._name}-{number}"
        try:
            while not self._ending.is_set():
                sequence += 1
                operation = _choose(chance, f"{name}-{sequence}".encode(), seen)
                self._attempt(clients[turn], operation)
                _learn(seen, operation)
                if operation.outcome is not Outcome.OK:
                    turn = turn if self._pinned else (turn + 1) % len(clients)
                    self._ending.wait(PAUSE_SECONDS)
                elif self._pause:
                    self._ending.wait(self._pause)
        finally:
            for client in clients:
                client.close()

    def _attempt(self, client: Client, operation: Operation) -> None:
        operation.endpoint, operation.called = client.endpoint, time.monotonic()
        answer = client.answer(operation.request(), self._seconds)
        operation.finish(answer, time.monotonic())
        self.history.add(operation)
        self.outcomes[operation.outcome] += 1
        if operation.outcome is not Outcome.OK:
            self.errors[operation.error] += 1
        elif operation.writes:
            self.writes.append((operation.returned, operation.endpoint))


def _choose(chance: Random, value: bytes, seen: dict[bytes, int]) -> Operation:
    kind, key = chance.choice(_KINDS), b"key/%d" % chance.randrange(KEYS)
    if kind in (Kind.GET, Kind.DELETE, Kind.SCAN):
        value = b""
    return Operation(kind, key, value, seen.get(key, 0) if kind is Kind.SWAP else 0)


def _learn(seen: dict[bytes, int], operation: Operation) -> None:
    """Remember the key's mod_revision for the next swap."""
    if operation.outcome is not Outcome.OK:
        return
    if operation.writes:
        seen[operation.key] = 0 if operation.kind is Kind.DELETE else operation.revision
    for key, state in operation.found.items():
        seen[key] = state.mod_revision
    if operation.kind in (Kind.GET, Kind.SWAP) and not (operation.found or operation.writes):
        seen[operation.key] = 0


class Probe:
    """One put every `interval` seconds at each endpoint, answered or not: when do writes flow?

    It waits for nothing, so a member without a leader shows as a gap and not as fewer tries.
    """

    def __init__(
        self,
        history: History,
        endpoints: Sequence[str],
        interval: float = 0.01,
        seconds: float = PROBE_SECONDS,
    ) -> None:
        self.history = history
        self.acknowledged: list[tuple[float, float]] = []  # (called, returned)
        self.errors: Counter[str] = Counter()
        self._name = b"probe-%d" % next(_NUMBERS)
        self._endpoints, self._interval, self._seconds = list(endpoints), interval, seconds
        self._ending = threading.Event()
        self._pending = 0
        self._idle = threading.Condition()
        self._clients = {endpoint: Client(endpoint) for endpoint in self._endpoints}
        self._thread = threading.Thread(target=self._run, name="probe")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join(JOIN_SECONDS)
        with self._idle:
            done = self._idle.wait_for(lambda: not self._pending, self._seconds + 5.0)
        for client in self._clients.values():
            client.close()
        assert done, f"{self._pending} puts were never answered, not even by their deadline"

    def wait_after(self, moment: float, timeout: float = 30.0) -> float:
        """Wait until writes flow again after a moment; return the seconds it took."""
        while (found := self.first_after(moment)) is None:
            waited = time.monotonic() - moment
            assert waited < timeout, f"no write for {timeout} s; errors: {self.errors}"
            time.sleep(0.002)
        return found

    def first_after(self, moment: float) -> float | None:
        """Return the seconds from a moment to the first answer to a put called after it."""
        times = [returned for called, returned in list(self.acknowledged) if called > moment]
        return min(times) - moment if times else None

    def longest_gap(self, begin: float, end: float) -> float:
        """Return the longest time between acknowledged puts from one moment to another."""
        times = sorted(at for _, at in list(self.acknowledged) if begin < at < end)
        edges = [begin, *times, end]
        return max(later - earlier for earlier, later in itertools.pairwise(edges))

    def _run(self) -> None:
        sequence, due = 0, time.monotonic()
        while not self._ending.is_set():
            for endpoint, client in self._clients.items():
                sequence += 1
                self._send(client, endpoint, sequence)
            due += self._interval
            self._ending.wait(max(due - time.monotonic(), 0.0))

    def _send(self, client: Client, endpoint: str, sequence: int) -> None:
        operation = Operation(
            Kind.PUT,
            b"probe/%d" % (sequence % PROBE_KEYS),
            b"%s-%d" % (self._name, sequence),
            endpoint=endpoint,
            called=time.monotonic(),
        )
        with self._idle:
            self._pending += 1

        def done(answer: Answer) -> None:
            operation.finish(answer, time.monotonic())
            self.history.add(operation)
            if operation.outcome is Outcome.OK:
                self.acknowledged.append((operation.called, operation.returned))
            else:
                self.errors[operation.error] += 1
            with self._idle:
                self._pending -= 1
                self._idle.notify()

        client.then(operation.request(), done, self._seconds)
