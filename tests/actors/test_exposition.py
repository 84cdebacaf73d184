"""/metrics: etcd's names, types and labels; the figures of the whole member."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.call_counts import PAIRS_MAX, CallCounts
from actors.client_requests import PAIRS_MAX as PAIRS
from actors.client_requests import ClientRequests
from actors.exposition import MemberCollector, code_name, exposition
from actors.gateway_status import MemberWords
from actors.histograms import compaction_pause, compaction_total, hash_times
from actors.metrics import (
    ApplierMetric,
    CompactorMetric,
    GatewayMetric,
    Histogram,
    PeerMetric,
    RaftMetric,
    TransportMetric,
)
from api.grpc import Method
from api.interceptors import Interceptor
from kv.errors import NO_LEADER, NOT_SUPPORTED_FOR_LEARNER, Code
from tests.actors.boards import make_board
from transport.counters import Board, Cell

PUT, RANGE = b"/etcdserverpb.KV/Put", b"/etcdserverpb.KV/Range"
# Name as in the TYPE line -> type.
ETCD = {
    "etcd_cluster_version": "gauge",
    "etcd_debugging_lease_granted_total": "counter",
    "etcd_debugging_lease_renewed_total": "counter",
    "etcd_debugging_lease_revoked_total": "counter",
    "etcd_debugging_lease_ttl_total": "histogram",
    "etcd_debugging_mvcc_compact_revision": "gauge",
    "etcd_debugging_mvcc_current_revision": "gauge",
    "etcd_debugging_mvcc_db_compaction_keys_total": "counter",
    "etcd_debugging_mvcc_db_compaction_last": "gauge",
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": "histogram",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": "histogram",
    "etcd_debugging_mvcc_events_total": "counter",
    "etcd_debugging_mvcc_slow_watcher_total": "gauge",
    "etcd_debugging_mvcc_watch_stream_total": "gauge",
    "etcd_debugging_mvcc_watcher_total": "gauge",
    "etcd_debugging_server_lease_expired_total": "counter",
    "etcd_disk_backend_commit_duration_seconds": "histogram",
    "etcd_disk_backend_snapshot_duration_seconds": "histogram",
    "etcd_disk_wal_fsync_duration_seconds": "histogram",
    "etcd_disk_wal_write_bytes_total": "gauge",
    "etcd_disk_wal_write_duration_seconds": "histogram",
    "etcd_mvcc_db_total_size_in_bytes": "gauge",
    "etcd_mvcc_db_total_size_in_use_in_bytes": "gauge",
    "etcd_mvcc_delete_total": "counter",
    "etcd_mvcc_hash_rev_duration_seconds": "histogram",
    "etcd_mvcc_put_total": "counter",
    "etcd_mvcc_range_total": "counter",
    "etcd_mvcc_txn_total": "counter",
    "etcd_network_active_peers": "gauge",
    "etcd_network_client_grpc_received_bytes_total": "counter",
    "etcd_network_client_grpc_sent_bytes_total": "counter",
    "etcd_network_known_peers": "gauge",
    "etcd_network_peer_received_bytes_total": "counter",
    "etcd_network_peer_sent_bytes_total": "counter",
    "etcd_network_peer_sent_failures_total": "counter",
    "etcd_server_client_requests_total": "counter",
    "etcd_server_has_leader": "gauge",
    "etcd_server_health_failures": "counter",
    "etcd_server_health_success": "counter",
    "etcd_server_heartbeat_send_failures_total": "counter",
    "etcd_server_id": "gauge",
    "etcd_server_is_leader": "gauge",
    "etcd_server_is_learner": "gauge",
    "etcd_server_leader_changes_seen_total": "counter",
    "etcd_server_proposals_applied_total": "gauge",
    "etcd_server_proposals_committed_total": "gauge",
    "etcd_server_proposals_failed_total": "counter",
    "etcd_server_proposals_pending": "gauge",
    "etcd_server_quota_backend_bytes": "gauge",
    "etcd_server_read_indexes_failed_total": "counter",
    "etcd_server_slow_apply_total": "counter",
    "etcd_server_slow_read_indexes_total": "counter",
    "etcd_server_snapshot_apply_in_progress_total": "gauge",
    "etcd_server_version": "gauge",
    "etcd_snap_db_save_total_duration_seconds": "histogram",
    "grpc_server_handled_total": "counter",
    "grpc_server_msg_received_total": "counter",
    "grpc_server_msg_sent_total": "counter",
    "grpc_server_started_total": "counter",
    "os_fd_limit": "gauge",
    "os_fd_used": "gauge",
}
_NO_BBOLT = "SQLite has no such step"
_NO_V2 = "of the store before v3, always 0 in etcd"
_BATCHED = "what is applied and read together is not timed apart"
_PROXY = "of etcd's grpc-proxy"
ABSENT = {
    "etcd_debugging_auth_revision": "authentication is not built",
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds": _NO_BBOLT,
    "etcd_debugging_disk_backend_commit_spill_duration_seconds": _NO_BBOLT,
    "etcd_debugging_disk_backend_commit_write_duration_seconds": _NO_BBOLT,
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": "no index in memory",
    "etcd_debugging_mvcc_keys_total": "nobody counts them: it would cost each put",
    "etcd_debugging_mvcc_pending_events_total": "a slow watcher is a cursor, nothing is pending",
    "etcd_debugging_mvcc_total_put_size_in_bytes": "nobody counts them: it would cost each put",
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds": _BATCHED,
    "etcd_debugging_server_watch_send_loop_progress_duration_seconds": _BATCHED,
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds": _BATCHED,
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds": _BATCHED,
    "etcd_debugging_snap_save_marshalling_duration_seconds": "a snapshot is a record of the log",
    "etcd_debugging_snap_save_total_duration_seconds": "a snapshot is a record of the log",
    "etcd_debugging_store_expires_total": _NO_V2,
    "etcd_debugging_store_watch_requests_total": _NO_V2,
    "etcd_debugging_store_watchers": _NO_V2,
    "etcd_disk_backend_defrag_duration_seconds": "Defragment is not built",
    "etcd_disk_defrag_inflight": "Defragment is not built",
    "etcd_grpc_proxy_cache_hits_total": _PROXY,
    "etcd_grpc_proxy_cache_keys_total": _PROXY,
    "etcd_grpc_proxy_cache_misses_total": _PROXY,
    "etcd_grpc_proxy_events_coalescing_total": _PROXY,
    "etcd_grpc_proxy_watchers_coalescing_total": _PROXY,
    "etcd_mvcc_db_open_read_transactions": "a gateway's views live for a turn",
    "etcd_mvcc_hash_duration_seconds": "Maintenance.Hash is not built",
    "etcd_network_peer_round_trip_time_seconds": "of each link only the newest is known",
    "etcd_server_apply_duration_seconds": _BATCHED,
    "etcd_server_go_version": "no Go",
    "etcd_server_learner_promote_successes": "MemberPromote is not built",
    "etcd_server_range_duration_seconds": _BATCHED,
    "etcd_server_request_duration_seconds": _BATCHED,
    "etcd_snap_db_fsync_duration_seconds": "chunks are synced as they come",
    "etcd_snap_fsync_duration_seconds": "a snapshot is a record of the log",
    "grpc_server_handling_seconds": "no clock for each request; --metrics=extensive says so",
}
"""What dashboards may ask for and do not find, and why."""


def router() -> dict[bytes, Method]:
    return {path: Method.unary(lambda call, message: None) for path in (PUT, RANGE)}


def answer(method: Method, code: Code, count: int = 1) -> None:
    method.started += count
    method.received += count
    method.sent += count if code == Code.OK else 0
    method.handled[code] += count


class Member:
    """A board, and what each of two gateways would answer."""

    def __init__(self, folder: Path) -> None:
        self.board = make_board(folder)
        self.status = MemberWords(self.board, 2 << 30)
        self.status.cluster_version = "3.6.0"
        self.routers = [router(), router()]
        self.counts = [
            CallCounts(self.board, f"gateway-{slot}", self.routers[slot]) for slot in range(2)
        ]

    def page(self, slot: int = 0, memory: Callable[[str], int] = lambda actor: -1) -> str:
        status, total = self.status, self.counts[slot].total
        return exposition(MemberCollector(self.board, status, total, memory)).decode()


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def value(page: str, name: str, **labels: str) -> float:
    """Return the value of one sample."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    raise AssertionError(f"no sample {name} {labels}")


