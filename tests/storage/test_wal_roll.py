"""A roll leaves to the next sync what is not durable yet of the segment before; nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raft.state import Entry, HardState, SnapshotMetadata
from storage.files import OsFiles
from storage.recording import JOURNAL_NAME, RecordingFiles, open_journal, read_journal
from storage.wal import Wal
from storage.wal_errors import WalCorruptError, WalSpaceError, WalSyncError
from storage.wal_record import read_header
from storage.wal_replay import leave_marker
from tests.storage.power import Disk
from tests.storage.test_wal_power import FailingFiles
from tests.storage.wal_bench import (
    FILES,
    SEGMENT_BYTES,
    CountingFiles,
    create,
    entry,
    fill,
    newest,
    overwrite,
    record_offsets,
    reopen,
)

DURABLE, UNSYNCED, ROLLED = 4, 7, 10
"""Of the entries 1 to 10 those up to 4 are synced, up to 7 in the first segment."""
IMAGES = 40


class SlowFiles(OsFiles):
    """Once `held`, a sync waits at a gate; the names of files are noted as their syncs begin."""

    def __init__(self) -> None:
        self.held = False
        self.waiting = threading.Event()
        self.gate = threading.Event()
        self.synced: list[str] = []

    def fdatasync(self, descriptor: int) -> None:
        if self.held:
            self.synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
            self.waiting.set()
            assert self.gate.wait(10)
        super().fdatasync(descriptor)


def rolled(folder: Path, files: OsFiles = FILES) -> Wal:
    """Make a log whose second segment was begun before the first one was synced."""
    wal = create(folder, files)
    fill(wal, 1, DURABLE + 1)
    for index in range(DURABLE + 1, ROLLED + 1):
        wal.append([entry(index, size=1000)], HardState(1, 1, index - 1))
    assert wal.segments[1:] == [f"{1:016x}-{UNSYNCED + 1:016x}.wal"]
    return wal


def expected(high: int) -> list[Entry]:
    return [entry(index, size=1000) for index in range(1, high + 1)]


def wrong_images(
    folder: Path, entries: list[Entry], base: dict[str, bytes] | None = None, kept: int = 0
) -> list[str]:
    """Open the images of power losses at the end; each must hold these entries, or a first part.

    At least `kept` of them, 0 is all. The log must be in `folder`, as it was recorded there.
    """
    disk = Disk(read_journal(folder / "io" / JOURNAL_NAME), folder, base)
    wrong = []
    for seed in range(IMAGES):
        image = folder / "image"
        shutil.rmtree(image, ignore_errors=True)
        disk.write_image(len(disk.events), seed, image)
        try:
            wal, replay = reopen(image)
        except WalCorruptError as error:
            wrong.append(f"{seed}: {error}")
            continue
        wal.close()
        found = replay.entries
        if len(found) < (kept or len(entries)) or found != entries[: len(found)]:
            wrong.append(f"{seed}: {[(e.index, e.term) for e in found]}")
    return wrong


def test_a_roll_waits_for_no_sync_and_the_next_sync_is_of_both_in_order(tmp_path: Path) -> None:
    files = SlowFiles()
    wal = create(tmp_path, files)
    wal.prepare()
    fill(wal, 1, DURABLE + 1)
    wal.append([entry(DURABLE + 1, size=1000)], None)
    files.held = True
    syncing = threading.Thread(target=wal.sync)
    syncing.start()
    assert files.waiting.wait(10)

    for index in range(DURABLE + 2, ROLLED + 1):
        wal.append([entry(index, size=1000)], None)

    assert syncing.is_alive()
    assert len(wal.segments) == 2
    files.gate.set()
    syncing.join()
    assert files.synced == wal.segments[:1]
    wal.sync()
    assert files.synced == [*wal.segments[:1], *wal.segments]
    wal.close()
    assert reopen(tmp_path)[1].entries == expected(ROLLED)


def test_a_roll_of_what_is_durable_already_costs_no_second_sync(tmp_path: Path) -> None:
    files = CountingFiles()
    wal = create(tmp_path, files)
    wal.prepare()
    fill(wal, 1, UNSYNCED + 1)
    before = files.syncs

    fill(wal, UNSYNCED + 1, UNSYNCED + 2)

    assert (len(wal.segments), files.syncs - before) == (2, 1)
    wal.close()


def test_a_segment_outgrows_its_size_until_its_beginning_is_durable(tmp_path: Path) -> None:
    wal = create(tmp_path)
    wal.outgrows = True
    wal.prepare()
    for index in range(1, 14):
        wal.append([entry(index, size=1000)], None)
        wal.prepare()
    before = len(wal.segments)

    for index in range(14, 18):
        wal.append([entry(index, size=1000)], None)
    outgrown = len(wal.segments)
    wal.sync()
    wal.append([entry(18, size=1000)], None)

    assert (before, outgrown, len(wal.segments)) == (2, 2, 3)
    wal.close()
    assert reopen(tmp_path)[1].entries == expected(18)


def test_never_are_more_than_the_last_two_segments_in_doubt(tmp_path: Path) -> None:
    files = RecordingFiles(open_journal(tmp_path / "io"))
    wal = rolled(tmp_path, files)

    for index in range(ROLLED + 1, 31):
        wal.append([entry(index, size=1000)], HardState(1, 1, index - 1))

    assert len(wal.segments) > 3
    assert wrong_images(tmp_path, expected(30), kept=DURABLE) == []
    wal.close()


def test_a_segment_that_is_to_be_synced_is_not_released(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, UNSYNCED + 1)
    wal.save_snapshot(SnapshotMetadata(UNSYNCED, 1))
    wal.append([], HardState(1, 1, 7))
    wal.append([entry(UNSYNCED + 1, size=1000)], None)
    assert len(wal.segments) == 2

    early = wal.release(UNSYNCED, keep=1)
    wal.sync()
    late = wal.release(UNSYNCED, keep=1)

    assert (early, len(late)) == ([], 1)
    wal.close()
    assert [e.index for e in reopen(tmp_path)[1].entries] == [UNSYNCED + 1]


def test_no_segment_goes_before_the_name_of_the_newest_is_durable(tmp_path: Path) -> None:
    files = RecordingFiles(open_journal(tmp_path / "io"))
    wal = create(tmp_path, files)
    fill(wal, 1, 50)
    wal.save_snapshot(SnapshotMetadata(48, 1))

    assert len(wal.release(48, keep=1)) > 3

    assert wrong_images(tmp_path, [entry(49, size=1000)]) == []
    wal.close()


class KilledError(Exception):
    """Stands for the end of the process."""


class KilledFiles(RecordingFiles):
    """Once `armed`, the process dies before it syncs a folder."""

    armed = False

    def sync_directory(self, path: Path) -> None:
        if self.armed:
            raise KilledError
        super().sync_directory(path)


def test_the_name_of_a_segment_made_ready_by_a_killed_process_is_made_durable(
    tmp_path: Path,
) -> None:
    files = KilledFiles(open_journal(tmp_path / "io"))
    wal = create(tmp_path, files)
    fill(wal, 1, 2)
    files.armed = True
    with pytest.raises(KilledError):
        wal.prepare_slice(1 << 20)
    files.armed = False

    wal, _ = reopen(tmp_path, files)
    fill(wal, 2, ROLLED + 1)

    assert len(wal.segments) == 2
    assert wrong_images(tmp_path, expected(ROLLED)) == []
    wal.close()


def test_what_a_killed_process_left_unsynced_in_two_segments_is_made_durable(
    tmp_path: Path,
) -> None:
    files = RecordingFiles(open_journal(tmp_path / "io"))
    rolled(tmp_path, files)  # and it is killed

    wal, replay = reopen(tmp_path, files)
    wal.append([entry(ROLLED + 1, 2)], None)
    wal.sync()

    assert replay.entries == expected(ROLLED)
    assert wrong_images(tmp_path, [*expected(ROLLED), entry(ROLLED + 1, 2)]) == []
    wal.close()


@pytest.mark.parametrize("lost", range(DURABLE + 1, UNSYNCED + 1))
def test_a_segment_begun_behind_a_record_that_is_lost_is_dropped_for_good(
    tmp_path: Path, lost: int
) -> None:
    wal = rolled(tmp_path)
    wal.prepare()
    first = tmp_path / "wal" / wal.segments[0]
    overwrite(first, record_offsets(first)[lost] + 100, b"\xee")  # and it is killed
    base = {f"wal/{path.name}": path.read_bytes() for path in (tmp_path / "wal").iterdir()}
    files = RecordingFiles(open_journal(tmp_path / "io"))

    wal, replay = reopen(tmp_path, files)
    wal.append([entry(lost, 2)], None)
    wal.sync()

    assert replay.entries == expected(lost - 1)
    assert replay.cut_bytes > 1000
    entries = [*expected(lost - 1), entry(lost, 2)]
    assert wrong_images(tmp_path, entries, base) == []
    fill(wal, lost + 1, lost + 10)
    assert len(wal.segments) > 1
    entries += expected(lost + 9)[lost:]
    assert wrong_images(tmp_path, entries, base) == []
    fill(wal, lost + 10, lost + 20)
    wal.close()
    assert [e.index for e in reopen(tmp_path)[1].entries] == list(range(1, lost + 20))


class BetweenFiles(OsFiles):
    """Calls somebody before the sync of a segment that is not the first."""

    def __init__(self) -> None:
        self.between: list[Callable[[], None]] = []

    def fdatasync(self, descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith(".wal") and f"{0:016x}-" not in name:
            while self.between:
                self.between.pop()()
        super().fdatasync(descriptor)


def test_a_record_known_durable_before_the_roll_is_not_a_torn_tail(tmp_path: Path) -> None:
    wal = rolled(tmp_path)
    first = tmp_path / "wal" / wal.segments[0]
    offset = record_offsets(first)[DURABLE]
    overwrite(first, offset + 100, b"\xee")

    with pytest.raises(WalCorruptError) as caught:
        reopen(tmp_path)

    assert (caught.value.path, caught.value.offset) == (first, offset)


@pytest.mark.parametrize("torn", [False, True])
def test_a_record_proved_durable_by_one_written_between_the_two_syncs_is_not_a_torn_tail(
    tmp_path: Path, torn: bool
) -> None:
    files = BetweenFiles()
    wal = rolled(tmp_path, files)
    files.between.append(lambda: wal.append([entry(ROLLED + 1)], None))
    wal.sync()
    first, second = (tmp_path / "wal" / name for name in wal.segments)
    offset = record_offsets(first)[UNSYNCED]
    overwrite(first, offset + 100, b"\xee")
    if torn:  # then the proof stands behind a record that was never durable itself
        overwrite(second, record_offsets(second)[1] + 100, b"\xee")

    with pytest.raises(WalCorruptError) as caught:
        reopen(tmp_path)

    assert (caught.value.path, caught.value.offset) == (first, offset)


@pytest.mark.parametrize("snapshot", [False, True])
def test_after_a_failed_sync_both_segments_tails_are_written_again_elsewhere(
    tmp_path: Path, snapshot: bool
) -> None:
    files = FailingFiles(open_journal(tmp_path / "io"))
    wal = rolled(tmp_path, files)
    wal.prepare()
    if snapshot:  # nothing before the second segment is needed, but for its doubtful end
        wal.save_snapshot(SnapshotMetadata(UNSYNCED, 1), now=False)
    files.failing = True
    with pytest.raises(WalSyncError):
        wal.sync()
    wal.close()
    files.failing = False

    wal, replay = reopen(tmp_path, files)

    kept = expected(ROLLED)[UNSYNCED if snapshot else 0 :]
    assert replay.entries == kept
    assert replay.hard_state == HardState(1, 1, ROLLED - 1)
    assert replay.snapshot.index == (UNSYNCED if snapshot else 0)
    assert not (tmp_path / "wal" / "sync-failed").exists()
    assert len(wal.segments) == 2
    assert wal.entries(DURABLE + 1, ROLLED + 1) == expected(ROLLED)[DURABLE:]
    if not snapshot:
        wal.append([entry(ROLLED + 1, 2)], None)
        wal.sync()
        assert wrong_images(tmp_path, [*expected(ROLLED), entry(ROLLED + 1, 2)]) == []
    fill(wal, wal.last_index + 1, ROLLED + 20)
    wal.close()
    assert [e.index for e in reopen(tmp_path)[1].entries][-15:] == list(
        range(ROLLED + 5, ROLLED + 20)
    )


def test_a_segment_of_entries_written_again_says_with_which_it_begins(tmp_path: Path) -> None:
    """Of the segment before the last no entry is durable, and a snapshot covers them all."""
    wal = create(tmp_path)
    fill(wal, 1, UNSYNCED + 1)
    while len(wal.segments) < 2:
        wal.append([], HardState(1, 1, UNSYNCED))
    wal.sync()
    index = UNSYNCED
    while len(wal.segments) < 3:
        index += 1
        wal.append([entry(index, size=1000)], HardState(1, 1, index - 1))
    wal.save_snapshot(SnapshotMetadata(index - 1, 1), now=False)
    leave_marker(tmp_path / "wal", FILES)  # and it is killed

    again, replay = reopen(tmp_path)

    assert (replay.snapshot.index, replay.entries) == (index - 1, [entry(index, size=1000)])
    assert again.entries(UNSYNCED + 1, index + 1) == [
        entry(each, size=1000) for each in range(UNSYNCED + 1, index + 1)
    ]
    descriptor = FILES.open(newest(tmp_path))
    header = read_header(FILES, descriptor)
    assert header is not None
    assert header.next_index == UNSYNCED + 1
    again.close()


class NamelessFiles(OsFiles):
    """Has no room for the name of a segment while `full`."""

    full = False

    def rename(self, source: Path, target: Path) -> None:
        if self.full and target.name.endswith(".wal"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().rename(source, target)


def test_nothing_is_written_behind_a_roll_that_found_no_room_for_a_name(tmp_path: Path) -> None:
    """The next segment has its header by then: an open() would end the one before there."""
    files = NamelessFiles()
    wal = create(tmp_path, files)
    index = 0
    while len(wal.segments) == 1 and not files.full:
        index += 1
        wal.append([entry(index, size=1000)], HardState(1, 1, index - 1))
        wal.sync()
        files.full = SEGMENT_BYTES - wal.bytes_written < 3000

    def fill_up() -> None:
        nonlocal index
        while True:
            wal.append([entry(index + 1, size=1000)], None)
            index += 1

    with pytest.raises(WalSpaceError):
        fill_up()
    wal.sync()

    with pytest.raises(WalSpaceError):
        wal.append([entry(index + 1, size=8)], None)  # would fit
    files.full = False
    wal.append([entry(index + 1, size=8)], None)
    wal.sync()

    again, replay = reopen(tmp_path)
    assert len(again.segments) == 2
    assert replay.entries[-1] == entry(index + 1, size=8)
    again.close()
