"""Removing database files that snapshots have replaced, once every process has let go.

A file may go if CURRENT does not name it and its index is not above what the database has applied:
an installation of it would be ignored. One above that may be waiting for the raft node's record or
for the applier. Whether a process has it open, its locks tell: every connection to a database in
WAL mode holds a shared lock on the file for as long as it is open.
"""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from typing import Final

from storage.database import generation, place
from storage.files import Files

# Where SQLite takes shared locks on a database file (its file format, "pending byte").
SHARED_FIRST: Final = 0x4000_0000 + 2
SHARED_BYTES: Final = 510
BESIDE: Final = ("-wal", "-shm", "-journal")
_DATABASE: Final = re.compile(r"(db\.\d+-\d+)(-wal|-shm|-journal)?")


def waiting(directory: Path, applied_index: int, files: Files) -> list[str]:
    """Return the complete received files that may still be installed."""
    return [
        name
        for name in _databases(directory, files)
        if name != generation(directory) and place(name)[1] > applied_index
    ]


def replaced(directory: Path, applied_index: int, files: Files) -> list[str]:
    """Return the files that nobody needs. `applied_index` must have been read before the call."""
    current = generation(directory)
    return [
        name
        for name in _databases(directory, files)
        if name != current and place(name)[1] <= applied_index
    ]


def purge(directory: Path, applied_index: int, files: Files, own: str) -> list[str]:
    """Remove what `replaced` names and nobody has open; return the names removed.

    `own` is the file this process has open through SQLite: its locks must not be touched.
    """
    removed = [
        name
        for name in replaced(directory, applied_index, files)
        if name != own and _remove_unused(directory, name, files)
    ]
    removed += _remove_orphans(directory, files)
    if removed:
        files.sync_directory(directory)
    return removed


def _databases(directory: Path, files: Files) -> list[str]:
    found = map(_DATABASE.fullmatch, files.list(directory))
    return [match[0] for match in found if match and not match[2]]


def _remove_unused(directory: Path, name: str, files: Files) -> bool:
    descriptor = files.open(directory / name)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_BYTES, SHARED_FIRST)
        except OSError:
            return False  # somebody has it open
        for suffix in BESIDE:  # first: a log must never outlive its file
            if (directory / (name + suffix)).exists():
                files.unlink(directory / (name + suffix))
        files.unlink(directory / name)
    finally:
        files.close(descriptor)
    return True


def _remove_orphans(directory: Path, files: Files) -> list[str]:
    """Remove logs whose database is gone: a removal that was cut short."""
    names = set(files.list(directory))
    orphans = [
        name
        for name in sorted(names)
        if (match := _DATABASE.fullmatch(name)) and match[2] and match[1] not in names
    ]
    for name in orphans:
        files.unlink(directory / name)
    return orphans