def set_word(board: Board, name: str, word: int, value: int) -> None:
    board.set(name, Cell.METRICS + word, value)


def test_etcds_names_are_there_with_etcds_types(member: Member) -> None:
    answer(member.routers[0][PUT], Code.OK)

    page = member.page()

    types = dict(line.split()[2:] for line in page.splitlines() if line.startswith("# TYPE"))
    assert {name: types.get(name) for name in ETCD} == ETCD


def test_what_is_said_to_be_absent_is(member: Member) -> None:
    page = member.page()

    assert [name for name in ABSENT if f"# TYPE {name} " in page or f"{name} " in page] == []


def test_calls_that_nobody_made_yet_are_zero(member: Member) -> None:
    page = member.page()

    for name in ("started", "handled", "msg_received", "msg_sent"):
        assert value(page, f"grpc_server_{name}_total", grpc_method="Range") == 0


def test_compactions_and_hashes_are_told_in_etcds_buckets(member: Member) -> None:
    compaction_pause(member.board).observe(0.003)
    compaction_total(member.board).observe(0.15)
    set_word(member.board, "compactor", CompactorMetric.LAST_SECONDS, 1_700_000_000)
    for slot in range(2):
        hash_times(member.board, f"gateway-{slot}").observe(0.03)

    page = member.page()

    name = "etcd_debugging_mvcc_db_compaction"
    assert value(page, f"{name}_last") == 1_700_000_000
    pauses = f"{name}_pause_duration_milliseconds"
    assert [value(page, f"{pauses}_bucket", le=bound) for bound in ("2", "4", "4096")] == [0, 1, 1]
    assert value(page, f"{pauses}_sum") == pytest.approx(3.0)
    totals = f"{name}_total_duration_milliseconds"
    bounds = ("100", "200", "819200", "+Inf")
    assert [value(page, f"{totals}_bucket", le=bound) for bound in bounds] == [0, 1, 1, 1]
    hashes = "etcd_mvcc_hash_rev_duration_seconds"
    bounds = ("0.02", "0.04", "81.92", "+Inf")
    assert [value(page, f"{hashes}_bucket", le=bound) for bound in bounds] == [0, 2, 2, 2]


