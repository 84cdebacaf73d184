"""A lessor whose time is over revokes nothing, whatever of its member was frozen (etcd #15247)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.cluster import Cluster, ClusterMember
from tests.lease.keeper import Keeper, kept
from tests.lease.leases import attach, grant, left

pytestmark = pytest.mark.e2e

ELECTION_SECONDS = 0.2
FLAGS = ("--heartbeat-interval=20", "--election-timeout=200")
TTL = 3
LEASES = 20
ROUNDS = 30


@pytest.fixture(params=[True, False], ids=["detection", "no-detection"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    flags = FLAGS if request.param else (*FLAGS, "--stuck-detection=false")
    with Cluster(tmp_path, flags=flags) as running:
        if not running.is_trouped:
            pytest.skip("only trouped has actors")
        yield running


def granted(client: Client, prefix: bytes) -> list[int]:
    """Grant leases with a key each."""
    leases = [grant(client, TTL) for _ in range(LEASES)]
    for number, lease in enumerate(leases):
        attach(client, prefix + b"%02d" % number, lease)
    return leases


def check(client: Client, keeper: Keeper, leases: list[int], prefix: bytes) -> None:
    """Assert that no lease that was kept alive has lost its key."""
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    assert client.range(pb.RangeRequest(key=prefix, range_end=end)).count == len(leases)
    assert not keeper.lost


def freeze(cluster: Cluster, actor: str, rounds: int) -> None:
    """Freeze an actor of the leader for three election timeouts, again and again."""
    renewed = failed = 0
    for number in range(rounds):
        leader = cluster.leader()
        others = cluster.others(leader)
        prefix = b"round/%03d/" % number
        with Client(others[0].endpoint) as client:
            leases = granted(client, prefix)
            with kept([member.endpoint for member in others], leases) as keeper:
                with cluster.frozen(leader, actor):
                    time.sleep(3 * ELECTION_SECONDS)
                time.sleep(TTL)  # an old lessor has had its chance
                check(client, keeper, leases, prefix)
        renewed += keeper.renewed
        failed += keeper.failed
    print(f"{actor}: {rounds} rounds, {renewed} renewals, {failed} streams ended")  # noqa: T201
    assert renewed > rounds * LEASES * 2


@pytest.mark.slow
@pytest.mark.parametrize("actor", ["raft-node", "lessor"])
def test_a_frozen_member_revokes_nothing_wrongly(cluster: Cluster, actor: str) -> None:
    freeze(cluster, actor, ROUNDS)


def moved(cluster: Cluster, to: ClusterMember) -> None:
    """Transfer leadership."""
    leader = cluster.leader()
    member_id = cluster.status(to).header.member_id
    answer = cluster.client(leader).answer(pb.MoveLeaderRequest(targetID=member_id))
    if answer.code == "UNIMPLEMENTED":
        pytest.skip("MoveLeader is not built")
    cluster.wait_for(lambda: cluster.leader_now() is to, "leadership is not transferred")


def test_leadership_that_goes_back_and_forth_keeps_leases_and_lets_them_expire(
    cluster: Cluster,
) -> None:
    leader = cluster.leader()
    other, third = cluster.others(leader)
    with Client(third.endpoint) as client:
        leases = granted(client, b"kept/")
        with kept([third.endpoint], leases) as keeper:
            for _ in range(3):
                moved(cluster, other)
                moved(cluster, leader)
            abandoned = grant(client, TTL)
            begun = time.monotonic()
            cluster.wait_for(lambda: left(client, abandoned).TTL < 0, "a lease never expires")
            took = time.monotonic() - begun
            check(client, keeper, leases, b"kept/")
    assert took >= TTL - 0.1
    assert took < TTL + 2
