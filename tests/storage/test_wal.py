"""The log in files of the operating system, without a crash but for those made by hand."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from raft.errors import CompactedError, UnavailableError
from raft.state import ConfState, Entry, EntryType, HardState, SnapshotMetadata
from storage.faults import FaultyFiles
from storage.files import OsFiles
from storage.recording import RecordingFiles, open_journal
from storage.wal import Wal
from storage.wal_errors import (
    WalMissingError,
    WalSpaceError,
    WalSyncError,
    WalWriteError,
)
from storage.wal_replay import Replay
from tests.storage.wal_bench import (
    FILES,
    SEGMENT_BYTES,
    CountingFiles,
    create,
    entry,
    fill,
    newest,
    reopen,
)


def test_a_new_log_is_empty_and_keeps_its_metadata(tmp_path: Path) -> None:
    create(tmp_path).close()

    wal, replay = reopen(tmp_path)

    assert replay == Replay(b"member 1", HardState(), SnapshotMetadata(), [], 0)
    assert (wal.first_index, wal.last_index) == (1, 0)
    assert wal.segments == ["0000000000000000-0000000000000001.wal"]


def test_create_refuses_a_folder_that_holds_a_log(tmp_path: Path) -> None:
    create(tmp_path).close()

    with pytest.raises(FileExistsError):
        create(tmp_path)


def test_create_starts_over_what_an_earlier_try_left(tmp_path: Path) -> None:
    (tmp_path / "wal.tmp").mkdir()
    (tmp_path / "wal.tmp" / "0000000000000000.next").write_bytes(b"half")

    create(tmp_path).close()

    assert not (tmp_path / "wal.tmp").exists()
    assert reopen(tmp_path)[1].metadata == b"member 1"


def test_open_without_a_log_says_so(tmp_path: Path) -> None:
    assert not Wal.exists(tmp_path / "wal", FILES)
    with pytest.raises(WalMissingError):
        reopen(tmp_path)
    (tmp_path / "wal").mkdir()
    with pytest.raises(WalMissingError):
        reopen(tmp_path)


def test_entries_and_hard_state_come_back_as_they_were(tmp_path: Path) -> None:
    wal = create(tmp_path)
    batch = [
        Entry(2, 1, b"", EntryType.NORMAL),
        Entry(2, 2, b"\0" * 700, EntryType.CONF_CHANGE_V2),
        Entry(3, 3, bytes(range(256))),
    ]
    wal.append(batch, HardState(3, 7, 0))
    wal.append([Entry(3, 4, b"x" * 5000)], None)
    wal.close()

    wal, replay = reopen(tmp_path)

    assert replay.entries == [*batch, Entry(3, 4, b"x" * 5000)]
    assert replay.hard_state == HardState(3, 7, 0) == wal.hard_state
    assert wal.entries(1, 5) == replay.entries
    assert [wal.term(i) for i in (1, 2, 3, 4)] == [2, 2, 3, 3]


def test_a_hard_state_alone_can_be_appended(tmp_path: Path) -> None:
    wal = create(tmp_path)
    wal.append([entry(1)], HardState(1, 1, 0))
    wal.append([], HardState(5, 2, 1))
    wal.close()

    _, replay = reopen(tmp_path)

    assert replay.hard_state == HardState(5, 2, 1)
    assert replay.entries == [entry(1)]


def test_an_append_is_one_write_and_a_sync_one_fdatasync(tmp_path: Path) -> None:
    files = CountingFiles()
    wal = create(tmp_path, files)
    before = files.writes, files.syncs, files.folder_syncs

    wal.append([entry(i) for i in range(1, 50)], HardState(1, 1, 0))
    wal.sync()
    wal.sync()

    assert (files.writes, files.syncs, files.folder_syncs) == (
        before[0] + 1,
        before[1] + 1,
        before[2],
    )


def test_a_conflicting_suffix_is_overwritten(tmp_path: Path) -> None:
    wal = create(tmp_path)
    wal.append([entry(i, 1) for i in range(1, 8)], HardState(1, 1, 0))
    wal.append([entry(8, 1)], None)

    wal.append([entry(5, 2), entry(6, 2)], HardState(2, 0, 4))

    expected = [entry(i, 1) for i in range(1, 5)] + [entry(5, 2), entry(6, 2)]
    assert wal.last_index == 6
    assert wal.entries(1, 7) == expected
    wal.close()
    assert reopen(tmp_path)[1].entries == expected


def test_an_append_that_leaves_a_gap_is_a_broken_invariant(tmp_path: Path) -> None:
    wal = create(tmp_path)
    wal.append([entry(1)], None)
    with pytest.raises(AssertionError):
        wal.append([entry(3)], None)
    with pytest.raises(AssertionError):
        wal.append([entry(2), entry(4)], None)
    wal.close()
    assert reopen(tmp_path)[1].entries == [entry(1)]


def test_entries_after_the_newest_snapshot_are_in_memory_and_older_ones_on_disk(
    tmp_path: Path,
) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 11, size=100)
    snapshot = SnapshotMetadata(6, 1, ConfState((1, 2, 3), (4,), (1, 2), (9,), True))
    wal.save_snapshot(SnapshotMetadata(2, 1))
    wal.save_snapshot(snapshot)
    wal.close()

    wal, replay = reopen(tmp_path)

    assert replay.snapshot == snapshot == wal.snapshot
    assert replay.entries == [entry(i, size=100) for i in range(7, 11)]
    assert wal.entries(3, 9) == [entry(i, size=100) for i in range(3, 9)]
    wal.close()
    assert reopen(tmp_path, from_index=9)[1].entries == [entry(10, size=100)]


@pytest.mark.parametrize(("index", "term"), [(20, 4), (3, 4)], ids=["ahead", "conflicting"])
def test_an_installed_snapshot_voids_the_log(tmp_path: Path, index: int, term: int) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 6, size=10)

    wal.save_snapshot(SnapshotMetadata(index, term))
    wal.close()
    wal, replay = reopen(tmp_path)
    assert (replay.entries, wal.last_index) == ([], index)
    wal.append([entry(index + 1, 4)], HardState(4, 0, index))

    assert (wal.first_index, wal.last_index) == (index + 1, index + 1)
    wal.close()
    wal, replay = reopen(tmp_path)
    assert replay.entries == [entry(index + 1, 4)]
    assert wal.first_index == index + 1


def test_entries_are_refused_outside_of_the_log_and_cut_by_size(tmp_path: Path) -> None:
    wal = create(tmp_path)
    wal.append([entry(i, size=100) for i in range(1, 11)], None)

    assert [e.index for e in wal.entries(3, 9, 250)] == [3, 4]
    assert [e.index for e in wal.entries(3, 9, 0)] == [3]
    with pytest.raises(UnavailableError):
        wal.entries(3, 12)
    with pytest.raises(UnavailableError):
        wal.term(11)
    with pytest.raises(CompactedError):
        wal.entries(0, 2)


def test_the_log_rolls_into_new_segments_and_reads_across_them(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 30)

    assert wal.segments[:2] == [
        "0000000000000000-0000000000000001.wal",
        "0000000000000001-0000000000000008.wal",
    ]
    expected = [entry(i, size=1000) for i in range(1, 30)]
    assert wal.entries(1, 30) == expected
    wal.close()
    wal, replay = reopen(tmp_path)
    assert replay.entries == expected == wal.entries(1, 30)
    fill(wal, 30, 40)
    wal.close()
    assert len(reopen(tmp_path)[1].entries) == 39


def test_a_roll_does_not_wait_when_the_next_segment_was_prepared(tmp_path: Path) -> None:
    files = CountingFiles()
    wal = create(tmp_path, files)
    fill(wal, 1, 8)
    slices = 1
    while not wal.prepare_slice(1024):
        slices += 1
    before = files.syncs, files.folder_syncs

    fill(wal, 8, 9)

    assert slices == SEGMENT_BYTES // 1024
    assert len(wal.segments) == 2
    assert (files.syncs, files.folder_syncs) == (before[0] + 1, before[1])


def test_a_log_whose_next_segment_is_being_prepared_goes_on_in_the_old_one(tmp_path: Path) -> None:
    files = CountingFiles()
    wal = create(tmp_path, files)
    wal.outgrows = True
    before = files.syncs, files.folder_syncs
    for index in range(1, 13):
        wal.append([entry(index, size=1000)], None)
    outgrown = files.syncs, files.folder_syncs, wal.segments

    wal.prepare()
    fill(wal, 13, 14)
    rolled = wal.segments
    wal.close()

    assert outgrown == (*before, rolled[:1])  # no roll, and nothing waited for
    assert len(rolled) == 2
    wal, replay = reopen(tmp_path)
    assert replay.entries == [entry(i, size=1000) for i in range(1, 14)]
    wal.save_snapshot(SnapshotMetadata(13, 1))
    wal.release(13, keep=1)
    wal.close()


def test_a_segment_grows_to_twice_its_size_at_most(tmp_path: Path) -> None:
    wal = create(tmp_path)
    wal.outgrows = True

    fill(wal, 1, 60)

    sizes = [(tmp_path / "wal" / name).stat().st_size for name in wal.segments]
    assert SEGMENT_BYTES < max(sizes) <= 2 * SEGMENT_BYTES
    wal.close()
    assert len(reopen(tmp_path)[1].entries) == 59


def test_a_full_disk_refuses_what_outgrows_the_segment_and_changes_nothing(tmp_path: Path) -> None:
    control = tmp_path / "control"
    wal = create(tmp_path, FaultyFiles(control))
    wal.outgrows = True
    fill(wal, 1, 8)
    control.write_text('{"growth_errno": 28}')

    with pytest.raises(WalSpaceError):
        wal.append([entry(8, size=1000)], None)

    assert wal.last_index == 7
    control.unlink()
    fill(wal, 8, 10)
    wal.close()
    assert len(reopen(tmp_path)[1].entries) == 9


def test_a_segment_can_be_prepared_from_another_thread_while_the_log_rolls(tmp_path: Path) -> None:
    wal = create(tmp_path)
    done = threading.Event()

    def prepare() -> None:
        while not done.is_set():
            wal.prepare_slice(512)

    thread = threading.Thread(target=prepare)
    thread.start()
    fill(wal, 1, 60)
    done.set()
    thread.join()

    wal.close()
    assert reopen(tmp_path)[1].entries == [entry(i, size=1000) for i in range(1, 60)]


def test_a_sync_may_run_in_another_thread_while_the_log_goes_on(tmp_path: Path) -> None:
    wal = create(tmp_path)
    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            wal.sync()

    thread = threading.Thread(target=sync)
    thread.start()
    for index in range(1, 200):
        wal.append([entry(index, size=500)], HardState(1, 1, index - 1))
    done.set()
    thread.join()

    wal.close()
    _, replay = reopen(tmp_path)
    assert replay.entries == [entry(i, size=500) for i in range(1, 200)]
    assert replay.cut_bytes == 0


def test_a_record_larger_than_a_segment_is_kept_whole(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 3)
    wal.append([entry(3, size=5 * SEGMENT_BYTES)], None)
    fill(wal, 4, 6)
    wal.close()

    _, replay = reopen(tmp_path)

    assert [len(e.data) for e in replay.entries] == [1000, 1000, 5 * SEGMENT_BYTES, 1000, 1000]


def test_a_rename_that_was_lost_does_not_lose_the_segment(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 10)
    wal.close()
    newest(tmp_path).rename(tmp_path / "wal" / "0000000000000001.next")

    wal, replay = reopen(tmp_path)

    assert len(replay.entries) == 9
    assert wal.segments[-1] == "0000000000000001-0000000000000008.wal"


def test_a_rename_that_was_lost_before_one_that_was_not_loses_nothing(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 20)
    wal.close()
    names = wal.segments
    assert len(names) > 2
    (tmp_path / "wal" / names[1]).rename(tmp_path / "wal" / "0000000000000001.next")

    wal, replay = reopen(tmp_path)

    assert [e.index for e in replay.entries] == list(range(1, 20))
    assert wal.segments == names


class StuckFiles(OsFiles):
    """Files of a disk that removes none."""

    def unlink(self, path: Path) -> None:
        raise OSError(errno.EROFS, "no removal")


def test_what_keeps_leftovers_of_a_purge_from_going_is_what_open_says(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 20)
    wal.save_snapshot(SnapshotMetadata(19, 1))
    wal.close()
    (tmp_path / "wal" / wal.segments[1]).unlink()

    with pytest.raises(OSError, match="no removal"):
        reopen(tmp_path, StuckFiles())


def test_a_prepared_segment_is_used_after_a_restart(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 3)
    wal.prepare()
    wal.close()
    files = CountingFiles()

    wal, _ = reopen(tmp_path, files)

    assert wal.prepare_slice(1)
    assert (files.writes, files.syncs) == (1, 1)  # the tail alone
    fill(wal, 3, 20)
    wal.close()
    assert len(reopen(tmp_path)[1].entries) == 19


def test_release_keeps_what_the_snapshot_and_the_count_ask_for(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 50)
    names = wal.segments

    assert wal.release(49, keep=2) == []  # no snapshot yet
    wal.save_snapshot(SnapshotMetadata(30, 1))
    assert wal.release(49, keep=0) == []
    assert wal.release(10, keep=2) == names[:1]
    assert wal.release(49, keep=6) == []
    assert wal.release(49, keep=2) == names[1:4]

    assert wal.segments == names[4:]
    assert wal.first_index == 29
    with pytest.raises(CompactedError):
        wal.entries(28, 30)
    wal.close()
    wal, replay = reopen(tmp_path)
    assert [e.index for e in replay.entries] == list(range(31, 50))
    assert wal.segments == names[4:]


def test_a_snapshot_left_to_the_next_sync_lets_go_of_nothing_before(tmp_path: Path) -> None:
    files = CountingFiles()
    wal = create(tmp_path, files)
    fill(wal, 1, 50)
    wal.save_snapshot(SnapshotMetadata(10, 1))
    names, syncs = wal.segments, files.syncs

    wal.save_snapshot(SnapshotMetadata(30, 1), now=False)
    waits = files.syncs - syncs, wal.release(49, keep=1)
    wal.save_snapshot(SnapshotMetadata(40, 1), now=False)
    waits_still = wal.release(49, keep=1)
    wal.sync()

    assert waits == (0, names[:1])  # what the snapshot before covers
    assert waits_still == []
    assert wal.release(49, keep=1) == names[1:5]
    wal.close()
    assert reopen(tmp_path)[1].snapshot == SnapshotMetadata(40, 1)


def test_a_released_segment_is_recycled_and_its_old_records_are_not_believed(
    tmp_path: Path,
) -> None:
    files = CountingFiles()
    wal = create(tmp_path, files)
    fill(wal, 1, 22)
    wal.save_snapshot(SnapshotMetadata(20, 1))
    released = tmp_path / "wal" / wal.segments[0]
    inode = released.stat().st_ino
    assert released.name in wal.release(20, keep=1)
    before = files.writes

    wal.prepare()

    assert files.writes == before
    fill(wal, 22, 26)
    assert newest(tmp_path).stat().st_ino == inode
    assert newest(tmp_path).read_bytes().count(b"TRWL") > 5  # stale ones among them
    wal.close()
    wal, replay = reopen(tmp_path)
    assert [e.index for e in replay.entries] == list(range(21, 26))
    assert replay.cut_bytes == 0


def test_a_recycled_segment_that_was_not_begun_is_used_after_a_restart(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 22)
    wal.save_snapshot(SnapshotMetadata(20, 1))
    wal.release(20, keep=1)
    wal.prepare()
    wal.close()
    files = CountingFiles()

    wal, _ = reopen(tmp_path, files)

    assert wal.prepare_slice(1)
    assert files.writes == 1
    fill(wal, 22, 40)
    wal.close()
    assert [e.index for e in reopen(tmp_path)[1].entries] == list(range(21, 40))


@pytest.mark.parametrize("orders", ['{"write_errno": 28}', '{"sync_errno": 28}'])
def test_a_full_disk_refuses_the_append_and_changes_nothing(tmp_path: Path, orders: str) -> None:
    control = tmp_path / "control"
    files = FaultyFiles(control)
    wal = create(tmp_path, files)
    fill(wal, 1, 8)
    assert len(wal.segments) == 1
    control.write_text(orders)

    with pytest.raises(WalSpaceError):
        wal.append([entry(8, size=SEGMENT_BYTES)], None)
    with pytest.raises(WalSpaceError):
        wal.prepare()

    assert wal.last_index == 7
    control.unlink()
    fill(wal, 8, 10)
    wal.close()
    assert len(reopen(tmp_path)[1].entries) == 9


def test_a_record_that_found_no_room_where_room_was_made_is_written_again(tmp_path: Path) -> None:
    """Some file systems copy on write: zeros that were written promise nothing."""
    control = tmp_path / "control"
    wal = create(tmp_path, FaultyFiles(control))
    fill(wal, 1, 3)
    control.write_text('{"write_errno": 28}')

    for _ in range(2):
        with pytest.raises(WalSpaceError):
            fill(wal, 3, 4)

    control.unlink()
    fill(wal, 3, 5)
    wal.close()
    assert [e.index for e in reopen(tmp_path)[1].entries] == [1, 2, 3, 4]


def test_a_segment_that_could_not_be_begun_for_want_of_space_is_begun_later(
    tmp_path: Path,
) -> None:
    control = tmp_path / "control"
    wal = create(tmp_path, FaultyFiles(control))
    fill(wal, 1, 8)
    wal.prepare()
    control.write_text('{"write_errno": 28}')

    for _ in range(2):
        with pytest.raises(WalSpaceError):
            wal.append([entry(8, size=SEGMENT_BYTES)], None)

    control.unlink()
    wal.append([entry(8, size=SEGMENT_BYTES)], None)
    fill(wal, 9, 30)
    wal.close()
    wal, replay = reopen(tmp_path)
    assert [e.index for e in replay.entries] == list(range(1, 30))
    numbers = [name.partition("-")[0] for name in wal.segments]
    assert numbers == [f"{number:016x}" for number in range(len(numbers))]
    assert len(numbers) > 2
    wal.close()


def test_after_an_error_of_the_disk_the_log_refuses_everything(tmp_path: Path) -> None:
    control = tmp_path / "control"
    for order, error in (("write_errno", WalWriteError), ("sync_errno", WalSyncError)):
        folder = tmp_path / order
        folder.mkdir()
        wal = create(folder, FaultyFiles(control))
        fill(wal, 1, 3, size=10)
        control.write_text(f'{{"{order}": 5}}')
        with pytest.raises(error):
            fill(wal, 3, 4, size=10)
        control.unlink()

        refused: list[Callable[[], object]] = [
            partial(wal.append, [entry(wal.last_index + 1)], None),
            wal.sync,
            partial(wal.save_snapshot, SnapshotMetadata(1, 1)),
            partial(wal.release, 1, 1),
        ]
        for call in refused:
            with pytest.raises(error):
                call()

        wal.close()
        _, replay = reopen(folder)
        assert [e.index for e in replay.entries][:2] == [1, 2]


def test_a_sync_that_fails_again_while_opening_leaves_the_marker(tmp_path: Path) -> None:
    control = tmp_path / "control"
    wal = create(tmp_path)
    fill(wal, 1, 3, size=10)
    wal.close()
    control.write_text('{"sync_errno": 5}')
    with pytest.raises(WalSyncError):
        reopen(tmp_path, FaultyFiles(control))
    assert (tmp_path / "wal" / "sync-failed").exists()
    with pytest.raises(WalSyncError):
        reopen(tmp_path, FaultyFiles(control))
    control.unlink()

    wal, replay = reopen(tmp_path, FaultyFiles(control))

    assert [e.index for e in replay.entries] == [1, 2]
    assert len(wal.segments) == 2
    assert not (tmp_path / "wal" / "sync-failed").exists()


def test_a_recording_layer_changes_nothing(tmp_path: Path) -> None:
    files = RecordingFiles(open_journal(tmp_path / "journal"))
    wal = create(tmp_path, files)
    fill(wal, 1, 20)
    wal.close()

    assert reopen(tmp_path, files)[1].entries == reopen(tmp_path)[1].entries
