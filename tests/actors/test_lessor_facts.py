"""What the applier tells of leases: after the commit, to the lessor, the board and `/metrics`."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.core import Metric

from actors.lease_metrics import TTL_BOUNDS, lease_families
from actors.messages import LeaseFacts
from actors.metrics import ApplierMetric, LessorMetric
from etcdpb.rpc_pb2 import LeaseGrantRequest, LeaseRevokeRequest, PutRequest
from kv.batch import Op, encode_batch
from kv.lease_ops import LeaseEvent
from tests.actors.test_applier import Bench
from transport.counters import Cell


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.actor.links.is_open = lambda receiver: True  # type: ignore[method-assign]
    return made


def granting(*leases: int, ttl: int = 10) -> bytes:
    requests = [LeaseGrantRequest(ID=lease, TTL=ttl).SerializeToString() for lease in leases]
    return encode_batch(0, 0, 0, bytes([Op.LEASE_GRANT]) * len(leases), requests)


def revoking(lease: int) -> bytes:
    request = LeaseRevokeRequest(ID=lease).SerializeToString()
    return encode_batch(0, 0, 0, bytes([Op.LEASE_REVOKE]), [request])


def told(bench: Bench) -> list[LeaseFacts]:
    return [m for receiver, m in bench.sent if receiver == "lessor"]


def samples(bench: Bench) -> dict[str, float]:
    families: list[Metric] = list(lease_families(bench.actor.board))
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_lessor_is_told_once_for_all_entries_of_a_transaction(bench: Bench) -> None:
    bench.apply(granting(5, 6), revoking(5))

    assert told(bench) == [
        LeaseFacts(
            2,
            bytes([LeaseEvent.GRANTED, LeaseEvent.GRANTED, LeaseEvent.REVOKED]),
            [5, 6, 5],
            [10, 10, 0],
            [1, 1, 1],
        )
    ]
    assert bench.actor.board.get("applier", Cell.METRICS + ApplierMetric.LEASE_INDEX) == 2


def test_nothing_is_told_before_the_commit(bench: Bench) -> None:
    bench.apply(granting(5), committed=0)

    assert told(bench) == []
    assert samples(bench)["etcd_debugging_lease_granted_total"] == 0


def test_nothing_is_told_of_transactions_without_leases(bench: Bench) -> None:
    request = PutRequest(key=b"a", value=b"v").SerializeToString()
    bench.apply(encode_batch(0, 0, 0, bytes([Op.PUT]), [request]))

    assert told(bench) == []


def test_metrics_have_etcds_names_and_buckets(bench: Bench) -> None:
    bench.apply(granting(5, ttl=2), granting(6, ttl=3), granting(7, ttl=9_000_000_000), revoking(5))
    bench.actor.board.set("lessor", Cell.METRICS + LessorMetric.RENEWED, 70)
    bench.actor.board.set("lessor", Cell.METRICS + LessorMetric.EXPIRED, 4)

    found = samples(bench)

    assert found["etcd_debugging_lease_granted_total"] == 3
    assert found["etcd_debugging_lease_revoked_total"] == 1
    assert found["etcd_debugging_lease_renewed_total"] == 70
    assert found["etcd_debugging_server_lease_expired_total"] == 4
    buckets = [found[f"etcd_debugging_lease_ttl_total_bucket{b:.1f}"] for b in (1, 2, 4)]
    assert buckets == [0, 1, 2]
    assert found[f"etcd_debugging_lease_ttl_total_bucket{TTL_BOUNDS[-1]:.1f}"] == 2
    assert found["etcd_debugging_lease_ttl_total_bucket+Inf"] == 3
    assert found["etcd_debugging_lease_ttl_total_count"] == 3
    assert found["etcd_debugging_lease_ttl_total_sum"] == 9_000_000_005
