"""The time-limited leadership grant under which lessor and compactor may act (RULES A6).

The deadline is absolute on CLOCK_BOOTTIME: the moment a read index of our own was asked for that a
quorum confirmed, plus one election timeout less a heartbeat. Who confirms has heard of us since
then, by a heartbeat or an answer to a read of its own (raft/read_only.py), and votes for nobody
else for that long: it counts ticks, the first of which may follow at once. A grant that lies in a
frozen actor's mailbox has run out when it wakes.
"""

from __future__ import annotations

import time

from actors.base import NANOSECONDS
from actors.messages import Grant

GRANT_CONTEXT = b"grant"


def boottime_ns() -> int:
    """Return CLOCK_BOOTTIME: it goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Granting:
    """Asks for a round every third of an election timeout and makes a grant of its answer."""

    def __init__(self, election_timeout: float, heartbeat: float) -> None:
        """`election_timeout` and `heartbeat` in seconds."""
        self._length_ns = int((election_timeout - heartbeat) * NANOSECONDS)
        self._pause = election_timeout / 3
        self._next = 0.0
        self._asked: dict[bytes, int] = {}
        self._counter = 0

    def due(self, now: float) -> bool:
        """Whether a new round is to be asked for; `now` is CLOCK_MONOTONIC in seconds."""
        return now >= self._next

    def ask(self, now: float) -> bytes:
        """Return the context of a new round, sent now. Rounds never answered are forgotten."""
        self._next = now + self._pause
        self._counter += 1
        if len(self._asked) > 10:
            self._asked.clear()
        context = GRANT_CONTEXT + self._counter.to_bytes(8, "big")
        self._asked[context] = boottime_ns()
        return context

    def answered(self, context: bytes, term: int, first_index: int) -> Grant | None:
        """Return the grant that a quorum's answer to a round gives; None if it is none of ours."""
        asked = self._asked.pop(context, None)
        if asked is None:
            return None
        return Grant(term, first_index, asked + self._length_ns)

    def ended(self, term: int) -> Grant:
        """Return what a member that does not lead tells: no grant."""
        self._asked.clear()
        return Grant(term, 0, 0)
