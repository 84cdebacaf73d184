"""Linearizable reads: who may answer, and when."""

from __future__ import annotations

from raft.config import ReadOnlyOption
from raft.messages import MsgHeartbeatResp
from raft.state import HardState
from tests.raft.network import Network, Server


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
