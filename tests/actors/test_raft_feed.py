"""What the applier is given, from wherever it stands."""

from __future__ import annotations

from math import inf

from actors.messages import Apply, CommittedTo, InstallSnapshot
from actors.raft_feed import UNHURRIED_SECONDS, Feed
from raft.messages import LOCAL_APPLY_THREAD, MsgStorageApply, MsgStorageApplyResp
from raft.state import ConfState, Entry, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage


class Applier:
    """Catches what is sent."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.open = True

    def send(self, message: object, items: int) -> bool:
        """Take a message."""
        self.sent.append(message)
        return True

    def indexes(self) -> list[int]:
        """Return the indexes of all entries sent."""
        return [
            apply.first_index + place
            for apply in self.sent
            if isinstance(apply, Apply)
            for place in range(len(apply.datas))
        ]


def log_of(count: int) -> MemoryStorage:
    """Return a log of `count` entries of term 1."""
    storage = MemoryStorage()
    storage.append([Entry(1, index, b"x") for index in range(1, count + 1)])
    return storage


def feed_of(storage: MemoryStorage) -> tuple[Feed, Applier]:
    """Return a feed whose stream is open at 0."""
    applier = Applier()
    feed = Feed(storage, applier.send, lambda: applier.open)
    feed.start(0)
    return feed, applier


def order(storage: MemoryStorage, first: int, last: int) -> MsgStorageApply:
    """Return raft's order to apply [first, last]."""
    entries = storage.entries(first, last + 1, 1 << 30)
    response = MsgStorageApplyResp(1, LOCAL_APPLY_THREAD, 0, entries)
    return MsgStorageApply(LOCAL_APPLY_THREAD, 1, 0, entries, (response,))


def test_only_what_may_be_applied_is_sent_and_once() -> None:
    storage = log_of(5)
    feed, applier = feed_of(storage)

    feed.allow(order(storage, 1, 3))
    feed.pull(0.0, hurry=True)
    feed.pull(0.0, hurry=True)

    assert applier.indexes() == [1, 2, 3]


def test_raft_is_answered_when_the_database_holds_the_last_entry_of_an_order() -> None:
    storage = log_of(5)
    feed, _ = feed_of(storage)
    first, second = order(storage, 1, 3), order(storage, 4, 5)
    feed.allow(first)
    feed.allow(second)

    assert feed.applied(2) == []
    assert feed.applied(4) == list(first.responses)
    assert feed.applied(5) == list(second.responses)


def test_a_new_stream_gets_the_entries_after_what_the_applier_has() -> None:
    storage = log_of(5)
    feed, applier = feed_of(storage)
    feed.allow(order(storage, 1, 5))
    feed.pull(0.0, hurry=True)
    applier.sent.clear()

    feed.start(2)
    feed.pull(0.0, hurry=True)

    assert applier.indexes() == [3, 4, 5]


def test_an_applier_behind_the_log_is_told_to_switch_to_the_snapshot_first() -> None:
    storage = log_of(0)
    metadata = SnapshotMetadata(100, 7, ConfState((1, 2, 3)))
    storage.apply_snapshot(Snapshot(b"", metadata))
    storage.append([Entry(7, 101, b"x")])
    feed, applier = feed_of(storage)
    feed.allow(order(storage, 101, 101))

    feed.pull(0.0, hurry=True)

    assert applier.sent[0] == InstallSnapshot(100, 7)
    assert applier.indexes() == [101]


def test_nothing_is_sent_while_the_stream_is_closed() -> None:
    storage = log_of(3)
    feed, applier = feed_of(storage)
    applier.open = False
    feed.allow(order(storage, 1, 3))

    feed.pull(0.0, hurry=True)

    assert applier.sent == []


def test_what_was_sent_ahead_is_told_committed_unless_the_applier_saw_it() -> None:
    storage = log_of(2)
    feed, applier = feed_of(storage)
    feed.send_entries(storage.entries(1, 2, 1 << 30))
    feed.allow(order(storage, 1, 1))

    wake = feed.tell_committed(watched=True)
    assert wake is not None
    feed.tell_late(wake, applied=1)  # seen on the board: no message
    feed.send_entries(storage.entries(2, 3, 1 << 30))
    feed.allow(order(storage, 2, 2))
    feed.tell_committed(watched=False)

    assert [m for m in applier.sent if isinstance(m, CommittedTo)] == [CommittedTo(2)]


def test_what_is_asked_again_while_it_is_under_way_shows_a_lost_message() -> None:
    storage = log_of(2)
    feed, applier = feed_of(storage)
    feed.remind()
    assert applier.sent == []

    feed.allow(order(storage, 1, 2))
    feed.pull(0.0, hurry=True)
    feed.remind()
    assert applier.sent[1:] == [CommittedTo(2)]

    feed.applied(2)
    feed.remind()
    assert len(applier.sent) == 2


def test_where_nobody_waits_entries_go_together_after_a_while() -> None:
    storage = log_of(5)
    feed, applier = feed_of(storage)
    feed.allow(order(storage, 1, 1))
    assert feed.pull(10.0, hurry=False) == inf  # the first after a rest
    feed.allow(order(storage, 2, 2))
    feed.allow(order(storage, 3, 3))

    due = feed.pull(10.001, hurry=False)

    assert due == 10.0 + UNHURRIED_SECONDS
    assert applier.indexes() == [1]
    feed.pull(due, hurry=False)
    assert applier.indexes() == [1, 2, 3]
    assert len(applier.sent) == 2


def test_whoever_waits_has_them_at_once() -> None:
    storage = log_of(5)
    feed, applier = feed_of(storage)
    feed.allow(order(storage, 1, 1))
    feed.pull(10.0, hurry=False)
    feed.allow(order(storage, 2, 2))

    feed.pull(10.001, hurry=True)

    assert applier.indexes() == [1, 2]
