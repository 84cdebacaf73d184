"""What /metrics says of snapshots."""

from __future__ import annotations

from math import inf
from pathlib import Path

from actors.metrics import ApplierMetric, SnapshotterMetric
from actors.snapshot_metrics import snapshot_families, snapshot_times
from tests.actors.boards import make_board
from transport.counters import Cell


def test_times_stand_in_etcds_buckets(tmp_path: Path) -> None:
    board = make_board(tmp_path)
    times = snapshot_times(board, SnapshotterMetric.RECEIVE)

    for seconds in (0.05, 0.3, 40.0, 1000.0):
        times.observe(seconds)
    buckets, total = times.read()

    assert [round(bound, 3) for bound, _ in buckets] == [
        *(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, inf)
    ]
    assert [count for _, count in buckets] == [1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 4]
    assert abs(total - 1040.35) < 0.001


def test_every_word_has_its_family(tmp_path: Path) -> None:
    board = make_board(tmp_path)
    board.set("applier", Cell.METRICS + ApplierMetric.INSTALLS, 3)
    for word in SnapshotterMetric:
        if word < SnapshotterMetric.CHECKPOINT:
            board.set("snapshotter", Cell.METRICS + word, 1000 + word)

    values = {
        sample.value
        for family in snapshot_families(board)
        for sample in family.samples
        if not family.name.endswith("_seconds")
    }

    own = {SnapshotterMetric.CHECKPOINTS, SnapshotterMetric.DURABLE_INDEX}
    shown = {
        1000 + w for w in SnapshotterMetric if w < SnapshotterMetric.CHECKPOINT and w not in own
    }
    assert values == shown | {3}
