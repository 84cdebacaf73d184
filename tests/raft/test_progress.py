"""What a leader knows of a follower: progress and the window of messages under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import InvariantError
from raft.inflights import Inflights
from raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress, ProgressState


def progress(state: ProgressState, match: int, next_: int, pending: int = 0) -> Progress:
    made = Progress(match, next_, Inflights(256))
    made.state = state
    made.pending_snapshot = pending
    return made


def test_it_is_written_as_etcd_does() -> None:
    made = Progress(1, 2, Inflights(1), is_learner=True)
    made.become_snapshot(123)

    assert str(made) == "StateSnapshot match=1 next=124 learner paused pendingSnap=123 inactive"
    made.become_replicate()
    made.recent_active = True
    made.sent_entries(1, 10)
    assert str(made) == "StateReplicate match=1 next=3 learner paused inflight=1[full]"


@pytest.mark.parametrize(
    ("state", "paused", "expected"),
    [
        (PROBE, False, False),
        (PROBE, True, True),
        (REPLICATE, False, False),
        (REPLICATE, True, True),
        (SNAPSHOT, False, True),
        (SNAPSHOT, True, True),
    ],
)
def test_a_snapshot_under_way_pauses_everything(
    state: ProgressState, paused: bool, expected: bool
) -> None:
    made = progress(state, 0, 1)
    made.msg_app_flow_paused = paused

    assert made.is_paused() is expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (progress(REPLICATE, 1, 5), 2),
        (progress(SNAPSHOT, 1, 5, pending=10), 11),
        (progress(SNAPSHOT, 1, 5, pending=0), 2),
    ],
)
def test_probing_begins_behind_what_the_follower_has(made: Progress, expected: int) -> None:
    made.become_probe()

    assert (made.state, made.match, made.next) == (PROBE, 1, expected)
    assert made.pending_snapshot == 0


@pytest.mark.parametrize(("acked", "new", "expected"), [(2, False, 5), (3, False, 5), (4, True, 5)])
def test_an_acknowledgement_never_goes_back(acked: int, new: bool, expected: int) -> None:
    made = progress(REPLICATE, 3, 5)

    assert made.maybe_update(acked) is new
    assert (made.match, made.next) == (max(3, acked), expected)
    assert made.maybe_update(9)
    assert (made.match, made.next) == (9, 10)


@pytest.mark.parametrize(
    ("state", "match", "next_", "rejected", "hint", "changed", "next_after"),
    [
        # Replicate: a rejection at or below what is acknowledged is out of date.
        (REPLICATE, 5, 10, 5, 5, False, 10),
        (REPLICATE, 5, 10, 4, 4, False, 10),
        (REPLICATE, 5, 10, 9, 9, True, 6),
        # Probe: only the last probe can be rejected.
        (PROBE, 0, 0 + 1, 5, 5, False, 1),
        (PROBE, 0, 10, 5, 5, False, 10),
        (PROBE, 0, 10, 9, 9, True, 9),
        (PROBE, 0, 10, 9, 2, True, 3),
        (PROBE, 0, 10, 9, 0, True, 1),
        (PROBE, 4, 10, 9, 0, True, 5),
    ],
)
def test_a_rejection_moves_back_as_far_as_the_hint_says(
    state: ProgressState,
    match: int,
    next_: int,
    rejected: int,
    hint: int,
    changed: bool,
    next_after: int,
) -> None:
    made = progress(state, match, next_)

    assert made.maybe_decr_to(rejected, hint) is changed
    assert (made.match, made.next) == (match, next_after)


def test_a_probe_waits_for_its_answer_and_a_stream_for_room() -> None:
    probing = progress(PROBE, 1, 2)
    probing.sent_entries(0, 0)
    assert not probing.is_paused()
    probing.sent_entries(3, 30)
    assert probing.is_paused()
    assert probing.next == 2

    streaming = Progress(1, 2, Inflights(2))
    streaming.become_replicate()
    streaming.sent_entries(3, 30)
    assert (streaming.next, streaming.is_paused()) == (5, False)
    streaming.sent_entries(1, 10)
    assert (streaming.next, streaming.is_paused()) == (6, True)

    with pytest.raises(InvariantError, match="StateSnapshot"):
        progress(SNAPSHOT, 1, 2).sent_entries(1, 1)


def test_a_commit_is_told_only_if_it_tells_anything() -> None:
    made = progress(REPLICATE, 3, 6)
    made.sent_commit = 4

    assert made.can_bump_commit(5)
    assert not made.can_bump_commit(4)
    made.sent_commit = 5
    assert not made.can_bump_commit(9)


def test_match_below_next_is_asserted() -> None:
    with pytest.raises(InvariantError, match="not below next"):
        Progress(5, 5, Inflights(1))


# The window


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=40),
    st.integers(1, 5),
    st.integers(1, 30),
)
def test_the_window_holds_what_was_sent_and_not_acknowledged(
    sent: list[tuple[int, int]], max_messages: int, max_bytes: int
) -> None:
    window = Inflights(max_messages, max_bytes)
    model: list[tuple[int, int]] = []
    index = 0
    for step, (gap, size) in enumerate(sent):
        index += gap
        full = len(model) >= max_messages or sum(s for _, s in model) >= max_bytes
        assert window.full() is full
        if full:
            window.free_le(model[step % len(model)][0])
            model = [m for m in model if m[0] > model[step % len(model)][0]]
        else:
            window.add(index, size)
            model.append((index, size))
        assert len(window) == len(model)
        assert window.bytes == sum(s for _, s in model)


def test_a_full_window_takes_nothing_more() -> None:
    window = Inflights(2, 100)
    window.add(1, 150)

    with pytest.raises(InvariantError, match="cannot add into a Full inflights"):
        window.add(2, 1)
    window.free_le(1)
    window.add(2, 1)
    window.add(2, 1)
    with pytest.raises(InvariantError):
        window.add(3, 1)
    window.reset()
    assert (len(window), window.bytes) == (0, 0)


def test_a_copy_has_its_own_window() -> None:
    made = progress(REPLICATE, 1, 2)
    made.sent_entries(1, 5)

    copy = made.clone(inflights=True)
    made.maybe_update(2)
    made.inflights.free_le(2)

    assert (copy.match, copy.next, len(copy.inflights)) == (1, 3, 1)
    assert str(copy) == "StateReplicate match=1 next=3 inactive inflight=1"
