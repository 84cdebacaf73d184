"""`/metrics` of the whole member, from the board: whichever gateway is asked gives the same answer.

etcd's names where the value exists here, then the actors' own (`trouped_*`). Nothing is counted for
Prometheus on a hot path: the words are there anyway, and this module reads them when asked.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from actors import client_requests
from actors.actor_metrics import actor_families
from actors.call_counts import RECEIVED, SENT, STARTED
from actors.gateway_status import MemberWords
from actors.histograms import (
    MILLISECONDS,
    compaction_pause,
    compaction_total,
    hash_times,
    histogram,
)
from actors.lease_metrics import lease_families
from actors.metrics import (
    BUCKET_SECONDS,
    ApplierMetric,
    CompactorMetric,
    GatewayMetric,
    Histogram,
    RaftMetric,
    SnapshotterMetric,
)
from actors.peer_metrics import peer_families
from actors.snapshot_metrics import snapshot_families
from kv.errors import Code
from kv.version import VERSION
from transport.counters import Board, Cell, Edge

GAUGES: Final[tuple[tuple[str, str, RaftMetric | ApplierMetric], ...]] = (
    ("etcd_server_is_leader", "Whether this member leads.", RaftMetric.IS_LEADER),
    (
        "etcd_server_proposals_committed_total",
        "The committed index.",
        RaftMetric.COMMITTED_INDEX,
    ),
    ("etcd_server_proposals_applied_total", "The applied index.", ApplierMetric.APPLIED_INDEX),
    (
        "etcd_debugging_mvcc_current_revision",
        "The revision of the store.",
        ApplierMetric.REVISION,
    ),
    (
        "etcd_debugging_mvcc_compact_revision",
        "The revision up to which history is compacted.",
        ApplierMetric.COMPACT_REVISION,
    ),
    (
        "etcd_disk_wal_write_bytes_total",
        "Bytes of entries appended to the log.",
        RaftMetric.WAL_BYTES,
    ),
    (
        "etcd_server_snapshot_apply_in_progress_total",
        "1 while a received snapshot is being installed.",
        ApplierMetric.INSTALLING,
    ),
    ("trouped_database_wal_frames", "Pages in the database's log.", ApplierMetric.WAL_FRAMES),
    ("trouped_raft_snapshot_index", "Index of the last snapshot.", RaftMetric.SNAPSHOT_INDEX),
)
COUNTERS: Final[tuple[tuple[str, str, RaftMetric | ApplierMetric], ...]] = (
    ("etcd_server_leader_changes_seen", "Leader changes seen.", RaftMetric.LEADER_CHANGES),
    ("etcd_server_proposals_failed", "Proposals that failed.", RaftMetric.PROPOSALS_FAILED),
    (
        "etcd_server_heartbeat_send_failures",
        "Heartbeats that were sent too late.",
        RaftMetric.HEARTBEATS_LATE,
    ),
    (
        "etcd_server_slow_apply",
        "Batches that took longer to apply than --warning-apply-duration.",
        ApplierMetric.SLOW_APPLIES,
    ),
    ("etcd_mvcc_put", "Puts applied by this member.", ApplierMetric.PUTS),
    ("etcd_mvcc_delete", "Deletes applied by this member.", ApplierMetric.DELETES),
    ("etcd_mvcc_txn", "Txns applied by this member.", ApplierMetric.TXNS),
    (
        "etcd_debugging_mvcc_db_compaction_keys",
        "Rows of history removed by compaction.",
        ApplierMetric.PRUNED_KEYS,
    ),
    ("trouped_wal_entries", "Entries (batches) appended to the log.", RaftMetric.WAL_ENTRIES),
    ("trouped_wal_bytes", "Bytes of entries appended to the log.", RaftMetric.WAL_BYTES),
    ("trouped_requests", "Requests proposed to the raft node.", RaftMetric.REQUESTS),
)


RANGE: Final = "/etcdserverpb.KV/Range"
Totals = Callable[[], dict[tuple[str, str], dict[int, int]]]
WATCH_GAUGES: Final = (
    ("watcher_total", "Total number of watchers.", GatewayMetric.WATCHERS),
    ("watch_stream_total", "Total number of watch streams.", GatewayMetric.WATCH_STREAMS),
    (
        "slow_watcher_total",
        "Total number of unsynced slow watchers.",
        GatewayMetric.SLOW_WATCHERS,
    ),
)
# Of etcd's counters these have no `_total` at their end, which the library would add.
PLAIN_COUNTERS: Final = (
    (
        "etcd_server_health_success",
        "The total number of successful health checks",
        GatewayMetric.HEALTH_SUCCESS,
    ),
    (
        "etcd_server_health_failures",
        "The total number of failed health checks",
        GatewayMetric.HEALTH_FAILURES,
    ),
)


class MemberCollector(Collector):
    """Turns the words of one board into metric families."""

    def __init__(
        self,
        board: Board,
        status: MemberWords,
        call_counts: Totals,
        memory: Callable[[str], int] = lambda actor: -1,
    ) -> None:
        """`call_counts` is CallCounts.total: what all gateways have done for clients.

        `memory` tells an actor's PSS in bytes, -1 if it is not known.
        """
        self._memory = memory
        self._board = board
        self._status = status
        self._call_counts = call_counts
        self._gateway_names = [name for name in board.names if name.startswith("gateway-")]

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        status = self._status
        yield _gauge(
            "etcd_server_has_leader", "Whether a leader is known.", int(status.leader != 0)
        )
        yield _gauge(
            "etcd_server_is_learner", "Whether this member is a learner.", int(status.is_learner)
        )
        yield _labelled("etcd_server_version", "Version.", "server_version", VERSION)
        if status.cluster_version:
            running, _, _ = status.cluster_version.rpartition(".")  # major and minor, as in etcd
            yield _labelled("etcd_cluster_version", "Cluster version.", "cluster_version", running)
        yield _labelled("etcd_server_id", "Member id.", "server_id", f"{status.member_id:x}")
        yield _gauge("etcd_server_quota_backend_bytes", "Quota.", status.quota_bytes)
        yield _gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the database.", status.db_bytes)
        yield _gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Size of the database in use.",
            status.db_in_use_bytes,
        )
        for name, text, word in GAUGES:
            yield _gauge(name, text, self._word(word))
        for name, text, word in COUNTERS:
            yield _counter(name, text, self._word(word))
        yield from lease_families(self._board)
        yield from snapshot_families(self._board)
        yield from peer_families(self._board, status.member_id)
        yield from self._compaction()
        yield from self._gateways()
        yield from self._histograms()
        yield from self._actors()
        yield from self._edges()

    def _word(self, word: RaftMetric | ApplierMetric) -> int:
        if isinstance(word, RaftMetric):
            return self._status.raft(word)
        return self._status.applier(word)

    def total(self, word: GatewayMetric) -> int:
        """Return a word summed over all gateways."""
        board = self._board
        return sum(board.get(name, Cell.METRICS + word) for name in self._gateway_names)

    def _compaction(self) -> Iterator[Metric]:
        board = self._board
        name = "etcd_debugging_mvcc_db_compaction"
        last = board.get("compactor", Cell.METRICS + CompactorMetric.LAST_SECONDS)
        yield _gauge(f"{name}_last", "Unix time of the last pruning of history.", last)
        yield histogram(
            f"{name}_pause_duration_milliseconds",
            "Slices of pruning.",
            compaction_pause(board),
            unit=MILLISECONDS,
        )
        yield histogram(
            f"{name}_total_duration_milliseconds",
            "Prunings from beginning to end.",
            compaction_total(board),
            unit=MILLISECONDS,
        )

    def _gateways(self) -> Iterator[Metric]:
        total = self.total
        yield _gauge(
            "etcd_server_proposals_pending", "Proposals waiting.", total(GatewayMetric.PENDING)
        )
        yield _counter(
            "etcd_server_slow_read_indexes",
            "Read indexes asked again.",
            total(GatewayMetric.SLOW_READ_INDEXES),
        )
        yield _counter(
            "etcd_server_read_indexes_failed",
            "Rounds of reads given up.",
            total(GatewayMetric.READ_INDEXES_FAILED),
        )
        yield histogram(
            "etcd_mvcc_hash_rev_duration_seconds",
            "HashKV, from the request to the hash.",
            *(hash_times(self._board, name) for name in self._gateway_names),
        )
        yield _counter(
            "etcd_network_client_grpc_received_bytes",
            "Bytes from clients.",
            total(GatewayMetric.RECEIVED_BYTES),
        )
        yield _counter(
            "etcd_network_client_grpc_sent_bytes",
            "Bytes to clients.",
            total(GatewayMetric.SENT_BYTES),
        )
        yield _counter(
            "trouped_reproposed", "Requests proposed again.", total(GatewayMetric.REPROPOSED)
        )
        yield _counter(
            "trouped_expired", "Requests whose time was over.", total(GatewayMetric.EXPIRED)
        )
        requests = CounterMetricFamily(
            "etcd_server_client_requests",
            "The total number of client requests per client version.",
            labels=("type", "client_api_version"),
        )
        for labels, count in sorted(client_requests.total(self._board).items()):
            requests.add_metric(labels, count)
        yield requests
        for name, text, word in WATCH_GAUGES:
            yield _gauge(f"etcd_debugging_mvcc_{name}", text, total(word))
        yield _counter(
            "etcd_debugging_mvcc_events",
            "Total number of events sent by this member.",
            total(GatewayMetric.WATCH_EVENTS),
        )
        yield from self._calls()

    def _calls(self) -> Iterator[Metric]:
        calls = sorted(self._call_counts().items())
        ranges = sum(counts.get(Code.OK, 0) for (path, _), counts in calls if path == RANGE)
        yield _counter("etcd_mvcc_range", "Range calls served.", ranges)
        labels = ("grpc_method", "grpc_service", "grpc_type")
        families = (
            ("grpc_server_started", "Calls begun.", STARTED),
            ("grpc_server_msg_received", "Messages received.", RECEIVED),
            ("grpc_server_msg_sent", "Messages sent.", SENT),
        )
        for name, text, what in families:
            family = CounterMetricFamily(name, text, labels=labels)
            for (path, kind), counts in calls:
                _, service, method = path.split("/")
                family.add_metric((method, service, kind), counts.get(what, 0))
            yield family
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls answered.", labels=("grpc_code", *labels)
        )
        for (path, kind), counts in calls:
            _, service, method = path.split("/")
            for code, count in sorted(({Code.OK: 0} | counts).items()):
                if code <= max(Code):
                    handled.add_metric((code_name(code), method, service, kind), count)
        yield handled

    def _histograms(self) -> Iterator[Metric]:
        board = self._board
        for name, text, actor, word in (
            ("etcd_disk_wal_fsync_duration_seconds", "fsyncs.", "raft-node", RaftMetric.FSYNC),
            (
                "etcd_disk_wal_write_duration_seconds",
                "Writes of the log, one a batch.",
                "raft-node",
                RaftMetric.WAL_WRITE,
            ),
            (
                "etcd_disk_backend_commit_duration_seconds",
                "Commits of the database.",
                "applier",
                ApplierMetric.COMMIT,
            ),
            (
                "trouped_checkpoint_duration_seconds",
                "Checkpoints of the database.",
                "snapshotter",
                SnapshotterMetric.CHECKPOINT,
            ),
        ):
            counts, total = Histogram(board, actor, word).read()
            running = 0
            buckets = []
            bounds = [*(str(bound) for bound in BUCKET_SECONDS), "+Inf"]
            for bound, count in zip(bounds, counts, strict=True):
                running += count
                buckets.append((bound, float(running)))
            family = HistogramMetricFamily(name, text)
            family.add_metric((), buckets, total)
            yield family
            if word == RaftMetric.FSYNC and actor == "raft-node":
                yield _counter("trouped_wal_fsyncs", "fdatasyncs of the log.", running)

    def _actors(self) -> Iterator[Metric]:
        families = (
            (GaugeMetricFamily, "trouped_actor_state", "0 stopped to 5 failed.", Cell.STATE),
            (CounterMetricFamily, "trouped_actor_restarts", "Restarts.", Cell.RESTARTS),
            (CounterMetricFamily, "trouped_actor_handled", "Messages handled.", Cell.HANDLED),
            (CounterMetricFamily, "trouped_actor_batches", "Batches.", Cell.BATCHES),
        )
        children = [name for name in self._board.names if name != "root"]
        for family_type, name, text, cell in families:
            family = family_type(name, text, labels=("actor",))
            for actor in children:
                family.add_metric((actor,), self._board.get(actor, cell))
            yield family
        depth = GaugeMetricFamily("trouped_actor_mailbox_depth", "Depth.", labels=("actor",))
        for actor in children:
            depth.add_metric((actor,), self._board.depth(actor))
        yield depth
        yield from actor_families(self._board, self._memory)
        yield from self._process()

    def _process(self) -> Iterator[Metric]:
        """Yield what etcd's one process has, and a member of several in sum."""
        known = [size for size in map(self._memory, self._board.names) if size >= 0]
        if known:
            text = "The proportional shares of memory of all actors and root."
            yield _gauge("process_resident_memory_bytes", text, sum(known))
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if Path("/proc/self/fd").exists():
            yield _gauge("os_fd_used", "Open descriptors.", descriptors_used(limit))
        yield _gauge("os_fd_limit", "The most descriptors that may be open.", limit)

    def _edges(self) -> Iterator[Metric]:
        board = self._board
        for name, text, word in (
            ("trouped_edge_sent", "Messages of the living stream.", Edge.SENT),
            ("trouped_edge_items", "Requests in messages sent.", Edge.SENT_ITEMS),
            ("trouped_edge_dropped", "Messages dropped by the sender.", Edge.DROPPED),
            ("trouped_edge_gaps", "Gaps seen by the receiver.", Edge.GAPS),
        ):
            family = CounterMetricFamily(name, text, labels=("from", "to"))
            for sender in board.names:
                for receiver in board.names:
                    value = board.words[board.edge(sender, receiver) + word]
                    if value:
                        family.add_metric((sender, receiver), value)
            yield family
        lost = CounterMetricFamily(
            "trouped_edge_lost", "Messages of dead streams.", labels=("from", "to")
        )
        for sender in board.names:
            for receiver in board.names:
                if value := board.lost(sender, receiver):
                    lost.add_metric((sender, receiver), value)
        yield lost


def descriptors_used(limit: int) -> int:
    """Count this process's descriptors; when there is none left to count by, all are used."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return limit


def code_name(code: int) -> str:
    """Return a gRPC code as grpc-go spells it: OK, NotFound, DeadlineExceeded."""
    name = Code(code).name
    return name if name == "OK" else name.title().replace("_", "")


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, value: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    family.add_metric((value,), 1)
    return family


def exposition(collector: MemberCollector) -> bytes:
    """Return the Prometheus text of one member."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    plain = [
        f"# HELP {name} {text}\n# TYPE {name} counter\n{name} {float(collector.total(word))}\n"
        for name, text, word in PLAIN_COUNTERS
    ]
    return generate_latest(registry) + "".join(plain).encode()