def test_every_sample_belongs_to_a_family_with_help_and_type(member: Member) -> None:
    answer(member.routers[0][PUT], Code.OK)

    families = list(text_string_to_metric_families(member.page()))

    assert all(family.documentation and family.type != "unknown" for family in families)


def test_calls_are_those_of_all_gateways_whichever_is_asked(member: Member) -> None:
    answer(member.routers[0][PUT], Code.OK, 3)
    answer(member.routers[1][PUT], Code.OK, 4)
    answer(member.routers[1][RANGE], Code.NOT_FOUND)
    for counts in member.counts:
        counts.publish()

    pages = [member.page(0), member.page(1)]

    for page in pages:
        assert value(page, "grpc_server_handled_total", grpc_method="Put") == 7
        assert value(page, "grpc_server_started_total", grpc_method="Range") == 1
        assert value(page, "grpc_server_msg_sent_total", grpc_method="Put") == 7
        labels = {
            "grpc_code": "NotFound",
            "grpc_method": "Range",
            "grpc_service": "etcdserverpb.KV",
            "grpc_type": "unary",
        }
        assert value(page, "grpc_server_handled_total", **labels) == 1
        assert value(page, "etcd_mvcc_range_total") == 0


def test_a_restarted_gateway_goes_on_counting_where_its_predecessor_stopped(
    member: Member,
) -> None:
    answer(member.routers[0][PUT], Code.OK, 3)
    member.counts[0].publish()

    successor = router()
    counts = CallCounts(member.board, "gateway-0", successor)
    answer(successor[PUT], Code.OK, 2)
    counts.publish()

    assert counts.total()[PUT.decode(), "unary"][Code.OK] == 5


