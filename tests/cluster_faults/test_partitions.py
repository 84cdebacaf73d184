"""Members in network namespaces: cut off, half cut off, and on lines that lose packets.

Throughout, the history of clients at all members is linearizable. After healing the cluster is
whole again within election timeouts, and who was cut off has not driven the term up (pre-vote).

Which terms are needed: a leader that lost its quorum steps down, and its successor begins a term,
or a few if votes are split. Whoever else hears of no leader asks a majority that does, and gets
nothing: a member cut off or deaf, one that another does not hear, one beyond a bridge pass no term.
On lossy lines a majority may miss the leader for an election timeout, so one may pass in each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.cluster import Cluster, ClusterMember
from tests.cluster_faults.healing import ROUNDS_SLOW, SPLIT_TERMS, Rounds, healed_after, whole
from tests.cluster_faults.history import History
from tests.cluster_faults.load import Load, Probe
from tests.cluster_faults.second_opinion import judge
from tests.cluster_faults.timing import ELECTION_SECONDS, FAST
from tests.netns import Network, unavailable

pytestmark = pytest.mark.e2e

CLIENTS = 6
CALL_SECONDS = 1.0
FAULT_SECONDS = 3 * ELECTION_SECONDS
ROUND_TIMEOUTS_MAX = 4
LOSS = 0.5


class Divided:
    """A cluster on a network that can be cut."""

    def __init__(self, cluster: Cluster, network: Network) -> None:
        self.cluster, self.network = cluster, network
        # One for all tests: what one left of unknown fate may take effect in the next.
        self.history = History(judge)
        self.history.begin(cluster.client(cluster.leader()))

    def number(self, member: ClusterMember) -> int:
        return self.cluster.members.index(member)

    def isolate(self, member: ClusterMember) -> None:
        """Cut a member off all others."""
        others = tuple(self.number(other) for other in self.cluster.others(member))
        self.network.split((self.number(member),), others)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Divided]:
    if why := unavailable():
        pytest.skip(why)
    with Network(3) as network:
        folder = tmp_path_factory.mktemp("divided")
        with Cluster(folder, flags=FAST, network=network) as cluster:
            yield Divided(cluster, network)


@pytest.fixture
def divided(running: Divided) -> Iterator[Divided]:
    """The cluster, whole before the test and healed after it."""
    running.cluster.spawn()
    running.cluster.wait_ready()
    running.cluster.wait_for(lambda: whole(running.cluster), "one leader for all")
    yield running
    running.network.heal()


@contextmanager
def under_load(divided: Divided, seed: int = 1) -> Iterator[Probe]:
    """Run clients at all members; after the block heal and check the history."""
    cluster, history = divided.cluster, divided.history
    checked = history.checked
    with ExitStack() as stack:
        load = stack.enter_context(
            Load(history, cluster.endpoints, CLIENTS, seed=seed, pause=0.005, seconds=CALL_SECONDS)
        )
        probe = stack.enter_context(Probe(history, cluster.endpoints, seconds=CALL_SECONDS))
        load.wait_for(CLIENTS)
        yield probe
        divided.network.heal()
        cluster.wait_for(lambda: whole(cluster), "one leader for all after healing")
    history.check(cluster.client(cluster.leader()))
    cluster.wait_applied()
    assert len(cluster.hashes()) == 1
    print(  # noqa: T201
        f"{history.checked - checked} operations linearizable; so far {history.found_unknown} of "
        f"unknown fate took effect, {len(history.open)} did not"
    )


def heal(divided: Divided, probe: Probe) -> float:
    """Heal and return the seconds until all members follow one leader and writes flow."""
    moment = time.monotonic()
    divided.network.heal()
    return healed_after(divided.cluster, moment, probe)


def test_an_isolated_leader_is_replaced_and_comes_back_as_a_follower(divided: Divided) -> None:
    cluster = divided.cluster
    leader, term = cluster.leader(), cluster.term()

    with under_load(divided) as probe:
        divided.isolate(leader)
        without = probe.wait_after(time.monotonic())
        cluster.wait_for(lambda: cluster.leads_without(leader), "a new leader")
        cluster.wait_for(lambda: cluster.status(leader).leader == 0, "the old one steps down")
        healed = heal(divided, probe)

    print(f"next write {without:.2f} s, whole {healed:.2f} s after healing")  # noqa: T201
    assert cluster.leader() is not leader
    assert cluster.term() <= term + SPLIT_TERMS
    assert healed <= 4 * ELECTION_SECONDS


@pytest.mark.slow
def test_an_isolated_follower_drives_no_term_up(divided: Divided) -> None:
    cluster = divided.cluster
    leader, term = cluster.leader(), cluster.term()

    with under_load(divided) as probe:
        begun = time.monotonic()
        divided.isolate(cluster.others(leader)[0])
        time.sleep(FAULT_SECONDS)
        gap = probe.longest_gap(begun, time.monotonic())
        healed = heal(divided, probe)

    print(f"longest gap {gap * 1e3:.0f} ms, whole {healed:.2f} s after healing")  # noqa: T201
    assert cluster.leader() is leader
    assert cluster.term() == term
    assert gap < ELECTION_SECONDS
    assert healed <= 4 * ELECTION_SECONDS


@pytest.mark.slow
def test_a_bridge_between_two_that_do_not_see_each_other_keeps_them_serving(
    divided: Divided,
) -> None:
    cluster = divided.cluster
    leader = cluster.leader()
    bridge, other = cluster.others(leader)
    term = cluster.term()

    with under_load(divided) as probe:
        begun = time.monotonic()
        divided.network.cut(divided.number(leader), divided.number(other))
        time.sleep(FAULT_SECONDS)
        probe.wait_after(time.monotonic())
        gap = probe.longest_gap(begun, time.monotonic())
        healed = heal(divided, probe)

    print(  # noqa: T201
        f"longest gap {gap * 1e3:.0f} ms, whole {healed:.2f} s after healing, "
        f"{cluster.term() - term} terms, {bridge.name} between"
    )
    assert cluster.term() == term  # check-quorum and leases: the bridge knows a leader
    assert gap < ELECTION_SECONDS
    assert healed <= 4 * ELECTION_SECONDS


@pytest.mark.slow
def test_a_leader_nobody_hears_is_replaced(divided: Divided) -> None:
    cluster = divided.cluster
    leader = cluster.leader()
    term = cluster.term()

    with under_load(divided) as probe:
        for other in cluster.others(leader):
            divided.network.drop(divided.number(other), divided.number(leader))
        without = probe.wait_after(time.monotonic())
        cluster.wait_for(lambda: cluster.leads_without(leader), "a new leader")
        healed = heal(divided, probe)

    print(  # noqa: T201
        f"next write {without:.2f} s, whole {healed:.2f} s after healing, "
        f"{cluster.term() - term} terms"
    )
    assert cluster.term() <= term + SPLIT_TERMS
    assert healed <= 4 * ELECTION_SECONDS


@pytest.mark.slow
def test_half_the_packets_lost_only_slow_it_down(divided: Divided) -> None:
    cluster = divided.cluster
    term = cluster.term()

    with under_load(divided) as probe:
        divided.network.lose(LOSS)
        time.sleep(2 * FAULT_SECONDS)
        healed = heal(divided, probe)

    written = len(probe.acknowledged)
    print(  # noqa: T201
        f"{written} probes written, whole {healed:.2f} s after healing, "
        f"{cluster.term() - term} terms"
    )
    assert written
    assert cluster.term() - term <= SPLIT_TERMS * 2 * FAULT_SECONDS / ELECTION_SECONDS
    assert healed <= 4 * ELECTION_SECONDS


# Faults; each returns how many terms may pass in a round, see the module.


def isolate_leader(divided: Divided, _: Random) -> int:
    divided.isolate(divided.cluster.leader())
    return SPLIT_TERMS


def isolate_follower(divided: Divided, chance: Random) -> int:
    divided.isolate(chance.choice(divided.cluster.followers()))
    return 0


def bridge(divided: Divided, chance: Random) -> int:
    divided.network.cut(*chance.sample(range(3), 2))
    return 0


def one_way(divided: Divided, chance: Random) -> int:
    divided.network.drop(*chance.sample(range(3), 2))
    return 0


def deaf(divided: Divided, chance: Random) -> int:
    """One member hears nobody, and is heard."""
    victim = chance.randrange(3)
    leads = divided.number(divided.cluster.leader()) == victim
    for sender in {0, 1, 2} - {victim}:
        divided.network.drop(victim, sender)
    return SPLIT_TERMS if leads else 0


def nobody(divided: Divided, _: Random) -> int:
    divided.network.split((0,), (1,), (2,))
    return SPLIT_TERMS


def lossy(divided: Divided, chance: Random) -> int:
    divided.network.lose(chance.uniform(0.1, LOSS))
    return SPLIT_TERMS * ROUND_TIMEOUTS_MAX


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [isolate_leader, isolate_follower, bridge, one_way, deaf, nobody, lossy]
)
def test_20_rounds_of_a_fault_heal_within_election_timeouts(
    divided: Divided, fault: Callable[[Divided, Random], int]
) -> None:
    chance, rounds = Random(7), Rounds()
    for number in range(ROUNDS_SLOW):
        with under_load(divided, seed=number) as probe:
            term = divided.cluster.term()
            needed = fault(divided, chance)
            time.sleep(chance.uniform(1, ROUND_TIMEOUTS_MAX) * ELECTION_SECONDS)
            rounds.healed.append(heal(divided, probe))
            rounds.terms.append((divided.cluster.term() - term, needed))

    rounds.check(fault.__name__)


def test_members_start_though_the_network_comes_late(tmp_path: Path) -> None:
    if why := unavailable():
        pytest.skip(why)
    with Network(3) as network:
        cluster = Cluster(tmp_path, flags=FAST, network=network)
        cluster._assign_ports()
        network.split((0,), (1,), (2,))
        try:
            cluster.spawn()
            time.sleep(2 * ELECTION_SECONDS)
            assert cluster.leader_now() is None

            network.heal()

            cluster.wait_ready()
            cluster.leader()
        finally:
            cluster.stop()
