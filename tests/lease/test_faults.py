"""Keys stay attached to their leases exactly as acknowledged, whatever dies or is compacted."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import Cluster, ClusterMember
from tests.lease.leases import transfer
from tests.lease.ledger import Ledger
from tests.member import Member

pytestmark = pytest.mark.e2e

FLAGS = ("--heartbeat-interval=50", "--election-timeout=500")
CATCHUP_ENTRIES = 10
SNAPSHOTS = (
    *(*FLAGS, "--snapshot-count=100"),
    f"--snapshot-catchup-entries={CATCHUP_ENTRIES}",
    "--gateways=1",
)
ACTORS = (
    *("gateway-0", "raft-node", "applier", "lessor"),
    *("compactor", "snapshotter", "transport", "zygote"),
)
SETTLE_SECONDS = 10.0
ROUNDS = 10


@contextmanager
def ledger(*endpoints: str, number: int = 0) -> Iterator[Ledger]:
    opened = Ledger(endpoints, number)
    try:
        yield opened
    finally:
        opened.close()


def killed(member: Member, actor: str) -> None:
    """Kill an actor and wait for its successor."""
    pid = member.actors()[actor]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + SETTLE_SECONDS
    while member.actors().get(actor, pid) == pid:
        assert time.monotonic() < deadline, f"no successor of {actor}"
        time.sleep(0.01)


def worked(book: Ledger, requests: int) -> None:
    """Wait until so many more requests have been answered."""
    goal = book.answered + requests
    deadline = time.monotonic() + 60
    while book.answered < goal:
        assert time.monotonic() < deadline, "nobody answers"
        time.sleep(0.01)


def kill_everything(member: Member, rounds: int, requests: int) -> None:
    """Kill every actor in turn, then the member, under requests and compactions; check after each
    of the member's lives."""
    with ledger(member.endpoint) as book:
        for _ in range(rounds):
            with book.written():
                for actor in ACTORS:
                    worked(book, requests)
                    killed(member, actor)
                worked(book, requests)
                member.kill()
                member.start()
                worked(book, requests)
            book.check(member.endpoint)
        print(book)  # noqa: T201
        book.let_go(member.endpoint)
        member.restart()
        book.check(member.endpoint)


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    with Member(tmp_path, flags=SNAPSHOTS) as running:
        if not running.is_trouped:
            pytest.skip("only trouped has actors")
        yield running


def test_attachments_outlive_every_actor_and_the_member(member: Member) -> None:
    kill_everything(member, rounds=1, requests=40)


@pytest.mark.slow
def test_attachments_outlive_many_rounds_of_kills(member: Member) -> None:
    kill_everything(member, ROUNDS, requests=200)


def installed(member: ClusterMember) -> int:
    """Return how many snapshots of the leader a member has installed, by its log."""
    return member.log.count('"msg":"applied snapshot"')


def log_cut(member: ClusterMember) -> int:
    """Return up to where a member's log may be gone: entries before its snapshot's catch-up."""
    with urllib.request.urlopen(f"{member.url}/metrics") as answer:
        text = answer.read().decode()
    (line,) = [
        line for line in text.splitlines() if line.startswith("trouped_raft_snapshot_index ")
    ]
    return int(float(line.split()[1])) - CATCHUP_ENTRIES


def install(cluster: Cluster, requests: int, number: int = 0) -> None:
    """Let a follower miss so much that it needs a snapshot, then let it lead and be asked."""
    follower = cluster.followers()[0]
    others = cluster.others(follower)
    before = installed(follower)
    with ledger(*(member.endpoint for member in others), number=number) as book:
        with book.written():
            worked(book, requests)
            follower.kill()
            leader = cluster.leader()
            missed = cluster.status(leader).raftIndex
            worked(book, requests * 2)
            cluster.wait_for(lambda: log_cut(leader) > missed, "the log is never cut")
            follower.spawn()
            cluster.wait_for(lambda: installed(follower) > before, "no snapshot is installed")
            worked(book, requests)
        cluster.wait_applied()
        book.check(follower.endpoint)
        print(book)  # noqa: T201
        transfer(cluster, follower)
        book.check(follower.endpoint)
        with book.written():
            worked(book, requests)
        cluster.wait_applied()
        for member in cluster.members:
            book.check(member.endpoint)
        book.let_go(follower.endpoint)
        assert len(cluster.hashes()) == 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, flags=SNAPSHOTS) as running:
        if not running.is_trouped:
            pytest.skip("for trouped's flags")
        yield running


@pytest.mark.slow
def test_attachments_come_with_a_snapshot(cluster: Cluster) -> None:
    install(cluster, requests=300)


@pytest.mark.slow
def test_attachments_come_with_many_snapshots(cluster: Cluster) -> None:
    for number in range(ROUNDS):
        install(cluster, requests=600, number=number)


@pytest.mark.slow
def test_attachments_outlive_kills_of_actors_anywhere_in_a_cluster(cluster: Cluster) -> None:
    with ledger(*cluster.endpoints) as book:
        for _ in range(ROUNDS):
            with book.written():
                for actor in ACTORS:
                    for member in cluster.members:
                        worked(book, 20)
                        killed(member, actor)
                worked(book, 20)
                leader = cluster.leader()
                leader.kill()
                worked(book, 20)
                leader.start()
            cluster.wait_applied()
            for member in cluster.members:
                book.check(member.endpoint)
        print(book)  # noqa: T201
        book.let_go(cluster.leader().endpoint)
        assert len(cluster.hashes()) == 1
