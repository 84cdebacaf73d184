"""What `/metrics` says of snapshots, from the snapshotter's words of the board.

etcd labels its network counters by peer; the words here are of all peers together, so only names
without such a label are etcd's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from actors.histograms import histogram
from actors.metrics import ApplierMetric, Scaled, SnapshotterMetric
from transport.counters import Board, Cell

_SCALES: Final = {
    SnapshotterMetric.MAKE: (10, 14),
    SnapshotterMetric.SEND: (100, 10),
    SnapshotterMetric.RECEIVE: (100, 10),
}
"""(divisor, size) of each in etcd; see Scaled."""
_HISTOGRAMS: Final = (
    (
        "etcd_disk_backend_snapshot_duration_seconds",
        "The latency distribution of backend snapshots.",
        SnapshotterMetric.MAKE,
    ),
    (
        "trouped_snapshot_send_duration_seconds",
        "The latency distribution of snapshots sent to other members.",
        SnapshotterMetric.SEND,
    ),
    (
        "etcd_snap_db_save_total_duration_seconds",
        "The total latency distributions of v3 snapshot save",
        SnapshotterMetric.RECEIVE,
    ),
)
_GAUGES: Final = (
    (
        "trouped_snapshot_sends_in_flight",
        "Members that are being sent a snapshot, or wait for one.",
        SnapshotterMetric.SENDING,
    ),
    (
        "trouped_snapshot_receives_in_flight",
        "Snapshots that are being received.",
        SnapshotterMetric.RECEIVING,
    ),
)
_COUNTERS: Final = (
    ("trouped_snapshot_files_made", "Snapshot files made.", SnapshotterMetric.FILES_MADE),
    ("trouped_snapshot_sends", "Snapshots sent.", SnapshotterMetric.SENT),
    ("trouped_snapshot_send_failures", "Sends that failed.", SnapshotterMetric.SEND_FAILURES),
    ("trouped_snapshot_sent_bytes", "Bytes of chunks sent.", SnapshotterMetric.SENT_BYTES),
    ("trouped_snapshot_receives", "Snapshots received.", SnapshotterMetric.RECEIVED),
    (
        "trouped_snapshot_receive_failures",
        "Receives that failed.",
        SnapshotterMetric.RECEIVE_FAILURES,
    ),
    (
        "trouped_snapshot_received_bytes",
        "Bytes of chunks received.",
        SnapshotterMetric.RECEIVED_BYTES,
    ),
    (
        "trouped_snapshot_rejected",
        "Messages of other members' snapshotters that were of no use.",
        SnapshotterMetric.REJECTED,
    ),
    ("trouped_database_files_purged", "Database files purged.", SnapshotterMetric.PURGED),
)


def snapshot_times(board: Board, word: SnapshotterMetric) -> Scaled:
    """Return one of the snapshotter's histograms, in etcd's buckets."""
    return Scaled(board, "snapshotter", word, *_SCALES[word])


def snapshot_families(board: Board) -> Iterator[Metric]:
    """Yield the metric families that are about snapshots."""

    def word(number: SnapshotterMetric) -> int:
        return board.get("snapshotter", Cell.METRICS + number)

    for name, text, number in _GAUGES:
        yield GaugeMetricFamily(name, text, value=word(number))
    for name, text, number in _COUNTERS:
        yield CounterMetricFamily(name, text, value=word(number))
    yield CounterMetricFamily(
        "trouped_snapshot_installs",
        "Received snapshots that the database went over to.",
        value=board.get("applier", Cell.METRICS + ApplierMetric.INSTALLS),
    )
    for name, text, number in _HISTOGRAMS:
        yield histogram(name, text, snapshot_times(board, number))
