"""Turns and ratios: how two servers are compared on a machine whose speed drifts.

The servers take turns as A B, B A, A B, ... so that a drift hurts both alike, and each pair gives
one ratio. The runs of one server that follow each other give the noise: their true ratio is 1.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of some numbers."""

    median: float
    least: float
    greatest: float


def turns(pairs: int) -> list[tuple[int, int]]:
    """Return who runs first and second in each pair: (0, 1), (1, 0), (0, 1), ..."""
    return [(0, 1) if number % 2 == 0 else (1, 0) for number in range(pairs)]


def spread(numbers: Sequence[float]) -> Spread:
    """Return the spread of at least one number. Raises ValueError of none."""
    if not numbers:
        raise ValueError("no numbers, no spread")
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def ratios(subject: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return subject / reference pair by pair. Raises ValueError when the lengths differ."""
    return [above / below for above, below in zip(subject, reference, strict=True)]


def noise(runs: Sequence[float]) -> list[float]:
    """Return each run / the run before it, of the same server under the same load."""
    return [later / earlier for earlier, later in itertools.pairwise(runs)]
