"""What is counted of leases, and etcd's names for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from actors.metrics import ApplierMetric, LessorMetric
from kv.lease_ops import LeaseEvent, LeaseFact
from transport.counters import Board, Cell

TTL_BOUNDS: Final = tuple(1 << power for power in range(24))
"""Seconds: etcd's buckets of lease TTLs, 1 s to 3 months."""


class LeaseCounts:
    """The applier's words about leases: a count of TTLs per bucket, +Inf, then their sum."""

    def __init__(self, board: Board, name: str) -> None:
        self._words = board.words
        self._block = board.block(name) + Cell.METRICS

    def note(self, facts: Iterable[LeaseFact]) -> None:
        """Count what a batch did."""
        words, block = self._words, self._block
        for event, _, seconds, _ in facts:
            if event == LeaseEvent.GRANTED:
                words[block + ApplierMetric.LEASES_GRANTED] += 1
                first = block + ApplierMetric.LEASE_TTL
                words[first + bisect_left(TTL_BOUNDS, seconds)] += 1
                words[first + len(TTL_BOUNDS) + 1] += seconds
            elif event == LeaseEvent.REVOKED:
                words[block + ApplierMetric.LEASES_REVOKED] += 1

    def ttls(self) -> tuple[list[int], int]:
        """Return the count of each bucket (not cumulative) and the sum in seconds."""
        first = self._block + ApplierMetric.LEASE_TTL
        size = len(TTL_BOUNDS) + 1
        return [self._words[first + i] for i in range(size)], self._words[first + size]


def lease_families(board: Board) -> Iterator[Metric]:
    """Yield the metric families that are about leases."""
    counters: tuple[tuple[str, str, str, int], ...] = (
        (
            "etcd_debugging_lease_granted",
            "The total number of granted leases.",
            "applier",
            ApplierMetric.LEASES_GRANTED,
        ),
        (
            "etcd_debugging_lease_revoked",
            "The total number of revoked leases.",
            "applier",
            ApplierMetric.LEASES_REVOKED,
        ),
        (
            "etcd_debugging_lease_renewed",
            "The number of renewed leases seen by the leader.",
            "lessor",
            LessorMetric.RENEWED,
        ),
        (
            "etcd_debugging_server_lease_expired",
            "The total number of expired leases.",
            "lessor",
            LessorMetric.EXPIRED,
        ),
    )
    for name, text, actor, word in counters:
        yield CounterMetricFamily(name, text, value=board.get(actor, Cell.METRICS + word))
    counts, total = LeaseCounts(board, "applier").ttls()
    running = 0
    buckets = []
    for bound, count in zip([*(f"{float(b)}" for b in TTL_BOUNDS), "+Inf"], counts, strict=True):
        running += count
        buckets.append((bound, float(running)))
    family = HistogramMetricFamily(
        "etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs."
    )
    family.add_metric((), buckets, total)
    yield family