def test_what_finds_no_room_is_left_out_and_harms_nobody(tmp_path: Path) -> None:
    board = make_board(tmp_path)
    many = {b"/s/m%d" % n: Method.unary(lambda call, message: None) for n in range(PAIRS_MAX)}
    counts = CallCounts(board, "gateway-0", many)
    for method in many.values():
        answer(method, Code.OK)

    counts.publish()

    assert sum(map(len, counts.total().values())) == PAIRS_MAX
    neighbour = board.block("gateway-1")
    assert board.words[neighbour + Cell.INCARNATION] == 1


def test_gauges_and_counters_come_from_the_words_of_their_actors(member: Member) -> None:
    board = member.board
    set_word(board, "raft-node", RaftMetric.COMMITTED_INDEX, 11)
    set_word(board, "raft-node", RaftMetric.LEADER, 7)
    set_word(board, "raft-node", RaftMetric.MEMBER_ID, 0xABC)
    set_word(board, "applier", ApplierMetric.REVISION, 12)
    for slot in range(2):
        set_word(board, f"gateway-{slot}", GatewayMetric.PENDING, 3)
        set_word(board, f"gateway-{slot}", GatewayMetric.HEALTH_SUCCESS, 2)
        set_word(board, f"gateway-{slot}", GatewayMetric.WATCHERS, 20)
        set_word(board, f"gateway-{slot}", GatewayMetric.WATCH_STREAMS, 5)
        set_word(board, f"gateway-{slot}", GatewayMetric.SLOW_WATCHERS, 1)
        set_word(board, f"gateway-{slot}", GatewayMetric.WATCH_EVENTS, 300)

    page = member.page()

    assert value(page, "etcd_server_proposals_committed_total") == 11
    assert value(page, "etcd_server_has_leader") == 1
    assert value(page, "etcd_server_id", server_id="abc") == 1
    assert value(page, "etcd_debugging_mvcc_current_revision") == 12
    assert value(page, "etcd_server_proposals_pending") == 6
    assert "\netcd_server_health_success 4.0\n" in page
    assert value(page, "etcd_debugging_mvcc_watcher_total") == 40
    assert value(page, "etcd_debugging_mvcc_watch_stream_total") == 10
    assert value(page, "etcd_debugging_mvcc_slow_watcher_total") == 2
    assert value(page, "etcd_debugging_mvcc_events_total") == 600


def test_what_the_member_is_and_runs_comes_from_the_database(member: Member) -> None:
    first = member.page()
    member.status.is_learner, member.status.cluster_version = True, ""

    later = member.page()

    assert value(first, "etcd_server_is_learner") == 0
    assert value(first, "etcd_cluster_version", cluster_version="3.6") == 1
    assert value(later, "etcd_server_is_learner") == 1
    assert "etcd_cluster_version{" not in later


def test_links_to_other_members_are_told_one_by_one(member: Member) -> None:
    set_word(member.board, "raft-node", RaftMetric.MEMBER_ID, 0xABC)
    for slot, (peer, since, sent, received) in enumerate([(0xD, 1, 5, 6), (0xE, 0, 7, 8)]):
        first = TransportMetric.PEERS + slot * len(PeerMetric)
        set_word(member.board, "transport", first + PeerMetric.ID, peer)
        set_word(member.board, "transport", first + PeerMetric.ACTIVE_SINCE_NS, since)
        set_word(member.board, "transport", first + PeerMetric.SENT_BYTES, sent)
        set_word(member.board, "transport", first + PeerMetric.RECEIVED_BYTES, received)
        set_word(member.board, "transport", first + PeerMetric.DROPPED, 2 * slot)
        set_word(member.board, "transport", first + PeerMetric.FAILURES, slot)

    page = member.page()

    assert value(page, "etcd_network_active_peers", Local="abc", Remote="d") == 1
    assert value(page, "etcd_network_active_peers", Local="abc", Remote="e") == 0
    assert value(page, "etcd_network_known_peers", Local="abc", Remote="e") == 1
    assert value(page, "etcd_network_peer_sent_bytes_total", To="d") == 5
    assert value(page, "etcd_network_peer_received_bytes_total", From="e") == 8
    assert value(page, "etcd_network_peer_sent_failures_total", To="d") == 0
    assert value(page, "etcd_network_peer_sent_failures_total", To="e") == 3


