"""A node as its driver sees it: what it tells, what it refuses, how it begins again."""

from __future__ import annotations

from typing import Any

import pytest

from raft.change import ConfChange, ConfChangeType, ConfChangeV2, decode, encode, parse_changes
from raft.config import Config, ReadOnlyOption
from raft.errors import (
    ConfChangeError,
    ConfigError,
    InvariantError,
    ProposalDroppedError,
    StepLocalMessageError,
    StepPeerNotFoundError,
)
from raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_MESSAGES,
    Message,
    MsgApp,
    MsgAppResp,
    MsgHeartbeat,
    MsgHeartbeatResp,
    MsgProp,
    MsgReadIndexResp,
    MsgSnap,
    MsgStorageAppend,
    MsgStorageAppendResp,
    MsgVote,
    MsgVoteResp,
)
from raft.raw_node import RawNode
from raft.roles import CANDIDATE, FOLLOWER, LEADER
from raft.size import NO_LIMIT
from raft.state import ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage
from tests.raft.network import Network, Server


def a_storage(*voters: int, terms: tuple[int, ...] = (), commit: int = 0) -> MemoryStorage:
    storage = MemoryStorage(conf_state=ConfState(voters=voters))
    storage.append([Entry(term, i) for i, term in enumerate(terms, 1)])
    if terms:
        storage.set_hard_state(HardState(terms[-1], 0, commit))
    return storage


def a_config(storage: MemoryStorage, **settings: Any) -> Config:
    settings = {"election_tick": 10, "heartbeat_tick": 1, "rng": lambda n: 0, **settings}
    return Config(id=1, storage=storage, **settings)


# Settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"heartbeat_tick": 0}, "heartbeat tick must be greater than 0"),
        ({"election_tick": 1}, "election tick must be greater than heartbeat tick"),
        ({"max_inflight_msgs": 0}, "max inflight messages must be greater than 0"),
        (
            {"max_size_per_msg": 10, "max_inflight_bytes": 9},
            "max inflight bytes must be >= max message size",
        ),
        ({"read_only_option": ReadOnlyOption.LEASE_BASED}, "CheckQuorum must be enabled"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        RawNode(a_config(a_storage(1), **settings))


@pytest.mark.parametrize("id_", [0, LOCAL_APPEND_THREAD])
def test_some_ids_are_nobodys(id_: int) -> None:
    config = a_config(a_storage(1))
    config.id = id_

    with pytest.raises(ConfigError):
        RawNode(config)


# Beginning again


def test_a_node_begins_as_it_was() -> None:
    node = RawNode(a_config(a_storage(1, 2, terms=(1, 1, 2), commit=2), applied=1))

    status = node.status()
    assert (status.term, status.commit, status.applied, status.last_index) == (2, 2, 1, 3)
    assert status.raft_state is FOLLOWER
    assert [e.index for e in node.ready().committed_entries] == [2]


def test_what_is_applied_was_committed_whatever_the_hard_state_says() -> None:
    node = RawNode(a_config(a_storage(1, terms=(1, 1, 1), commit=1), applied=3))

    assert node.status().commit == node.status().applied == 3
    assert not node.has_ready()


def test_what_is_compacted_away_was_committed_too() -> None:
    storage = a_storage(1, terms=(1, 1, 1), commit=1)
    storage.compact(2)

    node = RawNode(a_config(storage))

    assert node.status().commit == node.status().applied == 2


def test_what_is_applied_can_not_exceed_the_log() -> None:
    with pytest.raises(InvariantError, match="lost"):
        RawNode(a_config(a_storage(1, terms=(1,), commit=1), applied=2))


def test_a_commit_outside_of_the_log_is_refused() -> None:
    with pytest.raises(InvariantError, match="out of range"):
        RawNode(a_config(a_storage(1, terms=(1,), commit=2)))


def test_a_node_begins_behind_a_snapshot() -> None:
    storage = MemoryStorage()
    conf_state = ConfState(voters=(1, 2), learners=(3,))
    storage.apply_snapshot(Snapshot(b"", SnapshotMetadata(5, 2, conf_state)))

    node = RawNode(a_config(storage, applied=5))

    assert node.status().config.conf_state() == conf_state
    assert node.status().last_index == 5


def test_a_first_member_can_be_bootstrapped() -> None:
    storage = MemoryStorage()
    node = RawNode(a_config(storage))

    node.bootstrap([(1, b"one"), (2, b"two")])
    ready = node.ready()

    assert ready.hard_state == HardState(1, 0, 2)
    contexts = [decode(e.type, e.data).context for e in ready.committed_entries]
    assert contexts == [b"one", b"two"]
    assert node.status().config.voters == {1, 2}
    storage.append(ready.entries)
    with pytest.raises(ValueError, match="nonempty"):
        RawNode(a_config(storage)).bootstrap([(1, b"")])
    with pytest.raises(ValueError, match="at least one"):
        RawNode(a_config(MemoryStorage())).bootstrap([])


def test_a_restarted_node_may_lead_by_force() -> None:
    network = Network(3, pre_vote=True, check_quorum=True)
    network.elect(1)

    network[1].restart()
    network[1].node.campaign()
    network.settle()
    assert network.leaders() == []
    network[1].node.campaign(force=True)
    network.settle()

    assert network.leaders() == [1]
    assert network[1].node.status().term == 2


def test_nobody_campaigns_with_changes_of_the_configuration_to_apply() -> None:
    storage = a_storage(1)
    kind, data = encode(ConfChange(ConfChangeType.ADD_NODE, 2))
    storage.append([Entry(1, 1, data, kind)])
    storage.set_hard_state(HardState(1, 1, 1))
    node = RawNode(a_config(storage))

    node.campaign(force=True)

    assert node.status().raft_state is FOLLOWER


# A Ready


def test_a_single_voter_commits_by_itself() -> None:
    server = Server(1, (1,))
    server.node.campaign()
    server.pump()

    server.node.propose((b"a", b"b"))
    written = server.node.ready()
    assert [e.data for e in written.entries] == [b"a", b"b"]
    assert written.must_sync
    assert not written.committed_entries
    server.store(written)
    server.node.advance(written)
    committed = server.node.ready()

    assert [e.data for e in committed.committed_entries] == [b"a", b"b"]
    assert committed.hard_state == HardState(1, 1, 3)
    assert not committed.must_sync
    assert not committed.entries


def test_two_readys_are_not_out_at_a_time() -> None:
    server = Server(1, (1,))
    server.node.campaign()
    server.node.ready()

    with pytest.raises(InvariantError, match="without call to Advance"):
        server.node.ready()


def test_what_waits_for_the_disk_is_told_apart() -> None:
    network = Network(3)
    network.elect(1)
    network[1].node.propose((b"x",))

    leading = network[1].node.ready()
    assert [type(m) for m in leading.messages] == [MsgApp, MsgApp]
    network[2].node.step(leading.messages[0])
    following = network[2].node.ready()

    assert [type(m) for m in following.messages] == [MsgAppResp]
    assert following.must_sync


def test_entries_are_applied_in_pieces() -> None:
    server = Server(1, (1,), max_committed_size_per_ready=2 * (4 + 2 + 100))
    server.node.campaign()
    server.pump()
    server.node.propose([b"x" * 100] * 5)
    sizes = []

    while server.node.has_ready():
        ready = server.node.ready()
        server.store(ready)
        sizes.append(len(ready.committed_entries))
        server.node.advance(ready)

    assert sizes == [0, 2, 2, 1]


def test_a_log_that_lags_does_not_stop_the_next_write() -> None:
    storage = a_storage(1)
    node = RawNode(a_config(storage, async_storage_writes=True))
    node.campaign()
    vote = node.ready().messages[0]
    node.step(vote.responses[0])  # type: ignore[union-attr]
    node.ready()

    node.propose((b"x",))
    ready = node.ready()

    assert [e.index for e in ready.entries] == [2]
    assert not node.has_ready()
    with pytest.raises(InvariantError, match="AsyncStorageWrites"):
        node.advance(ready)


def test_nobody_leads_before_its_own_vote_is_durable() -> None:
    """Else who forgets it in a power loss could be elected to the same term again."""
    node = RawNode(a_config(a_storage(1, 2, 3), async_storage_writes=True))
    node.campaign()
    append = next(m for m in node.ready().messages if isinstance(m, MsgStorageAppend))
    term = node.raft.term

    for other in (2, 3):
        node.step(MsgVoteResp(from_=other, to=1, term=term))
    before = node.raft.state
    for response in append.responses:
        node.step(response)

    assert before is CANDIDATE
    assert node.raft.state is LEADER
    assert node.raft.term == term


# What is refused


def test_a_peer_can_not_send_what_is_local() -> None:
    node = RawNode(a_config(a_storage(1, 2)))

    for kind in LOCAL_MESSAGES:
        with pytest.raises(StepLocalMessageError):
            node.step(kind(1, 2, 0))
    node.step(MsgStorageAppendResp(1, LOCAL_APPEND_THREAD, 0))


@pytest.mark.parametrize("kind", [MsgAppResp, MsgVoteResp, MsgHeartbeatResp, MsgReadIndexResp])
def test_a_stranger_is_not_asked_so_it_can_not_answer(kind: Any) -> None:
    node = RawNode(a_config(a_storage(1, 2)))

    with pytest.raises(StepPeerNotFoundError):
        node.step(kind(1, 7, 0))
    assert not node.has_ready()


def test_without_a_leader_proposals_are_dropped() -> None:
    node = RawNode(a_config(a_storage(1, 2)))

    with pytest.raises(ProposalDroppedError):
        node.propose((b"x",))
    node.campaign()
    with pytest.raises(ProposalDroppedError):
        node.propose((b"x",))


def test_a_follower_passes_proposals_on_unless_told_not_to() -> None:
    network = Network(3)
    network.elect(1)

    network[2].node.propose((b"a", b"b"))
    network.settle()

    assert all(s.datas() == [b"a", b"b"] for s in network.servers.values())
    network[3].node.raft.disable_proposal_forwarding = True
    with pytest.raises(ProposalDroppedError):
        network[3].node.propose((b"c",))


def test_no_more_is_proposed_than_may_be_uncommitted() -> None:
    network = Network(3, max_uncommitted_entries_size=100)
    leader = network.elect(1)
    network.isolate(1)

    leader.propose((b"x" * 60,))
    with pytest.raises(ProposalDroppedError):
        leader.propose((b"x" * 60,))
    leader.propose((b"x" * 40,))
    leader.propose((b"",))
    network.heal()
    network.tick(2)

    assert network[1].applied_index == 4
    leader.propose((b"x" * 200,))
    with pytest.raises(ProposalDroppedError):
        leader.propose((b"x",))


def test_messages_are_no_larger_than_allowed() -> None:
    network = Network(2, max_size_per_msg=250)
    leader = network.elect(1)
    network.isolate(2)
    for _ in range(4):
        leader.propose((b"x" * 100,))
    network.settle()
    network.heal()
    sizes: list[int] = []

    def watch(message: Message) -> bool:
        if isinstance(message, MsgApp):
            sizes.append(len(message.entries))
        return False

    network.lose = watch

    network.tick(2)

    assert network[2].datas() == [b"x" * 100] * 4
    assert max(sizes) == 2


# Membership


def test_a_refused_change_is_applied_as_nothing() -> None:
    server = Server(1, (1,))
    server.node.campaign()
    server.pump()

    same = server.node.apply_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 0))

    assert same == ConfState(voters=(1,))
    with pytest.raises(ConfChangeError):
        server.node.apply_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    assert server.node.status().config.voters == {1}


