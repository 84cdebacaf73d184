"""A snapshot of the leader and what the raft node does in the turn in which it comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.messages import AppliedTo, SnapshotReceived
from actors.metrics import RaftMetric
from actors.peer_codec import encode_peer
from raft.change import ConfChange, ConfChangeType, encode
from raft.messages import MsgApp, MsgSnap
from raft.state import ConfState, Entry, Snapshot, SnapshotMetadata
from tests.actors.test_raft_cluster import Bench
from transport.mailbox import Flush

LEARNER = 0x77


@pytest.mark.parametrize("told_by", ["the board", "a message"])
def test_a_change_applied_when_a_snapshot_comes_is_not_made_on_top_of_it(
    tmp_path: Path, told_by: str
) -> None:
    """The change is in the log and applied; the snapshot is from after it was taken back."""
    bench = Bench(tmp_path)
    leader = bench.elect()
    follower = bench.others(leader)[0]
    actor, term = follower.actor, leader.word(RaftMetric.TERM)
    last = actor._storage.last_index()
    kind, data = encode(ConfChange(ConfChangeType.ADD_LEARNER_NODE, LEARNER))
    changed = Entry(term, last + 1, data, kind)
    actor._step(MsgApp(follower.id, leader.id, term, term, last, (changed,), last + 1))
    actor.flush(Flush())
    conf_state = ConfState(voters=tuple(sorted(bench.nodes)))
    snapshot = Snapshot(b"", SnapshotMetadata(last + 10, term, conf_state))

    actor._words[follower.applied_word] = last + 1
    payload = encode_peer(MsgSnap(follower.id, leader.id, term, snapshot))
    actor.snapshot_received(SnapshotReceived(payload))
    if told_by == "a message":
        actor.applied_to(AppliedTo(last + 1))
    actor.flush(Flush())

    assert actor._node.raft.tracker.config.conf_state() == conf_state
    assert set(actor._node.raft.tracker.progress) == set(bench.nodes)
    assert actor._conf_state == conf_state
    assert actor._applied_index == last + 10
    assert not actor._log.conf_indexes
    for node in bench.nodes.values():
        node.kill()
