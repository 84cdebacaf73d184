"""Segment files: their names, and the one that is made ready ahead of need.

Names in the log's folder:
    <number>-<first index>.wal   a segment, as etcd names them (16 hexadecimal digits each)
    <number>.next                the file for the next segment: zeros, or a released segment
    <number>.free                a released segment waiting to become the next one
    sync-failed                  a sync failed since the machine started (RULES A7)

A segment is filled with zeros by writing them, so that a later fdatasync has no block allocation
to write: that halves its time (RULES C1). A file keeps its old records when it is recycled; their
seed differs.
"""

from __future__ import annotations

import errno
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.files import Files
from storage.wal_errors import WalSpaceError, WalSyncError, WalWriteError

SEGMENT_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")
NEXT_NAME: Final = re.compile(r"([0-9a-f]{16})\.next")
FREE_NAME: Final = re.compile(r"([0-9a-f]{16})\.free")
MARKER_NAME: Final = "sync-failed"
SLICE_BYTES: Final = 1 << 20
SPACE_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)
_ZEROS: Final = bytes(SLICE_BYTES)


def segment_name(number: int, first_index: int) -> str:
    """Return the name of a segment whose first entry will have this index."""
    return f"{number:016x}-{first_index:016x}.wal"


@dataclass(slots=True)
class Segment:
    """One segment of the log that is open. `next_index` follows the last entry before it."""

    number: int
    path: Path
    descriptor: int
    next_index: int


def disk_error(error: OSError, doing: str) -> WalSpaceError | WalWriteError:
    """Return the log's own error for an error of the disk."""
    if error.errno in SPACE_ERRNOS:
        return WalSpaceError(f"wal: {doing}: {error}")
    return WalWriteError(f"wal: {doing}: {error}")


class NextSegment:
    """Makes the next segment's file ready in slices; safe to use from any threads.

    Invariant: a name that ends in .next is durable in the folder, and the file filled and synced,
    before take() hands it out. So a segment's first records need no sync of the folder.
    """

    def __init__(self, directory: Path, files: Files, segment_bytes: int, number: int) -> None:
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self._number = number
        self._lock = threading.Lock()  # held during a sync
        self._free_lock = threading.Lock()
        self._free: Path | None = None
        self._path: Path | None = None
        self._descriptor = -1
        self._filled = 0
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether take() would return at once."""
        return self._ready

    def adopt(self, path: Path, descriptor: int) -> None:
        """Use a file that stood filled when the log was opened.

        Who made it may have been killed before its name was durable, which is seen to here.
        """
        with self._lock:
            assert self._path is None
            self._path, self._descriptor, self._filled = path, descriptor, self._segment_bytes

    def offer_free(self, path: Path) -> bool:
        """Take a released file to recycle; False if there is one already. Waits for no sync."""
        with self._free_lock:
            if self._free is not None:
                return False
            self._free = path
            return True

    def fill(self, count: int) -> bool:
        """Write up to `count` bytes of zeros and sync them once; return whether it is ready.

        Raises WalSpaceError, WalWriteError, WalSyncError; the log itself is untouched.
        """
        if self.ready:
            return True
        with self._lock:
            return self._fill(count)

    def take(self) -> tuple[Path, int]:
        """Return path and descriptor of the ready file, finishing it here if need be."""
        with self._lock:
            self._fill(self._segment_bytes)
            assert self._path is not None
            assert self._ready
            taken = self._path, self._descriptor
            self._path, self._descriptor, self._filled, self._ready = None, -1, 0, False
            self._number += 1
            return taken

    def give_back(self, path: Path, descriptor: int) -> None:
        """Take back the file that take() returned last: it could not be begun."""
        with self._lock:
            self._number -= 1
            self._path, self._descriptor, self._filled = path, descriptor, self._segment_bytes
            self._ready = True

    def close(self) -> None:
        """Close the file; it stays in the folder for the next start."""
        with self._lock:
            if self._path is not None:
                self._files.close(self._descriptor)
                self._path, self._ready = None, False

    def _fill(self, count: int) -> bool:
        if self.ready:
            return True
        try:
            if self._path is None:
                self._begin()
            until = min(self._filled + count, self._segment_bytes)
            if self._filled < until:
                while self._filled < until:
                    length = min(SLICE_BYTES, until - self._filled)
                    self._files.pwrite(self._descriptor, [_ZEROS[:length]], self._filled)
                    self._filled += length
                self._sync()
            if self._filled < self._segment_bytes:
                return False
            self._files.sync_directory(self._directory)
        except OSError as error:
            self._discard()
            raise disk_error(error, "making the next segment") from error
        self._ready = True
        return True

    def _begin(self) -> None:
        path = self._directory / f"{self._number:016x}.next"
        with suppress(FileNotFoundError):
            self._files.unlink(path)
        with self._free_lock:
            free, self._free = self._free, None
        if free is None:
            self._descriptor = self._files.create(path)
            self._filled = 0
        else:
            self._files.rename(free, path)
            self._descriptor = self._files.open(path)
            self._filled = self._files.size(self._descriptor)
        self._path = path

    def _sync(self) -> None:
        try:
            self._files.fdatasync(self._descriptor)
        except OSError as error:
            if error.errno in SPACE_ERRNOS:  # a file system may find out only now; nothing is lost
                raise
            self._discard()
            raise WalSyncError(f"wal: sync of the next segment: {error}") from error

    def _discard(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._files.close(self._descriptor)
            with suppress(OSError):
                self._files.unlink(self._path)
        self._path, self._descriptor, self._filled, self._ready = None, -1, 0, False
