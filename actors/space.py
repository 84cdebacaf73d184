"""Disk space held in reserve.

When the disk is full, committed entries must still be applied: a ballast file is kept beside the
database and given back at that moment. It is made again when there is room for it twice over.

While there is no ballast a quarter of it (ROOM_BYTES_MAX at most) is kept allocated at the end of
the database's own log: what a member has to apply when it starts, before it can serve linearizable
reads, is a term's first entry and its gateways' sessions, some ten pages, and the rest of the disk
may be anybody's by then.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from actors.metrics import RaftMetric
from storage.files import default_files
from transport.log import Logger

BALLAST_BYTES: Final = 64 << 20
ROOM_BYTES_MAX: Final = 1 << 20
SHARE_OF_DISK: Final = 50  # at most a fiftieth of the file system: small disks get a small ballast


class Ballast:
    """The ballast file of one data directory."""

    def __init__(self, directory: Path) -> None:
        self._files = default_files()
        self._path = directory / "ballast"
        # One that is shorter was being made by a process that was killed: it holds nothing back.
        least = self._size(os.statvfs(directory))
        self._present = self._path.exists() and self._path.stat().st_size >= least

    @property
    def present(self) -> bool:
        """Whether the reserve is there."""
        return self._present

    @property
    def room_bytes(self) -> int:
        """How much is kept at the end of the database's log while there is no reserve."""
        return min(ROOM_BYTES_MAX, self._size(os.statvfs(self._path.parent)) // 4)

    def _size(self, disk: os.statvfs_result) -> int:
        return min(BALLAST_BYTES, disk.f_blocks * disk.f_frsize // SHARE_OF_DISK)

    def keep(self) -> bool:
        """Make the file if it is missing and twice its size is free; tell if it is there."""
        if self._present:
            return True
        disk = os.statvfs(self._path.parent)
        size = self._size(disk)
        if self._files.free_bytes(self._path.parent) < 2 * size:
            return False
        descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            self._path.unlink()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False  # what looked free was promised to others
        finally:
            os.close(descriptor)
        self._present = True
        return True

    def release(self) -> int:
        """Give the space back; return how many bytes that freed (0: there was none)."""
        if not self._present:
            return 0
        size = self._path.stat().st_size
        self._files.unlink(self._path)
        self._present = False
        return size


class LogSpace:
    """What is told while the log waits for space on a full disk."""

    def __init__(
        self, metric: Callable[[int, int], None], note_progress: Callable[[], None], log: Logger
    ) -> None:
        """`note_progress()` says that whoever waits is not stuck."""
        self._metric = metric
        self._note_progress = note_progress
        self._log = log
        self._full = False
        metric(RaftMetric.NO_SPACE, 0)

    def __call__(self, error: str) -> None:
        """Note one try in vain, for this reason; empty: the last one succeeded."""
        full = bool(error)
        if full:
            self._note_progress()
        if full != self._full:
            self._full = full
            self._metric(RaftMetric.NO_SPACE, full)
            if full:
                self._log.error("no space left for the log", error=error)
