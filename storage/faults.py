"""A disk that is slow, fails or is full, for the isolation and fault tests of living members.

The control file is read before every sync and every write that makes a file longer; it holds a JSON
object, and an absent or empty file means a healthy disk:

    {"sync_seconds": 0.5}     every sync takes this much longer
    {"sync_errno": 5}         every sync of a file fails with this error (5 is EIO)
    {"write_errno": 28}       every write to the log fails with this error (28 is ENOSPC)
    {"growth_errno": 28}      every write that makes a file longer fails, as on a full disk
    {"actor": "snapshotter"}  beside these: of this actor alone

As on a real disk that is full, what is allocated already can be written, and a process that removes
a file may use the space it had: so the applier's ballast does what it is for. The space is that
process's own here. The log and the snapshot files obey by FaultyFiles, the database by an SQLite
VFS; whoever only reads the database goes without. SQLite's -shm never fails: it holds no data.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import apsw

from storage.files import ACTOR_VARIABLE, OsFiles

BLOCK_BYTES: Final = 512
"""The unit of st_blocks."""


class FaultyDisk:
    """What one process is told by a control file. Any thread may use it."""

    def __init__(self, control: Path, actor: str = "") -> None:
        """`actor` is who this process is: orders for another one are not obeyed."""
        self._control = control
        self._actor = actor
        self._order = (0, 0)
        self._room = 0  # bytes that this process has freed since the disk is full
        self.last_errno = 0

    def wait(self) -> None:
        """Take as long as a sync is told to."""
        if seconds := self._orders().get("sync_seconds"):
            time.sleep(float(seconds))

    def fail(self, order: str) -> None:
        """Raise OSError if it is ordered."""
        if number := self._orders().get(order):
            raise OSError(int(number), os.strerror(int(number)))

    def grow(self, count: int) -> None:
        """Take room for a file that becomes longer by `count` bytes. Raises OSError."""
        number = self._orders().get("growth_errno")
        if not number:
            return
        if count > self._room:
            raise OSError(int(number), os.strerror(int(number)))
        self._room -= count

    def freed(self, count: int) -> None:
        """Note that a file of so many bytes was removed."""
        if self._orders().get("growth_errno"):
            self._room += count

    def room(self) -> int | None:
        """Return how many bytes files may grow by, None if the disk is not full."""
        return self._room if self._orders().get("growth_errno") else None

    def _orders(self) -> dict[str, Any]:
        try:
            with self._control.open("rb") as file:
                status, text = os.fstat(file.fileno()), file.read()
        except FileNotFoundError:
            return {}
        orders: dict[str, Any] = json.loads(text or b"{}")
        if orders.get("actor", self._actor) != self._actor:
            return {}
        order = status.st_ino, status.st_mtime_ns
        if order != self._order:
            self._order, self._room = order, 0
        return orders


@cache
def disk(control: Path, actor: str) -> FaultyDisk:
    """Return this process's view of the disk, which its log and its database share."""
    return FaultyDisk(control, actor)


class FaultyFiles(OsFiles):
    """Files of the operating system that obey a control file."""

    def __init__(self, control: Path) -> None:
        self._disk = disk(control, os.environ.get(ACTOR_VARIABLE, ""))

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """See Files."""
        self._disk.fail("write_errno")
        longer = offset + sum(map(len, parts)) - self.size(descriptor)
        if longer > 0:
            self._disk.grow(longer)
        return super().pwrite(descriptor, parts, offset)

    def fdatasync(self, descriptor: int) -> None:
        """See Files."""
        self._disk.wait()
        self._disk.fail("sync_errno")
        super().fdatasync(descriptor)

    def unlink(self, path: Path) -> None:
        """See Files."""
        size = path.stat().st_blocks * BLOCK_BYTES
        super().unlink(path)
        self._disk.freed(size)

    def sync_directory(self, path: Path) -> None:
        """See Files."""
        self._disk.wait()
        super().sync_directory(path)

    def free_bytes(self, path: Path) -> int:
        """See Files."""
        room = self._disk.room()
        return super().free_bytes(path) if room is None else room


class _FaultyVfsFile(apsw.VFSFile):
    def __init__(self, files: FaultyDisk, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = files

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        longer = offset + len(data) - self.xFileSize()
        if longer > 0:
            try:
                self._disk.grow(longer)
            except OSError as error:
                self._disk.last_errno = error.errno or 0
                if error.errno == errno.ENOSPC:
                    raise apsw.FullError(str(error)) from None
                raise _io_error(error, apsw.SQLITE_IOERR_WRITE) from None
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.wait()
        try:
            self._disk.fail("sync_errno")
        except OSError as error:
            raise _io_error(error, apsw.SQLITE_IOERR_FSYNC) from None
        super().xSync(flags)


def _io_error(error: OSError, code: int) -> apsw.IOError:
    made = apsw.IOError(str(error))
    made.extendedresult = code  # type: ignore[attr-defined] # apsw reads it
    return made


class _FaultyVfs(apsw.VFS):
    def __init__(self, files: FaultyDisk, name: str) -> None:
        super().__init__(name, "unix")
        self._disk = files

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _FaultyVfsFile(self._disk, name, flags)

    def xGetLastError(self) -> tuple[int, str]:  # noqa: N802 - SQLite's name
        return self._disk.last_errno, ""


_registered: list[_FaultyVfs] = []


@cache
def faulty_vfs(control: Path, actor: str) -> str:
    """Register an SQLite VFS that obeys a control file; return its name."""
    name = f"faulty-{len(_registered)}"
    _registered.append(_FaultyVfs(disk(control, actor), name))
    return name
