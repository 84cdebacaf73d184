"""Faults that the transport itself makes (--enable-faults), and links protected by CURVE keys."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from control.run_directory import find_run_directory
from tests.cluster import Cluster, ClusterMember
from tests.cluster_faults.healing import ROUNDS_SLOW, SPLIT_TERMS, Rounds, healed_after
from tests.cluster_faults.history import History
from tests.cluster_faults.load import Load, Probe
from tests.cluster_faults.second_opinion import judge
from tests.cluster_faults.timing import ELECTION_SECONDS, FAST
from tests.member import MemberError
from transport.control import ControlClient
from transport.peer_keygen import generate_keys

pytestmark = pytest.mark.e2e

CLIENTS = 6
CALL_SECONDS = 1.0
FAULT_SECONDS = 2 * ELECTION_SECONDS
ROUND_TIMEOUTS_MAX = 4
FAR_ROUNDS = 5


@pytest.fixture(scope="module")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("drilled")
    if not Cluster(folder).is_trouped:
        pytest.skip("only trouped breaks its own links")
    with Cluster(folder, flags=[*FAST, "--enable-faults"]) as running:
        yield running


@pytest.fixture(scope="module")
def history(drilled: Cluster) -> History:
    """One for all tests: what one left of unknown fate may take effect in the next."""
    begun = History(judge)
    begun.begin(drilled.client(drilled.leader()))
    return begun


@pytest.fixture
def cluster(drilled: Cluster) -> Iterator[Cluster]:
    drilled.wait_ready()
    drilled.leader()
    yield drilled
    for member in drilled.members:
        ask(member, "mend")


def ask(member: ClusterMember, verb: str, **arguments: Any) -> dict[str, Any]:
    """Ask a member's transport to break or mend its links."""
    folder = find_run_directory(str(member.data_dir), os.environ)
    client = ControlClient(folder / "transport.ctl")
    try:
        answer = client.ask(verb, timeout=5.0, **arguments)
    finally:
        client.close()
    assert "error" not in answer, answer
    return answer


@contextmanager
def under_load(cluster: Cluster, history: History) -> Iterator[Probe]:
    """Run clients at all members; check the history after the block."""
    with ExitStack() as stack:
        load = stack.enter_context(
            Load(history, cluster.endpoints, CLIENTS, pause=0.005, seconds=CALL_SECONDS)
        )
        probe = stack.enter_context(Probe(history, cluster.endpoints, seconds=CALL_SECONDS))
        load.wait_for(CLIENTS)
        yield probe
        probe.wait_after(time.monotonic())
    history.check(cluster.client(cluster.leader()))
    cluster.wait_applied()
    assert len(cluster.hashes()) == 1


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        pytest.param("delay", {"seconds": 0.02}, marks=pytest.mark.slow),
        pytest.param("duplicate", {"ratio": 0.5}, marks=pytest.mark.slow),
        ("drop", {"ratio": 0.2}),
    ],
)
def test_late_doubled_and_lost_messages_break_no_promise(
    cluster: Cluster, history: History, verb: str, arguments: dict[str, Any]
) -> None:
    term = cluster.term()

    with under_load(cluster, history) as probe:
        for member in cluster.members:
            ask(member, verb, **arguments)
        begun = time.monotonic()
        time.sleep(FAULT_SECONDS)
        probe.wait_after(time.monotonic())
        gap = probe.longest_gap(begun, time.monotonic())
        for member in cluster.members:
            ask(member, "mend")

    passed = cluster.term() - term
    print(f"{verb}: longest gap {gap * 1e3:.0f} ms, {passed} terms")  # noqa: T201
    if verb != "drop":
        assert passed == 0


@pytest.mark.slow
def test_a_link_that_carries_one_way_only_costs_no_election(
    cluster: Cluster, history: History
) -> None:
    leader, term = cluster.leader(), cluster.term()
    deaf = cluster.others(leader)[0]

    with under_load(cluster, history) as probe:
        ask(deaf, "cut", direction="in")  # it hears nobody, the others hear it
        begun = time.monotonic()
        time.sleep(2 * FAULT_SECONDS)
        gap = probe.longest_gap(begun, time.monotonic())
        ask(deaf, "mend")

    print(f"longest gap {gap * 1e3:.0f} ms")  # noqa: T201
    assert (cluster.leader(), cluster.term()) == (leader, term)
    assert gap < ELECTION_SECONDS


def late(cluster: Cluster, chance: Random) -> int:
    """Delay everything; return the terms that this may take."""
    for member in cluster.members:
        ask(member, "delay", seconds=chance.uniform(0.005, 0.04))
    return 0


def doubled(cluster: Cluster, chance: Random) -> int:
    """Send what is sent twice, mostly."""
    for member in cluster.members:
        ask(member, "duplicate", ratio=chance.uniform(0.3, 1.0))
    return 0


def lost(cluster: Cluster, chance: Random) -> int:
    """Lose some: a majority may miss the leader for an election timeout, and again."""
    for member in cluster.members:
        ask(member, "drop", ratio=chance.uniform(0.05, 0.3))
    return SPLIT_TERMS * ROUND_TIMEOUTS_MAX


def deaf_follower(cluster: Cluster, chance: Random) -> int:
    """Let a follower hear nobody; the others hear it."""
    ask(chance.choice(cluster.others(cluster.leader())), "cut", direction="in")
    return 0


