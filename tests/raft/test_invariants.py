"""What the docstrings call invariants is asserted: each, once broken, stops the next Ready."""

from __future__ import annotations

from collections.abc import Callable
from timeit import repeat
from typing import Any

import pytest

from raft.change import ConfChange, ConfChangeType
from raft.config import Config
from raft.errors import InvariantError, ProposalDroppedError
from raft.messages import MsgAppResp, MsgHeartbeat, MsgVoteResp
from raft.progress import ProgressState
from raft.raw_node import RawNode
from raft.roles import FOLLOWER
from raft.state import ConfState, Entry, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage
from raft.tracker import TrackerConfig

CHECK_SECONDS_MAX = 3e-6


def a_leader(**settings: Any) -> RawNode:
    """A leader of three in term 1 that has told everything; a proposal is to be told."""
    storage = MemoryStorage(conf_state=ConfState(voters=(1, 2, 3)))
    node = RawNode(
        Config(
            id=1, election_tick=10, heartbeat_tick=1, storage=storage, rng=lambda n: 0, **settings
        )
    )
    node.campaign()
    for _ in range(3):
        while node.has_ready():
            ready = node.ready()
            storage.append(ready.entries)
            node.advance(ready)
        node.step(MsgVoteResp(1, 2, 1))
    assert node.is_leader
    node.propose([b"x", b"y"])
    return node


def a_follower() -> RawNode:
    """A follower of nobody."""
    storage = MemoryStorage(conf_state=ConfState(voters=(1, 2, 3)))
    return RawNode(
        Config(id=1, election_tick=10, heartbeat_tick=1, storage=storage, rng=lambda n: 0)
    )


def a_snapshot(index: int) -> Snapshot:
    return Snapshot(b"", SnapshotMetadata(index, 1, ConfState(voters=(1, 2, 3))))


def set_on(path: str, value: object) -> Callable[[RawNode], None]:
    """Return what sets an attribute of a node's parts."""
    *parts, last = path.split(".")

    def break_it(node: RawNode) -> None:
        target: object = node.raft
        for part in parts:
            target = target[int(part)] if part.isdigit() else getattr(target, part)  # type: ignore[index]
        setattr(target, last, value)

    return break_it


def in_flight_and(node: RawNode, state: ProgressState) -> None:
    progress = node.raft.tracker.progress[2]
    progress.inflights.add(5, 1)
    progress.state = state


BROKEN: dict[str, Callable[[RawNode], None]] = {
    "the term goes back": set_on("term", 0),
    "a second vote in the term": set_on("vote", 2),
    "a leader that follows another": set_on("lead", 2),
    "a follower of itself": set_on("state", FOLLOWER),
    "a configuration change behind the log": set_on("pending_conf_index", 99),
    "a message that need not wait": lambda node: node.raft.msgs_after_append.append(
        MsgHeartbeat(2, 1, 1, 0)  # type: ignore[arg-type]
    ),
    "applied beyond applying": set_on("log.applied", 99),
    "applying beyond committed": set_on("log.applying", 99),
    "committed beyond the log": set_on("log.committed", 99),
    "unstable entries that begin elsewhere": set_on("log.unstable.offset", 1),
    "unstable entries with a gap": lambda node: node.raft.log.unstable.entries.append(Entry(1, 9)),
    "more in progress than there is": set_on("log.unstable.offset_in_progress", 99),
    "a snapshot behind the entries": set_on("log.unstable.snapshot", a_snapshot(99)),
    "acknowledged what is still to be sent": set_on("tracker.progress.2.match", 99),
    "in flight while probing": lambda node: node.raft.tracker.progress[2].inflights.add(5, 1),
    "a pending snapshot while probing": set_on("tracker.progress.2.pending_snapshot", 5),
    "in flight while a snapshot is sent": lambda node: in_flight_and(node, ProgressState.SNAPSHOT),
    "acknowledged a read that nobody asked": lambda node: node.raft.read_only._acks.update({2: 9}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_invariant_stops_the_next_ready(name: str) -> None:
    node = a_leader()
    node.raft.check()

    BROKEN[name](node)

    with pytest.raises(InvariantError):
        node.ready()


def test_answers_that_must_wait_for_the_disk_are_not_sent_before_it() -> None:
    with pytest.raises(InvariantError):
        a_follower().raft.send(MsgAppResp(2, 1, 0, 1))


def test_a_snapshot_replaces_nothing_committed() -> None:
    node = a_leader()
    node.raft.log.committed = 1

    with pytest.raises(InvariantError):
        node.raft.log.restore(a_snapshot(1))


def test_progress_is_kept_of_exactly_the_members() -> None:
    tracker = a_follower().raft.tracker
    progress = dict(tracker.progress)

    with pytest.raises(InvariantError):
        tracker.switch(TrackerConfig(voters=frozenset({1, 2})), progress)


def test_a_change_that_was_dropped_bars_no_later_one() -> None:
    node = a_leader(max_uncommitted_entries_size=1)
    before = node.raft.pending_conf_index

    with pytest.raises(ProposalDroppedError):
        node.propose_conf_change(ConfChange(ConfChangeType.ADD_NODE, 4))

    assert node.raft.pending_conf_index == before
    node.ready()


def test_the_check_costs_next_to_nothing() -> None:
    node = a_leader()

    seconds = min(repeat(node._check, number=200, repeat=50)) / 200

    assert seconds < CHECK_SECONDS_MAX
