"""Elections and replication over a network that loses messages."""

from __future__ import annotations

import pytest

from raft.change import (
    ConfChange,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    parse_changes,
)
from raft.messages import MsgApp, MsgAppResp, MsgTimeoutNow
from raft.roles import FOLLOWER
from raft.state import ConfState
from tests.raft.network import ELECTION_TICK, Network

JOINT_IMPLICIT = ConfChangeTransition.JOINT_IMPLICIT


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_somebody_is_elected_when_time_passes(count: int, pre_vote: bool) -> None:
    network = Network(count, pre_vote=pre_vote, check_quorum=True)

    network.tick(3 * ELECTION_TICK)

    (leader,) = network.leaders()
    assert all(s.node.raft.lead == leader for s in network.servers.values())


@pytest.mark.parametrize(("count", "cut_off", "wins"), [(3, 1, True), (3, 2, False), (5, 2, True)])
def test_a_majority_is_needed(count: int, cut_off: int, wins: bool) -> None:
    network = Network(count)
    network.isolate(*range(count, count - cut_off, -1))

    network[1].node.campaign()
    network.settle()

    assert network[1].node.is_leader is wins


def test_a_split_vote_elects_nobody_and_the_next_round_does() -> None:
    network = Network(2)
    network[1].node.campaign()
    network[2].node.campaign()
    network.settle()
    assert network.leaders() == []

    network.tick(3 * ELECTION_TICK)

    assert len(network.leaders()) == 1


def test_entries_survive_the_leader_that_committed_them() -> None:
    network = Network(3)
    network.elect(1).propose((b"kept",))
    network.settle()
    network.isolate(1)
    network[1].node.propose((b"lost",))
    network.settle()

    network[2].node.campaign()
    network.settle()
    network[2].node.propose((b"new",))
    network.settle()
    network.heal()
    network.tick(3)

    assert [s.datas() for s in network.servers.values()] == [[b"kept", b"new"]] * 3


def test_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """Raft paper, figure 8: it could still be replaced."""
    network = Network(5, max_size_per_msg=0, max_committed_size_per_ready=1000)
    network.elect(1)
    network.isolate(3, 4, 5)
    network[1].node.propose((b"figure8",))
    network.settle()
    network.lose = lambda m: isinstance(m, MsgAppResp) and m.index == 3 and not m.reject

    network[1].restart()
    network[1].node.campaign()
    network.settle()

    leader = network[1].node.status()
    assert leader.term == 2
    assert [p.match for p in leader.progress.values()] == [3, 0, 2, 2, 2]
    assert leader.commit == 1
    network.heal()
    network.tick(2)
    assert [s.datas() for s in network.servers.values()] == [[b"figure8"]] * 5


def test_a_member_that_was_cut_off_disturbs_nobody_with_pre_vote() -> None:
    network = Network(3, pre_vote=True, check_quorum=True)
    network.elect(1)
    network.isolate(3)
    network.tick(5 * ELECTION_TICK)
    assert network[3].node.status().term == 1

    network.heal()
    network.tick(3)

    assert network.leaders() == [1]
    assert network[1].node.status().term == 1
    assert network[3].node.raft.lead == 1


def test_a_leader_without_a_quorum_steps_down() -> None:
    network = Network(3, check_quorum=True, pre_vote=True)
    network.elect(1)
    network.isolate(1)

    network.tick(2 * ELECTION_TICK, 1)

    assert network[1].node.status().raft_state is FOLLOWER


def test_what_was_not_sent_is_not_acknowledged() -> None:
    network = Network(3)
    network.elect(1)
    node = network[1].node
    before = node.raft.tracker.progress[2].match

    node.step(MsgAppResp(1, 2, node.raft.term, 10_000))
    network.settle()

    assert node.raft.tracker.progress[2].match == before
    assert node.is_leader


def test_who_is_stuck_in_a_higher_term_is_freed() -> None:
    network = Network(3, check_quorum=True)
    network.elect(1)
    network.isolate(3)
    network[3].node.campaign()
    network[3].node.campaign()
    network.settle()
    assert network[3].node.status().term == 3

    network.heal()
    network.tick(3 * ELECTION_TICK)

    (leader,) = network.leaders()
    assert all(s.node.raft.lead == leader for s in network.servers.values())
    assert network[leader].node.status().term >= 3


def test_leadership_is_handed_over_after_catching_up() -> None:
    network = Network(3, check_quorum=True, pre_vote=True)
    leader = network.elect(1)
    network.isolate(3)
    leader.propose((b"x",))
    network.tick(2)
    network.heal()

    leader.transfer_leader(3)
    network.settle()

    assert network.leaders() == [3]
    assert network[3].datas() == [b"x"]


def test_leadership_is_not_handed_to_a_learner_or_a_stranger() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 3))
    network.settle()

    leader.transfer_leader(3)
    leader.transfer_leader(7)
    network.settle()

    assert network.leaders() == [1]
    assert leader.status().lead_transferee == 0


def test_a_successor_that_does_not_answer_is_given_up() -> None:
    network = Network(3)
    leader = network.elect(1)
    network.lose = lambda m: isinstance(m, MsgTimeoutNow)
    leader.transfer_leader(2)
    network.settle()
    assert leader.status().lead_transferee == 2

    network.tick(ELECTION_TICK, 1)

    assert leader.status().lead_transferee == 0
    leader.propose((b"x",))
    network.settle()
    assert network[3].datas() == [b"x"]


def test_a_follower_far_behind_gets_a_snapshot_and_the_rest() -> None:
    network = Network(3)
    leader = network.elect(1)
    network.isolate(3)
    for i in range(20):
        leader.propose((b"%d" % i,))
        network.settle()
    network.tick(2)
    network[1].compact()
    network.heal()

    network.tick(2)
    leader.propose((b"last",))
    network.settle()

    assert network[3].datas() == [b"snapshot", b"last"]
    assert str(leader.status().progress[3].state) == "StateReplicate"


def test_lost_appends_are_sent_again() -> None:
    network = Network(3)
    leader = network.elect(1)
    count = 0

    def lose_two_of_three(message: object) -> bool:
        nonlocal count
        count += isinstance(message, MsgApp)
        return isinstance(message, MsgApp) and count % 3 != 0

    network.lose = lose_two_of_three
    for i in range(30):
        leader.propose((b"%d" % i,))
        network.settle()
    network.heal()
    network.tick(3)

    expected = [b"%d" % i for i in range(30)]
    assert [s.datas() for s in network.servers.values()] == [expected] * 3


def test_a_learner_gets_everything_and_decides_nothing() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 3))
    network.settle()
    network.isolate(2)

    leader.propose((b"x",))
    network.settle()
    assert network[3].datas() == []
    network.heal()
    network.tick(2)

    assert network[3].datas() == [b"x"]
    network[3].node.campaign()
    network.settle()
    assert network.leaders() == [1]


def test_a_joint_configuration_is_left_even_if_a_transfer_was_in_the_way() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.propose_conf_change(ConfChangeV2(parse_changes("l2"), JOINT_IMPLICIT))
    network.lose = lambda m: isinstance(m, MsgTimeoutNow)
    leader.transfer_leader(3)
    network.settle()
    assert leader.status().config.voters_outgoing == {1, 2, 3}

    network.tick(2 * ELECTION_TICK, 1)

    assert leader.status().config.conf_state() == ConfState(voters=(1, 3), learners=(2,))


def test_a_removed_leader_may_still_hear_of_its_own_disk() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    network.settle()
    assert 1 not in leader.status().progress

    leader.step(MsgAppResp(1, 1, 1, 2))

    assert not leader.has_ready()
