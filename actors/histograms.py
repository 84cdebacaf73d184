"""Histograms of the board as metric families."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric

from actors.metrics import CompactorMetric, GatewayMetric, Scaled
from transport.counters import Board

MILLISECONDS: Final = 1000.0


def histogram(name: str, text: str, *parts: Scaled, unit: float = 1.0) -> Metric:
    """Return one family of all `parts` together; `unit` is how many of its units are a second."""
    read = [part.read() for part in parts]
    bounds = [bound for bound, _ in read[0][0]]
    counts = [sum(column) for column in zip(*(_counts(one) for one, _ in read), strict=True)]
    buckets = [(_bound(bound * unit), count) for bound, count in zip(bounds, counts, strict=True)]
    family = HistogramMetricFamily(name, text)
    family.add_metric((), buckets, sum(total for _, total in read) * unit)
    return family


def _counts(buckets: Iterable[tuple[float, float]]) -> list[float]:
    return [count for _, count in buckets]


def _bound(value: float) -> str:
    return "+Inf" if value == inf else f"{round(value, 3):g}"


def compaction_pause(board: Board) -> Scaled:
    """How long the applier took for each slice of pruning, with its waiting for its turn."""
    return Scaled(board, "compactor", CompactorMetric.PAUSE, 1, 13)


def compaction_total(board: Board) -> Scaled:
    """How long each pruning took from beginning to end."""
    return Scaled(board, "compactor", CompactorMetric.TOTAL, 100, 14)


def hash_times(board: Board, gateway: str) -> Scaled:
    """How long HashKV took at one gateway."""
    return Scaled(board, gateway, GatewayMetric.HASH_REV, 10, 14)
