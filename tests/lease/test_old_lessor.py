"""A lessor whose time is over revokes nothing, whatever of its member was frozen (etcd #15247)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from etcdpb import rpc_pb2 as pb
from tests.client import Answer, Client
from tests.cluster import Cluster
from tests.lease.keeper import Keeper, kept
from tests.lease.leases import grant, left, transfer

pytestmark = pytest.mark.e2e

ELECTION_SECONDS = 0.2
FLAGS = ("--heartbeat-interval=20", "--election-timeout=200")
TTL = 3
LEASES = 20
ROUNDS = 30
STUCK_SECONDS = 4  # after that a frozen actor is replaced
M = TypeVar("M", bound=Message)


@pytest.fixture(
    params=[
        pytest.param(True, id="detection"),
        pytest.param(False, id="no-detection", marks=pytest.mark.slow),
    ]
)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    flags = FLAGS if request.param else (*FLAGS, "--stuck-detection=false")
    with Cluster(tmp_path, flags=flags) as running:
        if not running.is_trouped:
            pytest.skip("only trouped has actors")
        yield running


def granted(client: Client, prefix: bytes) -> list[int]:
    """Grant leases with a key each, so quickly that none can have expired yet."""
    while True:
        begun = time.monotonic()
        grants = [client.begin(pb.LeaseGrantRequest(TTL=TTL)) for _ in range(LEASES)]
        leases = [answered(each(), pb.LeaseGrantResponse).ID for each in grants]
        puts = [
            client.begin(pb.PutRequest(key=prefix + b"%02d" % number, lease=lease))
            for number, lease in enumerate(leases)
        ]
        if all(each().ok for each in puts) and time.monotonic() - begun < TTL / 2:
            return leases


def answered(answer: Answer, kind: type[M]) -> M:
    """Return the message of an answer that must be one."""
    assert isinstance(answer.message, kind), answer
    return answer.message


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
                    if actor == "raft-node":
                        cluster.wait_for(
                            partial(cluster.leads_without, leader),
                            "leadership does not move",
                            timeout=STUCK_SECONDS - 3 * ELECTION_SECONDS,
                        )
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


def test_leases_kept_alive_outlive_a_lessor_that_is_frozen_longer_than_their_ttl(
    cluster: Cluster,
) -> None:
    leader = cluster.leader()
    others = [member.endpoint for member in cluster.others(leader)]
    with Client(others[0]) as client:
        leases = granted(client, b"frozen/")
        with kept(others, leases) as keeper:
            with cluster.frozen(leader, "lessor"):
                time.sleep(TTL + 0.5)
            time.sleep(TTL / 2)  # what was to be revoked is
            check(client, keeper, leases, b"frozen/")


def test_leadership_that_goes_back_and_forth_keeps_leases_and_lets_them_expire(
    cluster: Cluster,
) -> None:
    leader = cluster.leader()
    other, third = cluster.others(leader)
    with Client(third.endpoint) as client:
        leases = granted(client, b"kept/")
        with kept([third.endpoint], leases) as keeper:
            for _ in range(3):
                transfer(cluster, other)
                transfer(cluster, leader)
            abandoned = grant(client, TTL)
            begun = time.monotonic()
            cluster.wait_for(lambda: left(client, abandoned).TTL < 0, "a lease never expires")
            took = time.monotonic() - begun
            check(client, keeper, leases, b"kept/")
    assert took >= TTL - 0.1
    assert took < TTL + 2
