"""Figures of one run: exact percentiles of all latencies, and the worst request of each moment."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What one run of the load generator saw. Latencies in milliseconds.

    `ops` are the requests answered with OK inside the window of `seconds`; the latencies also hold
    those that were sent in the window and answered after it; `all_ops` has the warm-up's too.
    `errors` counts the others by text.
    `timeline` has one (start in seconds after `started`, answered requests, worst milliseconds) for
    each bin, by the time a request was due. `started` is CLOCK_MONOTONIC of this machine.
    """

    op: str
    ops: int
    seconds: float
    ops_per_second: float
    p50: float
    p90: float
    p99: float
    max: float
    all_ops: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    client_cpu_seconds: float = 0.0
    client_us_per_op: float = 0.0
    response_bytes: int = 0
    started: float = 0.0
    timeline: list[tuple[float, int, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> LoadResult:
        """Return what `to_dict` gave, after JSON made lists of its tuples."""
        bins = [(offset, count, peak) for offset, count, peak in found["timeline"]]
        return cls(**{**found, "timeline": bins})

    @property
    def failed(self) -> int:
        """Requests that got anything but OK."""
        return sum(self.errors.values())


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of an ascending sequence; NaN of an empty one."""
    if not ordered:
        return math.nan
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]


def write_samples(path: Path, due: array[float], latencies: array[float]) -> None:
    """Write one pair of doubles for each request: when it was due, how long it took; seconds."""
    pairs = array("d", (number for pair in zip(due, latencies, strict=True) for number in pair))
    path.write_bytes(pairs.tobytes())


def read_samples(path: Path) -> list[tuple[float, float]]:
    """Return what `write_samples` wrote."""
    numbers = array("d", path.read_bytes())
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def timeline(
    due: array[float], latencies: array[float], started: float, bin_seconds: float
) -> list[tuple[float, int, float]]:
    """Return (offset in seconds, count, worst milliseconds) of every bin that has a request."""
    bins: dict[int, tuple[int, float]] = {}
    for moment, latency in zip(due, latencies, strict=True):
        number = int((moment - started) // bin_seconds)
        count, worst = bins.get(number, (0, 0.0))
        bins[number] = (count + 1, max(worst, latency))
    return [
        (round(number * bin_seconds, 6), bins[number][0], round(bins[number][1] * 1000, 3))
        for number in sorted(bins)
    ]


def worst(bins: Sequence[tuple[float, int, float]], begin: float, end: float) -> float:
    """Return the worst latency due in [begin, end), in the unit of the bins; NaN when none was.

    A bin belongs to the window that holds its start.
    """
    return max((peak for offset, _, peak in bins if begin <= offset < end), default=math.nan)