def mute_follower(cluster: Cluster, chance: Random) -> int:
    """Let nobody hear a follower."""
    ask(chance.choice(cluster.others(cluster.leader())), "cut", direction="out")
    return 0


def deaf_leader(cluster: Cluster, _: Random) -> int:
    """Let the leader hear nobody: it steps down."""
    ask(cluster.leader(), "cut", direction="in")
    return SPLIT_TERMS


def mute_leader(cluster: Cluster, _: Random) -> int:
    """Let nobody hear the leader."""
    ask(cluster.leader(), "cut", direction="out")
    return SPLIT_TERMS


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [late, doubled, lost, deaf_follower, mute_follower, deaf_leader, mute_leader]
)
def test_20_times_broken_links_heal_within_election_timeouts(
    cluster: Cluster, history: History, fault: Callable[[Cluster, Random], int]
) -> None:
    chance, rounds = Random(11), Rounds()
    for _ in range(ROUNDS_SLOW):
        with under_load(cluster, history) as probe:
            term = cluster.term()
            might = fault(cluster, chance)
            time.sleep(chance.uniform(1.0, ROUND_TIMEOUTS_MAX) * ELECTION_SECONDS)
            moment = time.monotonic()
            for member in cluster.members:
                ask(member, "mend")
            rounds.healed.append(healed_after(cluster, moment, probe))
            rounds.terms.append((cluster.term() - term, might))

    rounds.check(fault.__name__)


@pytest.mark.slow
def test_far_members_replace_a_killed_leader_as_soon_as_votes_can_travel(
    cluster: Cluster, history: History
) -> None:
    """Round trips of 80 ms beside heartbeats of 50: whoever asks again too soon gives up votes."""
    rounds = Rounds()

    for _ in range(FAR_ROUNDS):
        for member in cluster.members:
            ask(member, "delay", seconds=0.04)
        time.sleep(2 * ELECTION_SECONDS)  # until round trips are known
        leader, term = cluster.leader(), cluster.term()
        with Probe(history, [member.endpoint for member in cluster.others(leader)]) as probe:
            killed = time.monotonic()
            leader.kill()
            rounds.healed.append(probe.wait_after(killed))
        rounds.terms.append((cluster.term() - term, SPLIT_TERMS))
        for member in cluster.others(leader):
            ask(member, "mend")
        cluster.spawn()
        cluster.wait_ready()

    rounds.check("far members")
    history.check(cluster.client(cluster.leader()))


def test_a_leader_that_stops_sending_is_replaced(cluster: Cluster, history: History) -> None:
    leader = cluster.leader()

    with under_load(cluster, history) as probe:
        ask(leader, "pause")
        without = probe.wait_after(time.monotonic())
        cluster.wait_for(lambda: cluster.leads_without(leader), "a new leader")
        ask(leader, "resume")

    print(f"next write after {without:.2f} s")  # noqa: T201
    assert cluster.leader() is not leader


def test_faults_are_refused_where_they_are_not_enabled(cluster: Cluster, tmp_path: Path) -> None:
    with Cluster(tmp_path, size=1, flags=FAST) as plain:
        with pytest.raises(AssertionError, match="enable-faults"):
            ask(plain.members[0], "cut")

        assert plain.client(plain.members[0]).put(b"still", b"here")


def keyed(folder: Path, names: list[str]) -> Cluster:
    """Return a cluster whose members have keys; those of `names` are allowed."""
    cluster = Cluster(folder, flags=FAST)
    if not cluster.is_trouped:
        pytest.skip("etcd protects its peers by TLS")
    allowed = folder / "allowed"
    allowed.mkdir()
    for member in cluster.members:
        secret, public = generate_keys(folder / "keys" / member.name, member.name)
        (allowed / public.name).write_bytes(public.read_bytes())
        member.flags += [
            f"--peer-curve-secret-file={secret}",
            f"--peer-curve-allow-dir={allowed}",
        ]
    for member in cluster.members:
        if member.name not in names:
            stranger = folder / "strangers"
            secret, public = generate_keys(stranger, member.name)
            member.flags[-2:] = [
                f"--peer-curve-secret-file={secret}",
                f"--peer-curve-allow-dir={stranger}",
            ]
            for other in cluster.others(member):
                known = allowed / f"{other.name}.pub"
                (stranger / known.name).write_bytes(known.read_bytes())
    return cluster


def test_members_with_keys_are_a_cluster(tmp_path: Path) -> None:
    with keyed(tmp_path, ["m1", "m2", "m3"]) as cluster:
        revision = cluster.client(cluster.members[0]).put(b"secret", b"1")

        assert cluster.client(cluster.members[2]).get(b"secret") == b"1"
        assert revision > 1


@pytest.mark.slow
def test_a_member_with_a_wrong_key_stays_outside(tmp_path: Path) -> None:
    cluster = keyed(tmp_path, ["m1", "m2"])
    cluster._assign_ports()
    inside, stranger = cluster.members[:2], cluster.members[2]
    try:
        cluster.spawn(inside)
        for member in inside:
            member.wait_ready()
        term = cluster.term()
        cluster.spawn([stranger])

        with pytest.raises(MemberError):
            stranger.wait_ready(3.0)
        assert cluster.client(inside[0]).put(b"without", b"it") > 1
        assert cluster.term() == term
        refused = [ask(member, "peers")["rejected"]["key_unknown"] for member in inside]
        assert sum(refused) > 0
        assert stranger.running
    finally:
        cluster.stop()
