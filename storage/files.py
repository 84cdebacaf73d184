"""The few operations on files that the log and the snapshot files need.

Everything that must survive a power loss goes through a `Files`, so that a recording layer (see
recording.py) or a failing one (see faults.py) can stand in for the operating system. Only what
the operating system promises counts: bytes are durable after fdatasync of their file, names after
sync_directory of their folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

RECORD_VARIABLE = "TROUPED_RECORD_IO"
FAULT_VARIABLE = "TROUPED_FAULT_IO"
ACTOR_VARIABLE = "TROUPED_ACTOR"
"""Set in each actor's own process: faults can be ordered for one."""
SCALE_VARIABLE = "TROUPED_DISK_SCALE"


class Files(Protocol):
    """Operations on files. Every method raises OSError as the operating system does."""

    def create(self, path: Path) -> int:
        """Make a new empty file, readable and writable; return its descriptor."""
        ...

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing; return its descriptor."""
        ...

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        ...

    def size(self, descriptor: int) -> int:
        """Return the length of a file in bytes."""
        ...

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """Read up to `length` bytes from `offset`; fewer only at the end of the file."""
        ...

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """Write all parts one after the other from `offset` on; return their length in bytes.

        One system call, unless the operating system takes only a part of it.
        """
        ...

    def fdatasync(self, descriptor: int) -> None:
        """Make all bytes written to a file durable. After an error nothing is known of them."""
        ...

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut or stretch a file to `length` bytes."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or a folder, replacing a file (or an empty folder) at `new`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make a folder only its owner may enter (0700, as etcd's)."""
        ...

    def remove_directory(self, path: Path) -> None:
        """Remove an empty folder."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the names in a folder durable."""
        ...

    def list(self, path: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Return how much the file system of a folder has room for."""
        ...


class OsFiles:
    """Files of the operating system. Files are made 0600, as etcd's."""

    def create(self, path: Path) -> int:
        """See Files."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """See Files."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        """See Files."""
        os.close(descriptor)

    def size(self, descriptor: int) -> int:
        """See Files."""
        return os.fstat(descriptor).st_size

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """See Files."""
        data = os.pread(descriptor, length, offset)
        while data and len(data) < length:
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """See Files."""
        written = os.pwritev(descriptor, parts, offset)
        length = sum(map(len, parts))
        if written < length:
            rest = memoryview(b"".join(parts))
            while written < length:
                written += os.pwrite(descriptor, rest[written:], offset + written)
        return written

    def fdatasync(self, descriptor: int) -> None:
        """See Files."""
        os.fdatasync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """See Files."""
        os.ftruncate(descriptor, length)

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        """See Files."""
        os.unlink(path)

    def make_directory(self, path: Path) -> None:
        """See Files."""
        os.mkdir(path, 0o700)

    def remove_directory(self, path: Path) -> None:
        """See Files."""
        os.rmdir(path)

    def sync_directory(self, path: Path) -> None:
        """See Files."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def list(self, path: Path) -> list[str]:
        """See Files."""
        return sorted(os.listdir(path))

    def free_bytes(self, path: Path) -> int:
        """See Files."""
        disk = os.statvfs(path)
        return disk.f_bavail * disk.f_frsize


def default_files() -> Files:
    """Return what a member's process should use.

    The operating system's files, or the layers that the durability tests ask for through the
    environment: TROUPED_RECORD_IO names a folder for the journal of recording.py,
    TROUPED_FAULT_IO the control file of faults.py.
    """
    if directory := os.environ.get(RECORD_VARIABLE):
        from storage.recording import RecordingFiles, open_journal

        return RecordingFiles(open_journal(Path(directory)))
    if control := os.environ.get(FAULT_VARIABLE):
        from storage.faults import FaultyFiles

        return FaultyFiles(Path(control))
    return OsFiles()


def sync_ancestors(path: Path, files: Files) -> None:
    """Make the name of a file or folder durable, and the names of all folders it is in.

    For what is made once in a member's life: nobody knows which of the folders above are new.
    Stops at the mount point; a folder that may be entered but not read is passed over.
    """
    device = path.stat().st_dev
    for folder in path.absolute().parents:
        if folder.stat().st_dev != device:
            return
        with suppress(PermissionError):
            files.sync_directory(folder)


def scaled(size: int) -> int:
    """Return a size, in whatever unit, at which files are rolled, copied or begun again.

    TROUPED_DISK_SCALE divides it: the power loss tests see in seconds and kilobytes what happens to
    the files of a member in hours and gigabytes.
    """
    return max(1, size // int(os.environ.get(SCALE_VARIABLE) or 1))