def test_two_changes_in_one_proposal_are_one_too_many() -> None:
    server = Server(1, (1,))
    server.node.campaign()
    server.pump()
    kind, data = encode(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 2))
    change = Entry(0, 0, data, kind)

    server.node.step(MsgProp(1, 1, 0, (Entry(0, 0, b"x"), change, change)))
    entries = server.node.ready().entries

    assert [(e.index, e.type) for e in entries] == [
        (2, EntryType.NORMAL),
        (3, EntryType.CONF_CHANGE),
        (4, EntryType.NORMAL),
    ]
    assert entries[2].data == b""


def test_a_new_leader_refuses_changes_until_it_has_applied_those_in_its_log() -> None:
    storage = a_storage(1)
    kind, data = encode(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 2))
    storage.append([Entry(1, 1, data, kind)])
    storage.set_hard_state(HardState(1, 1, 0))
    node = RawNode(a_config(storage))
    node.campaign()
    node.advance(node.ready())
    assert node.is_leader

    node.propose_conf_change(ConfChange(ConfChangeType.ADD_LEARNER_NODE, 3))

    assert [e.type for e in node.ready().entries] == [EntryType.NORMAL] * 2


def test_a_joint_configuration_is_left_by_itself() -> None:
    network = Network(3)
    leader = network.elect(1)

    leader.propose_conf_change(ConfChangeV2(parse_changes("r1 l2")))
    network.settle()

    final = ConfState(voters=(3,), learners=(2,))
    assert network[3].node.status().config.conf_state() == final
    assert network[2].node.raft.is_learner


def test_a_leader_that_removes_itself_steps_down_if_told() -> None:
    network = Network(3, step_down_on_removal=True)
    leader = network.elect(1)

    leader.propose_conf_change(ConfChange(ConfChangeType.REMOVE_NODE, 1))
    network.settle()

    assert leader.status().raft_state is FOLLOWER
    with pytest.raises(ProposalDroppedError):
        leader.propose((b"x",))


