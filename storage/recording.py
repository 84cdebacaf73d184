"""Records what processes ask of the disk, so that a power loss can be played at any moment.

One journal file for all processes of a member, opened with O_APPEND and written with one system
call per event: its order is the order of the events. A change is recorded before it is made, so
that nobody can act on a change that is not in the journal yet; a sync is recorded at both ends,
and promises only what was recorded before its beginning.

Event: length u32, CRC-32 u32, then a msgpack array that begins with the Kind:

    OPEN handle path created      WRITE handle offset data     TRUNCATE handle size
    SYNC_BEGIN handle number      SYNC_END handle number
    MAKE_DIRECTORY path           REMOVE_DIRECTORY path        RENAME old new      UNLINK path
    FOLDER_BEGIN path number      FOLDER_END path number       ACK label value

Handles are unique over all processes. The images are built in tests/storage/power.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, Final

import apsw
import msgpack

from storage.files import ACTOR_VARIABLE, FAULT_VARIABLE, RECORD_VARIABLE, OsFiles

JOURNAL_NAME: Final = "journal"
FRAME: Final = struct.Struct("<II")


class Kind(IntEnum):
    """The kinds of events."""

    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC_BEGIN = 4
    SYNC_END = 5
    MAKE_DIRECTORY = 6
    REMOVE_DIRECTORY = 7
    RENAME = 8
    UNLINK = 9
    FOLDER_BEGIN = 10
    FOLDER_END = 11
    ACK = 12


class Journal:
    """The journal as one process writes it; safe to use from any threads."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._salt = int.from_bytes(os.urandom(6)) << 16
        self._numbers = iter(range(1 << 62))

    def record(self, kind: Kind, *values: object) -> None:
        """Append one event."""
        body: bytes = msgpack.packb((int(kind), *values))
        frame = FRAME.pack(len(body), zlib.crc32(body)) + body
        written = os.write(self._descriptor, frame)
        assert written == len(frame), "the journal's disk is full"

    def acknowledge(self, label: str, value: Any) -> None:
        """Record that the application has promised something to somebody."""
        self.record(Kind.ACK, label, value)

    def number(self) -> int:
        """Return a number that no other call, in any process, returns."""
        return self._salt + next(self._numbers)

    def opened(self, path: Path | str, created: bool) -> int:
        """Record that a file was opened; return its handle."""
        handle = self.number()
        self.record(Kind.OPEN, handle, os.path.abspath(path), created)
        return handle

    @contextmanager
    def syncing(self, handle: int) -> Iterator[None]:
        """Record the sync of a file made inside the block; one that raises promises nothing."""
        number = self.number()
        self.record(Kind.SYNC_BEGIN, handle, number)
        yield
        self.record(Kind.SYNC_END, handle, number)

    @contextmanager
    def syncing_folder(self, path: Path | str) -> Iterator[None]:
        """Record the sync of a folder made inside the block."""
        number, name = self.number(), os.path.abspath(path)
        self.record(Kind.FOLDER_BEGIN, name, number)
        yield
        self.record(Kind.FOLDER_END, name, number)


def open_journal(directory: Path) -> Journal:
    """Open the journal in a folder, making both if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    return Journal(directory / JOURNAL_NAME)


def read_journal(path: Path) -> list[list[Any]]:
    """Return the events of a journal. What a killed process left half-written is skipped."""
    data, events, offset = memoryview(path.read_bytes()), [], 0
    while offset + FRAME.size <= len(data):
        length, crc = FRAME.unpack_from(data, offset)
        body = data[offset + FRAME.size : offset + FRAME.size + length]
        if len(body) == length and length and zlib.crc32(body) == crc:
            events.append(msgpack.unpackb(body))
            offset += FRAME.size + length
        else:
            offset += 1
    return events


class RecordingFiles(OsFiles):
    """Files of the operating system, recorded."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._handles: dict[int, int] = {}

    def create(self, path: Path) -> int:
        """See Files."""
        descriptor = super().create(path)
        self._handles[descriptor] = self.journal.opened(path, created=True)
        return descriptor

    def open(self, path: Path) -> int:
        """See Files."""
        descriptor = super().open(path)
        self._handles[descriptor] = self.journal.opened(path, created=False)
        return descriptor

    def close(self, descriptor: int) -> None:
        """See Files."""
        del self._handles[descriptor]
        super().close(descriptor)

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """See Files."""
        handle, data = self._handles[descriptor], b"".join(parts)
        self.journal.record(Kind.WRITE, handle, offset, data)
        return super().pwrite(descriptor, [data], offset)

    def fdatasync(self, descriptor: int) -> None:
        """See Files."""
        with self.journal.syncing(self._handles[descriptor]):
            super().fdatasync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """See Files."""
        self.journal.record(Kind.TRUNCATE, self._handles[descriptor], length)
        super().truncate(descriptor, length)

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""
        self.journal.record(Kind.RENAME, os.path.abspath(old), os.path.abspath(new))
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        """See Files. One that fails for want of the file is not recorded."""
        if os.path.lexists(path):
            self.journal.record(Kind.UNLINK, os.path.abspath(path))
        super().unlink(path)

    def make_directory(self, path: Path) -> None:
        """See Files."""
        super().make_directory(path)
        self.journal.record(Kind.MAKE_DIRECTORY, os.path.abspath(path))

    def remove_directory(self, path: Path) -> None:
        """See Files."""
        super().remove_directory(path)
        self.journal.record(Kind.REMOVE_DIRECTORY, os.path.abspath(path))

    def sync_directory(self, path: Path) -> None:
        """See Files."""
        with self.journal.syncing_folder(path):
            super().sync_directory(path)


