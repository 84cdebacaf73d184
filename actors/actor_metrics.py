"""Prometheus metrics of the actors themselves: `trouped_actor_*` from the board's latency areas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from control.observe import cpu_seconds, doing_seconds, undelivered
from transport.counters import Board, Cell
from transport.latency import Durations, Latency, busy_ns, read

BUCKET_BITS: Final = tuple(range(12, 36, 2))
"""Bounds of 2**bits ns: 4 us to 17 s, each four times the one before."""
_FAMILIES: Final = (
    ("trouped_actor_wait_seconds", "Time of messages in the mailbox.", Latency.WAIT),
    ("trouped_actor_work_seconds", "Time in handlers, per message.", Latency.WORK),
    ("trouped_actor_flush_seconds", "Time in the ends of batches.", Latency.FLUSH),
)


def _oldest_seconds(board: Board, actor: str) -> float:
    sent = min((record.time_ns for _, record in undelivered(board, actor)), default=0)
    return max(0.0, (time.monotonic_ns() - sent) / 1e9) if sent else 0.0


_GAUGES: Final[tuple[tuple[str, str, Callable[[Board, str], float]], ...]] = (
    (
        "trouped_actor_incarnation",
        "How many processes it has had, this one among them.",
        lambda board, actor: board.get(actor, Cell.INCARNATION),
    ),
    (
        "trouped_actor_current_message_seconds",
        "Time in the handler it is in; 0 when idle.",
        doing_seconds,
    ),
    (
        "trouped_actor_oldest_message_seconds",
        "Age of the oldest message in its mailbox, as far as senders remember.",
        _oldest_seconds,
    ),
)


def actor_families(board: Board) -> Iterator[Metric]:
    """Yield the histograms, times and gauges of all actors."""
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
    cpu = CounterMetricFamily(
        "trouped_actor_cpu_seconds", "CPU time of its process.", labels=("actor",)
    )
    for actor in children:
        cpu.add_metric((actor,), cpu_seconds(board.get(actor, Cell.PID)))
    yield cpu
    for name, text, value in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=("actor",))
        for actor in children:
            gauge.add_metric((actor,), value(board, actor))
        yield gauge


def buckets(durations: Durations) -> list[tuple[str, float]]:
    """Return cumulative buckets; a duration of n bits is below 2**n ns."""
    found = []
    for bits in BUCKET_BITS:
        found.append((str((1 << bits) / 1e9), float(sum(durations.counts[: bits + 1]))))
    found.append(("+Inf", float(durations.count)))
    return found
