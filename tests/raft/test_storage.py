"""MemoryStorage: what raft reads from it and what it refuses."""

from __future__ import annotations

import pytest

from raft.errors import (
    CompactedError,
    InvariantError,
    SnapshotOutOfDateError,
    UnavailableError,
)
from raft.size import NO_LIMIT
from raft.state import ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage


def entries(first: int, *terms: int) -> list[Entry]:
    return [Entry(term, first + i) for i, term in enumerate(terms)]


@pytest.fixture
def storage() -> MemoryStorage:
    """Entries 4 and 5 behind a snapshot at 3."""
    made = MemoryStorage()
    made.apply_snapshot(Snapshot(b"", SnapshotMetadata(3, 3, ConfState(voters=(1,)))))
    made.append(entries(4, 4, 5))
    return made


def test_a_new_storage_is_empty() -> None:
    storage = MemoryStorage()

    assert storage.initial_state() == (HardState(), ConfState())
    assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
    with pytest.raises(UnavailableError):
        storage.entries(1, 1, NO_LIMIT)


def test_the_snapshot_is_known_by_its_term_only(storage: MemoryStorage) -> None:
    assert [storage.term(i) for i in (3, 4, 5)] == [3, 4, 5]
    assert (storage.first_index(), storage.last_index()) == (4, 5)
    with pytest.raises(CompactedError):
        storage.term(2)
    with pytest.raises(UnavailableError):
        storage.term(6)
    with pytest.raises(CompactedError):
        storage.entries(3, 5, NO_LIMIT)
    with pytest.raises(InvariantError):
        storage.entries(4, 7, NO_LIMIT)


def test_entries_are_cut_to_a_size(storage: MemoryStorage) -> None:
    assert [e.index for e in storage.entries(4, 6, NO_LIMIT)] == [4, 5]
    assert [e.index for e in storage.entries(4, 6, 0)] == [4]


@pytest.mark.parametrize(
    ("appended", "expected"),
    [
        (entries(6, 5), [4, 5, 5]),
        (entries(5, 6), [4, 6]),
        (entries(4, 6, 6, 6), [6, 6, 6]),
        (entries(2, 1, 1, 4, 4), [4, 4]),
        (entries(2, 1, 1), [4, 5]),
        ([], [4, 5]),
    ],
)
def test_appended_entries_replace_what_is_in_the_way(
    storage: MemoryStorage, appended: list[Entry], expected: list[int]
) -> None:
    storage.append(appended)

    assert [storage.term(i) for i in range(4, storage.last_index() + 1)] == expected


def test_a_gap_is_refused(storage: MemoryStorage) -> None:
    with pytest.raises(InvariantError, match="missing log entry"):
        storage.append(entries(7, 5))


def test_compaction_keeps_the_term_before_the_log(storage: MemoryStorage) -> None:
    storage.compact(4)

    assert (storage.first_index(), storage.term(4)) == (5, 4)
    with pytest.raises(CompactedError):
        storage.compact(4)
    with pytest.raises(InvariantError):
        storage.compact(6)


def test_a_snapshot_of_the_past_is_refused(storage: MemoryStorage) -> None:
    made = storage.create_snapshot(4, ConfState(voters=(1, 2)), b"data")

    assert made == Snapshot(b"data", SnapshotMetadata(4, 4, ConfState(voters=(1, 2))))
    assert storage.snapshot() is made
    with pytest.raises(SnapshotOutOfDateError):
        storage.create_snapshot(4)
    with pytest.raises(SnapshotOutOfDateError):
        storage.apply_snapshot(made)
    with pytest.raises(InvariantError):
        storage.create_snapshot(6)


def test_the_configuration_can_be_newer_than_the_snapshot(storage: MemoryStorage) -> None:
    storage.set_conf_state(ConfState(voters=(1, 2, 3)))
    storage.set_hard_state(HardState(2, 1, 4))

    assert storage.initial_state() == (HardState(2, 1, 4), ConfState(voters=(1, 2, 3)))
