"""The log: its two halves, its marks, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import CompactedError, InvariantError, UnavailableError
from raft.log import RaftLog
from raft.size import NO_LIMIT, entries_size, entry_size, limit_size
from raft.state import ConfState, Entry, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage
from raft.unstable import Unstable


def entries(first: int, *terms: int) -> list[Entry]:
    return [Entry(term, first + i, b"x") for i, term in enumerate(terms)]


def a_log(*terms: int, stable: int = 0) -> RaftLog:
    """Return a log of entries 1.. with these terms, the first `stable` of them in storage."""
    storage = MemoryStorage()
    everything = entries(1, *terms)
    storage.append(everything[:stable])
    log = RaftLog(storage)
    log.append(everything[stable:])
    return log


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 3), st.integers(0, 40))
def test_both_halves_look_like_one(count: int, stable: int, compacted: int, limit: int) -> None:
    terms = range(1, count + 1)
    stable = min(stable, count)
    compacted = min(compacted, stable)
    log = a_log(*terms, stable=stable)
    if compacted:
        assert isinstance(log.storage, MemoryStorage)
        log.storage.compact(compacted)

    everything = tuple(entries(1, *terms))
    assert (log.first_index(), log.last_index()) == (compacted + 1, count)
    assert [log.term(i) for i in range(compacted, count + 1)] == list(range(compacted, count + 1))
    assert log.slice(compacted + 1, count + 1, NO_LIMIT) == everything[compacted:]
    assert log.entries(compacted + 1, limit) == limit_size(everything[compacted:], limit)


def test_a_term_outside_of_the_log_is_refused_with_the_reason() -> None:
    log = a_log(1, 1, 2, stable=3)
    assert isinstance(log.storage, MemoryStorage)
    log.storage.compact(2)

    assert log.term(2) == 1
    with pytest.raises(CompactedError):
        log.term(1)
    with pytest.raises(UnavailableError):
        log.term(4)
    assert log.term_or_zero(1) == log.term_or_zero(4) == 0
    assert not log.match_term(1, 1)
    assert not log.match_term(4, 2)
    with pytest.raises(CompactedError):
        log.slice(2, 4, NO_LIMIT)
    with pytest.raises(InvariantError, match="out of bound"):
        log.slice(3, 5, NO_LIMIT)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (entries(1, 1, 2, 3), 0),
        (entries(2, 2, 3), 0),
        (entries(1, 1, 2, 3, 4, 4), 4),
        (entries(4, 4, 4), 4),
        (entries(1, 4, 4), 1),
        (entries(2, 1, 4, 4), 2),
        ([], 0),
    ],
)
def test_a_conflict_is_the_first_entry_that_differs_or_is_new(
    sent: list[Entry], expected: int
) -> None:
    assert a_log(1, 2, 3).find_conflict(sent) == expected


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [(7, 4, (7, 4)), (7, 3, (4, 2)), (7, 1, (2, 1)), (3, 9, (3, 2)), (2, 0, (0, 0))],
)
def test_looking_for_a_match_skips_terms_that_are_too_high(
    index: int, term: int, expected: tuple[int, int]
) -> None:
    log = a_log(1, 1, 2, 2, 4, 4, 4)

    found = log.find_conflict_by_term(index, term)

    assert found == (expected if expected != (0, 0) else (0, 0))


def test_looking_for_a_match_ends_where_the_log_is_compacted() -> None:
    log = a_log(1, 3, 3, 3, stable=4)
    assert isinstance(log.storage, MemoryStorage)
    log.storage.compact(2)

    assert log.find_conflict_by_term(4, 2) == (1, 0)


def test_an_append_that_agrees_changes_nothing_but_the_commit() -> None:
    log = a_log(1, 2, 3)

    last = log.maybe_append(1, 1, entries(2, 2), commit=3)

    assert last == 2
    assert log.last_index() == 3
    assert log.committed == 2


def test_an_append_that_conflicts_replaces_the_rest() -> None:
    log = a_log(1, 2, 3)

    last = log.maybe_append(1, 1, entries(2, 4), commit=1)

    assert last == 2
    assert log.last_index() == 2
    assert log.term(2) == 4


def test_an_append_without_its_predecessor_is_refused() -> None:
    log = a_log(1, 2, 3)

    assert log.maybe_append(3, 2, entries(4, 4), commit=4) is None
    assert log.maybe_append(5, 3, entries(6, 4), commit=6) is None
    assert log.last_index() == 3
    assert log.committed == 0


def test_what_is_committed_is_never_replaced() -> None:
    log = a_log(1, 2, 3)
    log.commit_to(2)

    with pytest.raises(InvariantError, match="conflict with committed entry"):
        log.maybe_append(1, 1, entries(2, 4), commit=2)
    with pytest.raises(InvariantError, match="out of range"):
        log.append(entries(1, 4))
    with pytest.raises(InvariantError, match=r"Was the raft log corrupted, truncated, or lost\?"):
        log.commit_to(4)


def test_only_entries_of_the_own_term_are_committed_by_counting() -> None:
    log = a_log(1, 2, 3)

    assert not log.maybe_commit(2, 3)
    assert not log.maybe_commit(3, 0)
    assert log.maybe_commit(3, 3)
    assert not log.maybe_commit(3, 3)


def test_a_log_is_compared_by_its_end() -> None:
    log = a_log(1, 2, 3)

    assert log.is_up_to_date(3, 3)
    assert log.is_up_to_date(1, 4)
    assert not log.is_up_to_date(2, 3)
    assert not log.is_up_to_date(9, 2)


def test_marks_stay_in_order() -> None:
    log = a_log(1, 1, 1)
    log.commit_to(2)
    log.accept_applying(2, 0, True)
    log.applied_to(1, 0)

    with pytest.raises(InvariantError):
        log.applied_to(0, 0)
    with pytest.raises(InvariantError):
        log.applied_to(3, 0)
    with pytest.raises(InvariantError):
        log.accept_applying(3, 0, True)


def test_entries_that_are_not_durable_are_applied_only_if_allowed() -> None:
    log = a_log(1, 1, 1, stable=1)
    log.commit_to(3)

    assert [e.index for e in log.next_committed_entries(True)] == [1, 2, 3]
    assert [e.index for e in log.next_committed_entries(False)] == [1]


def test_no_more_is_handed_out_than_may_be_applied_at_a_time() -> None:
    size = entry_size(entries(1, 1)[0])
    storage = MemoryStorage()
    log = RaftLog(storage, max_applying_size=2 * size)
    log.append(entries(1, 1, 1, 1, 1, 1))
    log.commit_to(5)

    first = log.next_committed_entries(True)
    log.accept_applying(first[-1].index, entries_size(first), True)

    assert [e.index for e in first] == [1, 2]
    assert log.next_committed_entries(True) == ()
    log.applied_to(1, size)
    assert [e.index for e in log.next_committed_entries(True)] == [3]


def test_nothing_is_applied_before_a_snapshot_is_installed() -> None:
    log = a_log(1, 1)
    log.restore(Snapshot(b"", SnapshotMetadata(7, 2, ConfState())))
    log.append(entries(8, 2))
    log.commit_to(8)

    assert (log.first_index(), log.last_index(), log.term(7)) == (8, 8, 2)
    assert not log.has_next_committed_entries(True)
    log.unstable.stable_snap_to(7)
    assert log.unstable.snapshot is None


# The unstable tail


def test_an_answer_about_replaced_entries_says_nothing() -> None:
    said: list[str] = []
    tail = Unstable(5, lambda level, text: said.append(text))
    tail.truncate_and_append(entries(5, 1, 1, 1))
    tail.accept_in_progress()
    tail.truncate_and_append(entries(6, 2))

    tail.stable_to(6, 1)
    tail.stable_to(7, 1)

    assert tail.offset == 5
    assert [e.index for e in tail.next_entries()] == [6]
    assert "mismatched" in said[1]
    assert "missing" in said[2]
    tail.stable_to(6, 2)
    assert (tail.offset, tail.entries) == (7, [])


def test_entries_are_handed_out_once() -> None:
    tail = Unstable(1)
    tail.truncate_and_append(entries(1, 1, 1))
    tail.accept_in_progress()
    tail.truncate_and_append(entries(3, 1))

    assert [e.index for e in tail.next_entries()] == [3]
    tail.stable_to(2, 1)
    assert [e.index for e in tail.next_entries()] == [3]
    tail.truncate_and_append(entries(2, 2, 2))
    assert [e.index for e in tail.next_entries()] == [2, 3]


def test_what_was_handed_out_does_not_change_when_it_is_replaced() -> None:
    tail = Unstable(1)
    tail.truncate_and_append(entries(1, 1, 1, 1))
    out = tail.next_entries()
    tail.accept_in_progress()

    tail.truncate_and_append(entries(2, 2))

    assert [e.term for e in out] == [1, 1, 1]


def test_a_gap_is_refused() -> None:
    tail = Unstable(5)

    with pytest.raises(InvariantError, match="out of bound"):
        tail.truncate_and_append(entries(7, 1))
    with pytest.raises(InvariantError, match="invalid"):
        tail.slice(6, 5)


def test_an_answer_about_the_snapshot_does_not_touch_entries() -> None:
    tail = Unstable(5)
    tail.restore(Snapshot(b"", SnapshotMetadata(9, 3, ConfState())))
    tail.truncate_and_append(entries(10, 3))

    tail.stable_to(9, 3)
    tail.stable_snap_to(8)

    assert tail.maybe_term(9) == 3
    assert tail.next_snapshot() is not None
    tail.accept_in_progress()
    assert tail.next_snapshot() is None


# Sizes


@given(st.lists(st.binary(max_size=50)), st.integers(0, 300))
def test_a_run_of_entries_is_cut_to_the_size_but_not_to_nothing(
    datas: list[bytes], limit: int
) -> None:
    run = tuple(Entry(1, i, data) for i, data in enumerate(datas, 1))

    cut = limit_size(run, limit)

    assert cut == run[: len(cut)]
    assert len(cut) >= min(1, len(run))
    assert len(cut) <= 1 or entries_size(cut) <= limit
    assert cut == run or entries_size(run[: len(cut) + 1]) > limit


@pytest.mark.parametrize(
    ("entry", "size"),
    [(Entry(1, 2), 4), (Entry(300, 2, b"abc"), 10), (Entry(1, 1, b"a" * 200, 1), 4 + 2 + 203)],
)
def test_an_entry_counts_as_many_bytes_as_raftpb_takes(entry: Entry, size: int) -> None:
    assert entry_size(entry) == size