def test_the_memory_of_a_member_is_that_of_all_its_processes_that_are_known(member: Member) -> None:
    sizes = {"root": 1, "applier": 20, "raft-node": 300}

    page = member.page(memory=lambda actor: sizes.get(actor, -1))

    assert value(page, "process_resident_memory_bytes") == 321
    assert "process_resident_memory_bytes" not in member.page()


def test_requests_are_counted_by_the_clients_version_in_all_gateways(member: Member) -> None:
    watch, status = b"/etcdserverpb.Watch/Watch", member.status
    told = {b"client-api-version": b"3.5.1"}
    counting = [
        ClientRequests(member.board, f"gateway-{slot}", Interceptor(status), [watch])
        for slot in (0, 1, 0)  # the last is the first one's successor
    ]
    for requests in counting:
        assert requests(PUT, told) is None
        requests(PUT, {})
        requests(watch, told)
        requests(PUT, {b"client-api-version": b"\xff"})  # refused
    for number in range(300):  # somebody makes up versions
        counting[1](PUT, told | {b"client-api-version": b"9.9.%d" % number})
    counting[1](PUT, {b"client-api-version": b"newest"})

    page = member.page()

    def count(kind: str, version: str) -> float:
        labels = {"type": kind, "client_api_version": version}
        return value(page, "etcd_server_client_requests_total", **labels)

    assert count("unary", "3.5.1") == 3
    assert count("stream", "3.5.1") == 3
    assert count("stream", "unknown") == 0
    seen = [count("unary", f"9.9.{n}") for n in range(PAIRS - 4)]
    assert seen == [1] * (PAIRS - 4)
    assert count("unary", "unknown") == 3 + 1 + 300 - len(seen)


def test_a_call_like_one_that_passed_is_decided_anew_where_it_matters(member: Member) -> None:
    told = {b"client-api-version": b"3.5.1"}
    requests = ClientRequests(member.board, "gateway-0", Interceptor(member.status), [])
    assert requests(PUT, told) is None
    assert requests(PUT, told) is None

    assert requests(PUT, told | {b"hasleader": b"true"}) == NO_LEADER
    member.status.is_learner = True
    assert requests(PUT, told) == NOT_SUPPORTED_FOR_LEARNER
    member.status.is_learner = False
    assert requests(PUT, told) is None


def test_a_histogram_is_cumulative_in_etcds_buckets(member: Member) -> None:
    histogram = Histogram(member.board, "raft-node", RaftMetric.FSYNC)
    for milliseconds in (0.5, 1.5, 10_000):
        histogram.observe(int(milliseconds * 1e6))

    page = member.page()

    name = "etcd_disk_wal_fsync_duration_seconds"
    assert value(page, f"{name}_bucket", le="0.001") == 1
    assert value(page, f"{name}_bucket", le="0.002") == 2
    assert value(page, f"{name}_bucket", le="8.192") == 2
    assert value(page, f"{name}_count") == 3
    assert value(page, f"{name}_sum") == pytest.approx(10.002)


def test_codes_are_spelt_as_grpc_go_spells_them() -> None:
    names = [code_name(code) for code in (Code.OK, Code.CANCELED, Code.DEADLINE_EXCEEDED)]

    assert names == ["OK", "Canceled", "DeadlineExceeded"]
