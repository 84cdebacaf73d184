"""A log that was torn, flipped or lost in part: what is a torn tail and what is corruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.wal_errors import (
    WalCorruptError,
)
from tests.storage.wal_bench import (
    SEGMENT_BYTES,
    create,
    entry,
    fill,
    newest,
    overwrite,
    record_offsets,
    reopen,
)


@pytest.mark.parametrize("content", [b"", b"\0" * SEGMENT_BYTES, b"\xff" * 600])
def test_a_segment_that_was_only_begun_is_no_harm(tmp_path: Path, content: bytes) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 5)
    wal.close()
    begun = tmp_path / "wal" / "0000000000000001-0000000000000005.wal"
    begun.write_bytes(content)

    wal, replay = reopen(tmp_path)
    fill(wal, 5, 12)

    assert len(replay.entries) == 4
    wal.close()
    assert len(reopen(tmp_path)[1].entries) == 11


def test_a_torn_last_record_is_cut_wherever_it_was_torn(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 4, size=30)
    wal.close()
    path = newest(tmp_path)
    good = path.read_bytes()
    start, end = record_offsets(path)[-1], len(good.rstrip(b"\0"))
    assert end - start > 70

    for place in range(start, end):
        path.write_bytes(good[:place] + bytes(len(good) - place))
        wal, replay = reopen(tmp_path)
        assert replay.entries == [entry(1, size=30), entry(2, size=30)]
        wal.append([entry(3, 2, size=30)], None)
        wal.close()
        assert reopen(tmp_path)[1].entries[2:] == [entry(3, 2, size=30)]


def test_every_single_flipped_byte_of_a_durable_record_is_reported(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 5, size=30)
    wal.close()
    path = newest(tmp_path)
    good = path.read_bytes()
    offsets = record_offsets(path)
    end = offsets[2] + 48 + good[offsets[2] + 16]  # header and body of the second batch

    for place in range(offsets[2], end):
        overwrite(path, place, bytes([good[place] ^ 0x40]))
        with pytest.raises(WalCorruptError) as caught:
            reopen(tmp_path)
        assert (caught.value.path, caught.value.offset) == (path, offsets[2])
        assert str(path) in str(caught.value)
        overwrite(path, place, good[place : place + 1])

    assert len(reopen(tmp_path)[1].entries) == 4


def test_a_hole_before_records_that_were_never_synced_is_a_torn_tail(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 3, size=30)
    wal.append([entry(3, size=30)], None)
    wal.append([entry(4, size=30)], None)
    wal.append([entry(5, size=30)], None)
    wal.sync()
    wal.close()
    path = newest(tmp_path)
    third = record_offsets(path)[3]
    overwrite(path, third + 60, b"\xee")

    wal, replay = reopen(tmp_path)

    assert [e.index for e in replay.entries] == [1, 2]
    assert replay.cut_bytes > 2 * 78
    assert len(record_offsets(path)) == 3
    wal.append([entry(3, 2, size=30)], None)
    wal.close()
    assert [(e.index, e.term) for e in reopen(tmp_path)[1].entries][2:] == [(3, 2)]


def test_a_bad_record_in_an_older_segment_is_reported(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 20)
    wal.close()
    path = tmp_path / "wal" / wal.segments[0]
    last = record_offsets(path)[-1]
    overwrite(path, last + 100, b"\xee")

    with pytest.raises(WalCorruptError, match=f"{path}: bad record at offset {last}"):
        reopen(tmp_path)


def test_a_bad_header_of_a_segment_in_use_is_reported(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 20)
    wal.close()
    for name in wal.segments:
        path = tmp_path / "wal" / name
        good = path.read_bytes()
        overwrite(path, 5, b"\xee")
        with pytest.raises(WalCorruptError, match="bad segment header"):
            reopen(tmp_path)
        path.write_bytes(good)
    assert len(reopen(tmp_path)[1].entries) == 19


def test_a_missing_segment_is_reported(tmp_path: Path) -> None:
    wal = create(tmp_path)
    fill(wal, 1, 30)
    wal.close()
    (tmp_path / "wal" / wal.segments[1]).unlink()

    with pytest.raises(WalCorruptError, match="are gone"):
        reopen(tmp_path)

    assert (tmp_path / "wal" / wal.segments[0]).exists()