class _RecordingVfsFile(apsw.VFSFile):
    def __init__(self, journal: Journal, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._journal = journal
        self._path = os.path.abspath(path) if path is not None else ""
        # A file without a name is SQLite's own scratch space and dies with the process. One that is
        # made is recorded first: as soon as it is there another process may open it and record
        # that. Two that make it at once both say so.
        created = flags[0] & apsw.SQLITE_OPEN_CREATE and path and not os.path.exists(path)
        self._handle = journal.opened(path, created=True) if created else None
        super().__init__("unix", name, flags)
        if path is not None and self._handle is None:
            self._handle = journal.opened(path, created=False)
        self._read_only = bool(flags[0] & apsw.SQLITE_OPEN_READONLY)
        logs = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        # SQLite's unix layer syncs the folder with the first sync of a log that it might have made,
        # whoever has made it.
        self._folder_pending = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & logs)

    def xLock(self, level: int) -> None:  # noqa: N802 - SQLite's name
        # The last one to close tries for the exclusive lock, which a read-only file can't have, and
        # goes without; apsw would raise that error at whoever closes, except for "busy".
        if self._read_only and level == apsw.SQLITE_LOCK_EXCLUSIVE:
            raise apsw.BusyError
        super().xLock(level)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        if self._handle is not None:
            self._journal.record(Kind.WRITE, self._handle, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        if self._handle is not None:
            self._journal.record(Kind.TRUNCATE, self._handle, newsize)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        if self._handle is None:
            super().xSync(flags)
            return
        folder = os.path.dirname(self._path)
        with self._journal.syncing(self._handle):
            if self._folder_pending:
                with self._journal.syncing_folder(folder):
                    super().xSync(flags)
                self._folder_pending = False
            else:
                super().xSync(flags)


class _RecordingVfs(apsw.VFS):
    def __init__(self, journal: Journal, name: str) -> None:
        super().__init__(name, "unix")
        self._journal = journal

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _RecordingVfsFile(self._journal, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        if os.path.lexists(filename):
            self._journal.record(Kind.UNLINK, os.path.abspath(filename))
        if syncdir:
            with self._journal.syncing_folder(os.path.dirname(filename)):
                super().xDelete(filename, syncdir)
        else:
            super().xDelete(filename, syncdir)


_registered: list[_RecordingVfs] = []


def recording_vfs(journal: Journal) -> str:
    """Register an SQLite VFS that records; return its name, for apsw.Connection(vfs=...)."""
    name = f"recording-{journal.number()}"
    _registered.append(_RecordingVfs(journal, name))
    return name


def default_vfs(*, writable: bool = True) -> str | None:
    """Return the VFS a member's process should open its database with; None is SQLite's own.

    Chosen by the environment as files.default_files() is.
    """
    if directory := os.environ.get(RECORD_VARIABLE):
        return _default_vfs(directory, os.getpid())
    if writable and (control := os.environ.get(FAULT_VARIABLE)):
        from storage.faults import faulty_vfs

        return faulty_vfs(Path(control), os.environ.get(ACTOR_VARIABLE, ""))
    return None


@cache
def _default_vfs(directory: str, process: int) -> str:
    # One for each process: a forked child must not go on with the numbers of its parent.
    return recording_vfs(open_journal(Path(directory)))
