"""What clients ask for comes in pieces and goes on together.

Clients that wait for their answers ask again when they have them: all at about the same time, but
on many connections, so that a turn of the loop sees a few of them. Each piece sent on by itself
would cost the raft node, and a leader elsewhere with all that is between, as much as the whole. So
a piece waits for the others: until as many have asked as were answered since the last went on.

It waits no longer than half of what the last answer took, nor than 5 ms. Where the CPUs are busy
(cpu_wait.py) that is time well spent whatever comes of it. Elsewhere it is worth it only if they do
come: when they did not, as with clients that have other things to do, so many of the next pieces do
not wait, twice as many each time; it takes as many that did come to forget it.

Never waits: who is alone, or was not answered before.
"""

from __future__ import annotations

from typing import Final

WAIT_SECONDS_MAX: Final = 0.005
PASSED_MAX: Final = 1023


class Gathering:
    """Pieces of one kind. Knows no clock.

    Invariant: what waits goes on within WAIT_SECONDS_MAX, if `pause` is asked again when it said.
    """

    __slots__ = ("_answered", "_may_take", "_owed", "_pass", "_passed", "_since", "_took", "_went")

    def __init__(self) -> None:
        self._owed = 0  # answered, and not seen again yet
        self._answered = False
        self._went = 0.0
        self._took = 0.0  # from the last that went on to the first answer after it
        self._since: float | None = None
        self._may_take = 0.0
        self._pass = 0  # pieces that do not wait although others are owed
        self._passed = 0  # how many those were the last time

    def answered(self, count: int) -> None:
        """So many were answered: they may ask again."""
        self._owed += count
        self._answered = True

    def pause(self, waiting: int, now: float, spacing: float) -> float:
        """Return for how long `waiting` should wait for more, in seconds; 0.0: it goes on now.

        To be asked at the end of each turn. `spacing`: how long things may wait for others on CPUs
        as busy as these.
        """
        if self._answered:
            self._answered = False
            self._took = now - self._went
        if not waiting:
            return 0.0
        if waiting < self._owed:
            if self._since is None:
                self._since = now
                self._may_take = 0.0 if self._pass else self._took / 2
                self._pass = max(0, self._pass - 1)
            left = self._since + min(WAIT_SECONDS_MAX, max(spacing, self._may_take)) - now
            if left > 0:
                return left
            if self._may_take:
                self._pass = self._passed = min(PASSED_MAX, 2 * self._passed + 1)
        elif self._since is not None:
            self._passed //= 2
        self._owed = 0
        self._since = None
        self._went = now
        return 0.0
