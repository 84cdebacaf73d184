"""Segments of more than one chunk: what a reader of 1 MiB at a time must not miss or do twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft.state import HardState
from storage.files import OsFiles
from storage.wal import Wal
from storage.wal_record import CHUNK_BYTES, Body, RecordType, encode_record, read_remains
from tests.storage.wal_bench import FILES, entry

SEGMENT = 4 * CHUNK_BYTES


class ReadingFiles(OsFiles):
    """Counts the bytes that are read."""

    def __init__(self) -> None:
        self.read = 0

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """See Files."""
        data = super().pread(descriptor, length, offset)
        self.read += len(data)
        return data


def test_records_are_read_across_the_chunks_they_stand_in(tmp_path: Path) -> None:
    sizes = [*range(50_000, 50_040), CHUNK_BYTES + 3, *range(100, 140)]
    wal = Wal.create(tmp_path / "wal", b"", FILES, segment_bytes=SEGMENT)
    for index, size in enumerate(sizes, 1):
        wal.append([entry(index, size=size)], HardState(1, 1, index - 1))
    wal.close()

    again, replay = Wal.open(tmp_path / "wal", FILES, segment_bytes=SEGMENT)

    assert [len(found.data) for found in replay.entries] == sizes
    assert replay.entries == again.entries(1, len(sizes) + 1)
    assert replay.hard_state == HardState(1, 1, len(sizes) - 1)
    again.close()


@pytest.mark.parametrize("before", range(12))
@pytest.mark.parametrize("seed", [None, 7])
def test_a_record_behind_zeros_is_found_wherever_it_stands(
    tmp_path: Path, before: int, seed: int | None
) -> None:
    path = tmp_path / "segment"
    descriptor = FILES.create(path)
    FILES.truncate(descriptor, SEGMENT)
    body = Body(RecordType.BATCH, 0, 1, 0, b"body")
    parts, _ = encode_record(body, seed=7, sequence=9, doubted=1, previous=0)
    place = 2 * CHUNK_BYTES - before
    FILES.pwrite(descriptor, parts, place)

    proven = read_remains(FILES, descriptor, 0, sequence=7, seed=seed)
    doubted = read_remains(FILES, descriptor, 0, sequence=8, seed=seed)

    assert proven.proof == place
    assert doubted.proof is None
    assert proven.end == doubted.end == place + sum(map(len, parts))
    FILES.close(descriptor)


def test_an_open_reads_every_segment_once_beside_one_that_stands_ready(tmp_path: Path) -> None:
    wal = Wal.create(tmp_path / "wal", b"", FILES, segment_bytes=SEGMENT)
    wal.prepare()
    for index in range(1, 38):
        wal.append([entry(index, size=100_000)], HardState(1, 1, index - 1))
        wal.sync()
    wal.close()
    files = ReadingFiles()

    again, replay = Wal.open(tmp_path / "wal", files, segment_bytes=SEGMENT)

    assert len(replay.entries) == 37
    assert again.prepare_slice(1)  # one sync of the folder, and nothing to write
    assert files.read < 2.5 * SEGMENT
    again.close()
