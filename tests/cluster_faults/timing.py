"""The members' timeouts in these tests, and figures as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks import latency

ELECTION_SECONDS: Final = 0.5
# A fifth of etcd's defaults would be less than a busy machine's hiccups.
FAST: Final = ("--heartbeat-interval=50", f"--election-timeout={ELECTION_SECONDS * 1e3:.0f}")
DEFAULT_ELECTION_SECONDS: Final = 1.0  # etcd's --election-timeout when nothing is said


def percentile(numbers: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of at least one number."""
    return latency.percentile(sorted(numbers), percent)


def milliseconds(numbers: Sequence[float]) -> str:
    """Return p50, p90, p99 and the greatest of some seconds, in ms."""
    shown = [f"p{p} {percentile(numbers, p) * 1e3:.0f}" for p in (50, 90, 99)]
    return f"{', '.join(shown)}, max {max(numbers) * 1e3:.0f} ms (n={len(numbers)})"
