"""Whom a leader asks first."""

from __future__ import annotations

from actors.raft_quorum import Quorum
from raft.config import Config
from raft.raw_node import RawNode
from raft.state import ConfState, HardState, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage


def quorum_of(*voters: int, outgoing: tuple[int, ...] = ()) -> Quorum:
    """Return the view of member 1."""
    storage = MemoryStorage()
    conf_state = ConfState(voters, (), outgoing)
    storage.apply_snapshot(Snapshot(b"", SnapshotMetadata(5, 1, conf_state)))
    storage.set_hard_state(HardState(1, 0, 5))
    return Quorum(
        RawNode(Config(id=1, election_tick=10, heartbeat_tick=1, storage=storage, rng=lambda _: 0)),
        1,
    )


def spare(quorum: Quorum, *members: int) -> list[int]:
    return [member for member in members if quorum.is_spare(member)]


def test_of_three_members_one_is_spare_and_of_five_two() -> None:
    assert spare(quorum_of(1, 2, 3), 2, 3) == [3]
    assert spare(quorum_of(1, 2, 3, 4, 5), 2, 3, 4, 5) == [4, 5]


def test_of_two_or_four_as_many_are_asked_as_a_majority_needs() -> None:
    assert spare(quorum_of(1, 2), 2) == []
    assert spare(quorum_of(1, 2, 3, 4), 2, 3, 4) == [4]


def test_who_was_needed_is_asked_first() -> None:
    quorum = quorum_of(1, 2, 3)
    assert spare(quorum, 2, 3) == [3]

    quorum.missed(3)

    assert spare(quorum, 2, 3) == [2]


def test_while_two_configurations_are_joined_nobody_is_spare() -> None:
    assert spare(quorum_of(1, 2, 3, outgoing=(1, 2, 4)), 2, 3, 4) == []


def test_a_leader_that_is_no_voter_needs_one_more() -> None:
    assert spare(quorum_of(2, 3, 4), 2, 3, 4) == [4]
