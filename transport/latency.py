"""How long messages wait and how long they take: a histogram of powers of two per actor.

A duration of n nanoseconds is counted in word `n.bit_length()`: one addition, no search, and no
value is out of range. Words are the actor's own (one writer); anyone may read them, also those of
the dead. What a reader interpolates from them is right to a few per cent in the middle of a bucket
and never off by more than a factor of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from transport.counters import LATENCY_WORDS, Board

BUCKETS: Final = 64


class Latency(IntEnum):
    """Words of an actor's latency area: three histograms, then sums in nanoseconds."""

    WAIT = 0
    """Between a message's sending and its handler's start."""
    WORK = BUCKETS
    """Inside the handlers of messages."""
    FLUSH = 2 * BUCKETS
    """Ends of batches: commits and syncs happen there."""
    WAIT_NS = 3 * BUCKETS
    WORK_NS = 3 * BUCKETS + 1
    FLUSH_NS = 3 * BUCKETS + 2
    TICK_NS = 3 * BUCKETS + 3


assert Latency.TICK_NS < LATENCY_WORDS


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram as it was read: `counts[i]` durations below 2**i ns, and their sum in ns."""

    counts: tuple[int, ...]
    sum_ns: int

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    def since(self, before: Durations) -> Durations:
        """Return what was added after `before` was read."""
        counts = tuple(
            max(0, now - then) for now, then in zip(self.counts, before.counts, strict=True)
        )
        return Durations(counts, max(0, self.sum_ns - before.sum_ns))

    def quantile(self, fraction: float) -> int | None:
        """Return a quantile in ns, interpolated within its bucket; None if nothing was counted."""
        return quantile(self.counts, fraction)


def read(board: Board, name: str, which: Latency) -> Durations:
    """Read one histogram of an actor: WAIT, WORK or FLUSH."""
    first = board.latency(name)
    counts = tuple(board.words[first + which : first + which + BUCKETS])
    total = Latency.WAIT_NS + which // BUCKETS
    return Durations(counts, board.words[first + total])


def busy_ns(board: Board, name: str) -> int:
    """Return the nanoseconds an actor has spent in handlers, batches' ends and timers."""
    first = board.latency(name)
    return sum(board.words[first + Latency.WORK_NS : first + Latency.TICK_NS + 1])


def quantile(counts: Sequence[int], fraction: float) -> int | None:
    """Return a quantile in ns of counts by bit length; None if they are all zero."""
    rank = sum(counts) * fraction
    if not rank:
        return None
    for bits, count in enumerate(counts):
        if count and rank <= count:
            low = (1 << bits) >> 1
            return low + round(low * rank / count)
        rank -= count
    return None
