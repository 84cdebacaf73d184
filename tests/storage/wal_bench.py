"""A small log in a folder, and how to look at it and damage it by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raft.state import Entry, HardState
from storage.files import OsFiles
from storage.wal import Wal
from storage.wal_replay import Replay

SEGMENT_BYTES = 8 << 10
FILES = OsFiles()


class CountingFiles(OsFiles):
    """Counts what is asked of the disk."""

    def __init__(self) -> None:
        self.writes = self.syncs = self.folder_syncs = 0

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        self.writes += 1
        return super().pwrite(descriptor, parts, offset)

    def fdatasync(self, descriptor: int) -> None:
        self.syncs += 1
        super().fdatasync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self.folder_syncs += 1
        super().sync_directory(path)


def create(folder: Path, files: OsFiles = FILES) -> Wal:
    return Wal.create(folder / "wal", b"member 1", files, segment_bytes=SEGMENT_BYTES)


def reopen(folder: Path, files: OsFiles = FILES, from_index: int = 0) -> tuple[Wal, Replay]:
    return Wal.open(folder / "wal", files, segment_bytes=SEGMENT_BYTES, from_index=from_index)


def entry(index: int, term: int = 1, size: int = 20) -> Entry:
    return Entry(term, index, bytes([index % 256]) * size)


def fill(wal: Wal, low: int, high: int, size: int = 1000) -> None:
    """Append entries [low, high) one by one, each synced; 7 of 1000 bytes fit in a segment."""
    for index in range(low, high):
        wal.append([entry(index, size=size)], HardState(1, 1, index - 1))
        wal.sync()


def newest(folder: Path) -> Path:
    return max((folder / "wal").glob("*.wal"))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def record_offsets(path: Path) -> list[int]:
    """Where the records of a segment that was never recycled start."""
    content, offsets = path.read_bytes(), []
    place = content.find(b"TRWL")
    while place >= 0:
        offsets.append(place - 4)
        place = content.find(b"TRWL", place + 1)
    return offsets
