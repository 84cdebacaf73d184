"""Prometheus metrics of the actors themselves: `trouped_actor_*` from the board's latency areas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from transport.counters import Board
from transport.latency import Durations, Latency, busy_ns, read

BUCKET_BITS: Final = tuple(range(12, 36, 2))
"""Bounds of 2**bits ns: 4 us to 17 s, each four times the one before."""
_FAMILIES: Final = (
    ("trouped_actor_wait_seconds", "Time of messages in the mailbox.", Latency.WAIT),
    ("trouped_actor_work_seconds", "Time in handlers, per message.", Latency.WORK),
    ("trouped_actor_flush_seconds", "Time in the ends of batches.", Latency.FLUSH),
)


def actor_families(board: Board) -> Iterator[Metric]:
    """Yield the histograms and the busy time of all actors."""
    children = [name for name in board.names if name != "root"]
    for name, text, which in _FAMILIES:
        family = HistogramMetricFamily(name, text, labels=("actor",))
        for actor in children:
            durations = read(board, actor, which)
            family.add_metric((actor,), buckets(durations), durations.sum_ns / 1e9)
        yield family
    busy = CounterMetricFamily(
        "trouped_actor_busy_seconds",
        "Time in handlers, batches' ends and timers.",
        labels=("actor",),
    )
    for actor in children:
        busy.add_metric((actor,), busy_ns(board, actor) / 1e9)
    yield busy


def buckets(durations: Durations) -> list[tuple[str, float]]:
    """Return cumulative buckets; a duration of n bits is below 2**n ns."""
    found = []
    for bits in BUCKET_BITS:
        found.append((str((1 << bits) / 1e9), float(sum(durations.counts[: bits + 1]))))
    found.append(("+Inf", float(durations.count)))
    return found
