"""Linearizable reads: who may answer, and when."""

from __future__ import annotations

from raft.change import ConfChange, ConfChangeType
from raft.config import ReadOnlyOption
from raft.messages import Message, MsgHeartbeat, MsgHeartbeatResp, MsgReadIndexResp, MsgVote
from raft.state import HardState
from tests.raft.network import ELECTION_TICK, Network, Server


def test_a_single_voter_does_not_read_before_its_first_commit() -> None:
    server = Server(1, (1,))
    server.node.campaign()
    server.pump()
    server.node.propose((b"x",))
    server.pump()
    # As after a crash that lost the commit index, which is not synced, and what was applied.
    server.storage.set_hard_state(HardState(1, 1, 1))
    server.applied_index = 1
    server.restart()
    server.node.campaign()
    ready = server.node.ready()
    server.node.advance(ready)
    assert server.node.is_leader

    server.node.read_index(b"r")
    ready = server.node.ready()
    assert not ready.read_states
    server.store(ready)
    server.node.advance(ready)
    server.pump()

    assert [(r.index, r.context) for r in server.reads] == [(3, b"r")]


def test_reads_of_all_members_are_confirmed_by_a_quorum() -> None:
    network = Network(3)
    network.elect(1)
    network.isolate(3)

    network[1].node.read_index(b"one")
    network[2].node.read_index(b"two")
    network[3].node.read_index(b"three")
    network.settle()

    assert [(r.index, r.context) for r in network[1].reads] == [(1, b"one")]
    assert [(r.index, r.context) for r in network[2].reads] == [(1, b"two")]
    assert network[3].reads == []


def test_a_leader_without_a_quorum_confirms_nothing() -> None:
    network = Network(3)
    network.elect(1)
    network.isolate(1)

    network[1].node.read_index(b"stale")
    network.settle()
    network[2].node.campaign()
    network.settle()
    network[2].node.propose((b"new",))
    network.settle()
    network.heal()
    network.tick(3)

    assert network[1].reads == []


def test_an_answer_to_an_older_heartbeat_confirms_no_newer_read() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.read_index(b"first")
    heartbeats = network[1].pump()
    network[2].node.step(next(m for m in heartbeats if m.to == 2))
    (answer,) = network[2].pump()
    leader.read_index(b"second")

    leader.step(answer)
    network[1].pump()

    assert [r.context for r in network[1].reads] == [b"first"]


def test_what_was_never_asked_is_not_confirmed() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.read_index(b"first")

    leader.step(MsgHeartbeatResp(1, 2, 1, (1 << 40).to_bytes(8, "little")))

    network[1].pump()
    assert network[1].reads == []


def test_a_lease_answers_at_once() -> None:
    network = Network(3, check_quorum=True, read_only_option=ReadOnlyOption.LEASE_BASED)
    leader = network.elect(1)

    leader.read_index(b"r")

    assert [r.context for r in leader.ready().read_states] == [b"r"]


def asked(network: Network, follower: int, context: bytes) -> Message:
    """Return what a follower sends its leader for a read."""
    network[follower].node.read_index(context)
    (request,) = network[follower].pump()
    return request


def test_a_followers_request_is_its_own_word_where_two_are_a_quorum() -> None:
    network = Network(3)
    leader = network.elect(1)

    request = asked(network, 2, b"r")
    leader.step(request)
    (answer,) = network[1].pump()
    network[2].node.step(answer)
    network[2].pump()

    assert [(r.index, r.context) for r in network[2].reads] == [(1, b"r")]


def test_of_five_others_are_asked_too() -> None:
    network = Network(5)
    leader = network.elect(1)

    request = asked(network, 2, b"r")
    leader.step(request)

    assert {type(message) for message in network[1].pump()} == {MsgHeartbeat}


def test_a_learners_request_is_no_word_of_a_voter() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 3))
    network.settle()
    assert leader.raft.tracker.progress[3].is_learner

    request = asked(network, 3, b"r")
    leader.step(request)

    assert {type(message) for message in network[1].pump()} == {MsgHeartbeat}


def test_a_request_of_another_term_needs_a_round() -> None:
    network = Network(3)
    network.elect(1)
    request = asked(network, 2, b"r")
    network.elect(3)
    network.elect(1)

    network[1].node.step(request)

    assert {type(message) for message in network[1].pump()} == {MsgHeartbeat}


def test_what_a_follower_has_heard_of_is_confirmed_by_its_next_request() -> None:
    network = Network(3)
    leader = network.elect(1)
    early = asked(network, 2, b"early")
    leader.read_index(b"ours")
    network[1].pump()  # heartbeats that get lost

    leader.step(early)  # sent before our read began, so it says nothing of that
    (answer,) = network[1].pump()
    assert network[1].reads == []
    network[2].node.step(answer)
    leader.step(asked(network, 2, b"next"))
    network[1].pump()

    assert [(r.index, r.context) for r in network[1].reads] == [(1, b"ours")]


def test_what_was_heard_in_an_earlier_term_is_forgotten() -> None:
    network = Network(3)
    leader = network.elect(1)
    leader.read_index(b"ours")
    network[2].node.step(MsgReadIndexResp(2, 1, 1, 1, b"r", leader.raft.read_only.newest()))
    assert network[2].node.raft.read_only.heard

    network.elect(3)

    assert not network[2].node.raft.read_only.heard


def test_an_answer_begins_the_followers_lease_anew() -> None:
    network = Network(3, check_quorum=True, pre_vote=True)
    leader = network.elect(1)
    for _ in range(ELECTION_TICK - 1):
        network[2].node.tick()
    leader.read_index(b"ours")
    network[1].pump()  # heartbeats that get lost

    request = asked(network, 2, b"theirs")
    leader.step(request)
    (answer,) = network[1].pump()
    network[2].node.step(answer)
    network[2].node.tick()
    network[2].node.step(MsgVote(2, 3, 2, 9, 9))

    assert network[2].node.raft.term == 1, "whoever confirms our read now votes for nobody else"