# Snapshots


def test_a_snapshot_replaces_log_and_configuration() -> None:
    storage = a_storage(1, 2, terms=(1, 1), commit=1)
    node = RawNode(a_config(storage))
    snapshot = Snapshot(b"s", SnapshotMetadata(7, 2, ConfState(voters=(1, 2, 3))))

    node.step(MsgSnap(1, 2, 2, snapshot))
    ready = node.ready()

    assert ready.snapshot is snapshot
    assert ready.hard_state == HardState(2, 0, 7)
    assert ready.messages == (MsgAppResp(2, 1, 2, 7),)
    assert not ready.committed_entries
    node.campaign()
    assert node.status().raft_state is FOLLOWER
    storage.apply_snapshot(snapshot)
    node.advance(ready)
    assert node.status().applied == 7
    assert node.status().config.voters == {1, 2, 3}


@pytest.mark.parametrize(
    ("snapshot", "acknowledged"),
    [
        (Snapshot(b"", SnapshotMetadata(1, 1, ConfState(voters=(1, 2)))), 1),
        (Snapshot(b"", SnapshotMetadata(2, 1, ConfState(voters=(1, 2)))), 2),
        (Snapshot(b"", SnapshotMetadata(9, 1, ConfState(voters=(2, 3)))), 1),
    ],
    ids=["older than the commit", "in the log already", "without us"],
)
def test_a_snapshot_of_no_use_is_ignored(snapshot: Snapshot, acknowledged: int) -> None:
    node = RawNode(a_config(a_storage(1, 2, terms=(1, 1), commit=1)))

    node.step(MsgSnap(1, 2, 1, snapshot))
    ready = node.ready()

    assert ready.snapshot is None
    assert ready.messages == (MsgAppResp(2, 1, 1, acknowledged),)
    assert node.status().commit == acknowledged


@pytest.mark.parametrize("ok", [True, False])
def test_the_end_of_sending_a_snapshot_is_told(ok: bool) -> None:
    network = Network(3)
    leader = network.elect(1)
    network.isolate(3)
    leader.propose((b"x",))
    network.tick(2, 1)
    network[1].compact()
    network.lose = lambda m: isinstance(m, MsgSnap)
    network.tick(1, 1)
    sent = leader.status().progress[3]
    assert (str(sent.state), sent.match, sent.pending_snapshot) == ("StateSnapshot", 1, 2)

    leader.report_snapshot(3, ok)

    after = leader.status().progress[3]
    assert str(after.state) == "StateProbe"
    assert after.next == (3 if ok else 2)
    assert after.is_paused()
    network.heal()
    network.tick(3)
    assert network[3].applied_index == 2


# Status


def test_the_status_is_written_as_etcd_does() -> None:
    network = Network(2)
    leader = network.elect(1)

    assert str(leader.status()) == (
        '{"id":"1","term":1,"vote":"1","commit":1,"lead":"1","raftState":"StateLeader",'
        '"applied":1,"progress":{"1":{"match":1,"next":2,"state":"StateReplicate"},'
        '"2":{"match":1,"next":2,"state":"StateReplicate"}},"leadtransferee":"0"}'
    )
    assert network[2].node.status().progress == {}


def test_a_vote_is_given_once_a_term() -> None:
    node = RawNode(a_config(a_storage(1, 2, 3)))

    node.step(MsgVote(1, 2, 1))
    node.step(MsgVote(1, 3, 1))
    node.step(MsgVote(1, 2, 1))

    answers = node.ready().messages
    assert answers == (
        MsgVoteResp(2, 1, 1),
        MsgVoteResp(3, 1, 1, True),
        MsgVoteResp(2, 1, 1),
    )


def test_a_heartbeat_commits_only_what_is_there() -> None:
    node = RawNode(a_config(a_storage(1, 2, terms=(1,), commit=0)))

    with pytest.raises(InvariantError, match="lost"):
        node.step(MsgHeartbeat(1, 2, 1, commit=2))


def test_a_quiesced_node_does_not_campaign() -> None:
    node = RawNode(a_config(a_storage(1)))

    for _ in range(50):
        node.tick_quiesced()
    assert node.status().raft_state is FOLLOWER
    node.tick()
    node.advance(node.ready())

    assert node.status().raft_state is LEADER
    assert node.raft.log.slice(1, 2, NO_LIMIT) == (Entry(1, 1),)
