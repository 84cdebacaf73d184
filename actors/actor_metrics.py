"""Prometheus metrics of the actors themselves: `trouped_actor_*`, all that `troupectl top` shows.

Everything is on the board or in /proc and is read when asked; what top shows as a rate or a
quantile is a counter or a histogram here. Counts go on over restarts.
"""

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

from actors.metrics import GatewayMetric
from actors.observing import MESSAGE_NAMES
from control.observe import cpu_seconds, doing_seconds, is_stopped, undelivered
from transport.counters import Board, Cell, Edge
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


def _in(*words: Edge) -> Callable[[Board, str], float]:
    """Return what sums words over the edges to an actor."""
    return lambda board, actor: sum(
        board.words[board.edge(peer, actor) + word] for peer in board.names for word in words
    )


def _out(*words: Edge) -> Callable[[Board, str], float]:
    """Return what sums words over the edges from an actor."""
    return lambda board, actor: sum(
        board.words[board.edge(actor, peer) + word] for peer in board.names for word in words
    )


_Value = Callable[[Board, str], float]
_COUNTERS: Final[tuple[tuple[str, str, _Value], ...]] = (
    (
        "trouped_actor_busy_seconds",
        "Time in handlers, batches' ends and timers.",
        lambda board, actor: busy_ns(board, actor) / 1e9,
    ),
    (
        "trouped_actor_cpu_seconds",
        "CPU time of its process.",
        lambda board, actor: cpu_seconds(board.get(actor, Cell.PID)),
    ),
    (
        "trouped_actor_received",
        "Messages taken from other actors.",
        _in(Edge.HANDLED, Edge.HANDLED_ENDED),
    ),
    (
        "trouped_actor_received_requests",
        "Requests in the messages taken from other actors.",
        _in(Edge.HANDLED_ITEMS),
    ),
    (
        "trouped_actor_sent",
        "Messages sent to other actors.",
        _out(Edge.SENT, Edge.SENT_ENDED),
    ),
    (
        "trouped_actor_dropped",
        "Messages to it that its senders dropped.",
        _in(Edge.DROPPED),
    ),
    (
        "trouped_actor_lost",
        "Messages to it in streams that died before it took them.",
        lambda board, actor: sum(board.lost(peer, actor) for peer in board.names),
    ),
    (
        "trouped_actor_expired",
        "Requests it gave up because their time was over; gateways do.",
        lambda board, actor: (
            board.get(actor, Cell.METRICS + GatewayMetric.EXPIRED)
            if actor.startswith("gateway-")
            else 0
        ),
    ),
)
_GAUGES: Final[tuple[tuple[str, str, _Value], ...]] = (
    (
        "trouped_actor_pid",
        "Its process.",
        lambda board, actor: board.get(actor, Cell.PID),
    ),
    (
        "trouped_actor_frozen",
        "Whether its process is stopped by a signal or a debugger.",
        lambda board, actor: is_stopped(board.get(actor, Cell.PID)),
    ),
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


def actor_families(board: Board, memory: Callable[[str], int]) -> Iterator[Metric]:
    """Yield all that `troupectl top` shows of actors; `memory` tells PSS bytes, or -1."""
    children = [name for name in board.names if name != "root"]
    for name, text, which in _FAMILIES:
        family = HistogramMetricFamily(name, text, labels=("actor",))
        for actor in children:
            durations = read(board, actor, which)
            family.add_metric((actor,), buckets(durations), durations.sum_ns / 1e9)
        yield family
    for name, text, value in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=("actor",))
        for actor in children:
            counter.add_metric((actor,), value(board, actor))
        yield counter
    for name, text, value in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=("actor",))
        for actor in children:
            gauge.add_metric((actor,), value(board, actor))
        yield gauge
    pss = GaugeMetricFamily(
        "trouped_actor_pss_bytes",
        "Its process's proportional share of memory, at most some seconds old.",
        labels=("actor",),
    )
    for actor in children:
        if (size := memory(actor)) >= 0:
            pss.add_metric((actor,), size)
    yield pss
    yield _current_messages(board, children)


def _current_messages(board: Board, children: list[str]) -> Metric:
    """Tell by type what each actor is at; an idle one has no sample."""
    family = GaugeMetricFamily(
        "trouped_actor_current_message", "1 while it is at one.", labels=("actor", "message")
    )
    for actor in children:
        if tag := board.get(actor, Cell.TAG):
            family.add_metric((actor, MESSAGE_NAMES.get(tag, f"message {tag}")), 1)
    return family


def buckets(durations: Durations) -> list[tuple[str, float]]:
    """Return cumulative buckets; a duration of n bits is below 2**n ns."""
    found = []
    for bits in BUCKET_BITS:
        found.append((str((1 << bits) / 1e9), float(sum(durations.counts[: bits + 1]))))
    found.append(("+Inf", float(durations.count)))
    return found
