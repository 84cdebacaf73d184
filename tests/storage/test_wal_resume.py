"""Opening a log at the place it named last: the same comes out, whatever that place is worth."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raft.state import ConfState, HardState, SnapshotMetadata
from storage.wal import Wal
from storage.wal_errors import WalCorruptError
from storage.wal_index import LogIndex, from_word, to_word
from storage.wal_replay import Replay, leave_marker
from storage.wal_segment import MARKER_NAME
from tests.storage.wal_bench import (
    FILES,
    SEGMENT_BYTES,
    create,
    entry,
    fill,
    newest,
    overwrite,
    record_offsets,
    reopen,
)

VOTERS = ConfState((1, 2, 3))


def resume(folder: Path, at: int) -> tuple[Wal, Replay]:
    return Wal.open(folder / "wal", FILES, segment_bytes=SEGMENT_BYTES, resume_at=at)


def story(replay: Replay) -> tuple[object, ...]:
    """What a raft node starts from."""
    return (
        replay.metadata,
        replay.hard_state,
        replay.snapshot,
        replay.entries,
        replay.cut_bytes,
    )


def lived(folder: Path) -> Wal:
    """A log of three segments with snapshots, a term that voided entries, and an unsynced tail."""
    wal = create(folder)
    fill(wal, 1, 11, size=700)
    wal.save_snapshot(SnapshotMetadata(8, 1, VOTERS))
    fill(wal, 11, 20, size=700)
    wal.append([entry(18, 2), entry(19, 2)], HardState(2, 3, 17))
    fill(wal, 20, 24, size=700)
    wal.save_snapshot(SnapshotMetadata(21, 1, VOTERS))
    fill(wal, 24, 27, size=700)
    wal.append([entry(27, 2)], None)
    wal.append([entry(28, 2)], None)  # not synced, as of a process that was killed
    assert len(wal.segments) == 3
    return wal


def test_a_log_that_resumes_says_the_same_and_goes_on(tmp_path: Path) -> None:
    at = lived(tmp_path).resume_at
    shutil.copytree(tmp_path, tmp_path / "copy")
    _, full = reopen(tmp_path / "copy")

    wal, replay = resume(tmp_path, at)

    assert replay.resumed
    assert not full.resumed
    assert story(replay) == story(full)
    assert wal.first_index <= 22
    assert wal.entries(22, 29) == replay.entries
    fill(wal, 29, 40, size=700)
    wal.save_snapshot(SnapshotMetadata(35, 1, VOTERS))
    at = wal.resume_at
    wal.close()
    _, again = resume(tmp_path, at)
    assert again.resumed
    assert story(again) == story(reopen(tmp_path)[1])


def test_whatever_place_is_named_the_same_is_read(tmp_path: Path) -> None:
    wal = lived(tmp_path)
    _, full = reopen(tmp_path)

    resumed = []
    for number in range(len(wal.segments) + 1):
        for offset in range(0, SEGMENT_BYTES + 8, 4):
            at = to_word(number, offset)
            other, replay = resume(tmp_path, at)
            other.close()
            assert story(replay) == story(full), (number, offset)
            if replay.resumed:
                resumed.append(at)

    assert wal.resume_at in resumed
    assert len(resumed) < 30  # only at records, of which there are that many


def test_a_log_resumes_at_no_record_that_is_doubted_with_others_before_it(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 4)
    wal.append([entry(4)], HardState(1, 1, 3))
    wal.append([entry(5)], HardState(1, 1, 4))
    wal.save_snapshot(SnapshotMetadata(4, 1, VOTERS), now=False)
    at = wal.resume_at
    assert from_word(at)[1] == record_offsets(newest(tmp_path))[5]

    _, replay = resume(tmp_path, at)

    assert not replay.resumed  # batch 4 has to be written again, too
    assert replay.entries == [entry(5)]


def test_after_a_failed_sync_a_log_is_read_in_full(tmp_path: Path) -> None:
    at = lived(tmp_path).resume_at
    (tmp_path / "wal" / MARKER_NAME).touch()

    _, replay = resume(tmp_path, at)

    assert not replay.resumed
    assert [found.index for found in replay.entries] == list(range(22, 29))


def test_a_place_in_what_was_written_again_elsewhere_is_worth_nothing(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 8)
    wal.append([entry(8)], None)
    wal.append([entry(9)], HardState(1, 1, 8))
    wal.save_snapshot(SnapshotMetadata(8, 1, VOTERS), now=False)
    at = wal.resume_at
    leave_marker(tmp_path / "wal", FILES)  # a sync failed, which ended the process
    reopen(tmp_path)[0].close()
    full, expected = reopen(tmp_path)
    full.close()

    for offset in range(0, SEGMENT_BYTES + 8, 8):
        other, replay = resume(tmp_path, offset)
        other.close()
        assert story(replay) == story(expected), offset
    _, replay = resume(tmp_path, at)

    assert not replay.resumed
    assert expected.entries == [entry(9)]


@pytest.mark.parametrize("place", range(-6, -1))
def test_damage_behind_the_place_is_reported_all_the_same(tmp_path: Path, place: int) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 4)
    wal.save_snapshot(SnapshotMetadata(2, 1, VOTERS))
    fill(wal, 4, 8, size=20)
    offset = record_offsets(newest(tmp_path))[place]
    overwrite(newest(tmp_path), offset + 50, b"\xff")

    with pytest.raises(WalCorruptError) as caught:
        resume(tmp_path, wal.resume_at)

    assert caught.value.offset == offset


def test_a_log_whose_snapshot_covers_all_resumes_at_its_record(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 4)
    wal.save_snapshot(SnapshotMetadata(3, 1, VOTERS))
    assert wal.resume_at == record_offsets(newest(tmp_path))[-1]
    _, nothing_since = resume(tmp_path, wal.resume_at)
    fill(wal, 4, 6)

    _, replay = resume(tmp_path, wal.resume_at)

    assert not nothing_since.resumed  # the hard state stands before the place
    assert nothing_since.hard_state == HardState(1, 1, 2)
    assert replay.resumed
    assert story(replay) == story(reopen(tmp_path)[1])
    assert replay.entries == [entry(4, size=1000), entry(5, size=1000)]


def test_a_log_resumes_at_a_snapshot_that_replaced_it(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 4)
    wal.save_snapshot(SnapshotMetadata(30, 2, VOTERS))
    wal.append([entry(31, 2)], HardState(2, 0, 30))

    _, replay = resume(tmp_path, wal.resume_at)

    assert replay.resumed
    assert story(replay) == story(reopen(tmp_path)[1])
    assert replay.entries == [entry(31, 2)]


def test_a_place_is_one_word_however_long_the_log_has_lived() -> None:
    latest, furthest = (1 << 32) - 1, 2 * (4 << 20)
    index = LogIndex(1)

    index.note(latest, furthest, 1, 1)

    assert index.find(1)[:2] == (latest, furthest)
    assert from_word(to_word(latest, furthest)) == (latest, furthest)
