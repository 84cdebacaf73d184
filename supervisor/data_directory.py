"""The data directory: made private, checked, and locked against a second member.

The lock is a flock on `<data-dir>/member/lock` through a descriptor that children may inherit: as
long as one of the processes that write there lives, no other member opens the directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from storage.files import OsFiles
from storage.wal import Wal
from supervisor.errors import StartError

KNOWN = frozenset({"member", "fixtures"})
"""What belongs into a data directory: the data and, with auto-TLS, certificates."""

_IN_USE = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


def check_data_dir(data_dir: str | Path) -> None:
    """Look at a data directory before anything is made in it; it need not be there.

    Raises StartError if it can't be listed, or holds etcd's data (a bbolt file) and none of ours.
    """
    folder = Path(data_dir)
    member = folder / "member"
    try:
        os.scandir(folder).close()
        is_etcds = (member / "snap" / "db").exists() and not (member / "db").exists()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f'cannot use data dir "{folder}": {_reason(error)}') from None
    if is_etcds:
        raise StartError(
            f'data dir "{folder}" is etcd\'s: trouped keeps data in a format of its own. To move, '
            "start trouped with another data dir, etcd with this one, and copy from etcd to "
            "trouped with etcdctl make-mirror"
        )


def lock_data_dir(data_dir: str | Path) -> int:
    """Create `data_dir` and its `member` folder (0700) and lock them; return the descriptor.

    The lock is given up when the descriptor and all its copies are closed. Raises StartError when
    another process has it, or when the folder can't be made or written.
    """
    folder = Path(data_dir)
    member = folder / "member"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        member.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(member / "lock", flags, 0o600)
    except FileExistsError as error:
        raise StartError(f'cannot use data dir "{folder}": {error.filename} is a file') from None
    except OSError as error:
        raise StartError(f'cannot use data dir "{folder}": {_reason(error)}') from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        in_use = error.errno in _IN_USE
        reason = "in use by another process" if in_use else _reason(error)
        raise StartError(f'cannot use data dir "{folder}": {reason}') from None
    os.set_inheritable(descriptor, True)
    return descriptor


def lock_wal_dir(wal_dir: str) -> int:
    """Lock a log's folder outside of the data directory, by a file beside it, for this process.

    Raises StartError when another process has it, or when the file can't be made.
    """
    lock = Path(wal_dir).with_name(f"{Path(wal_dir).name}.lock")
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        reason = "in use by another process" if error.errno in _IN_USE else _reason(error)
        raise StartError(f'cannot use wal dir "{wal_dir}": {reason}') from None
    return descriptor


def _reason(error: OSError) -> str:
    """Return what failed, naming the path: "open /x/y: permission denied"."""
    text = os.strerror(error.errno or errno.EIO).lower()
    return f"{error.filename}: {text}" if error.filename else text


def is_initialized(wal_dir: str | Path) -> bool:
    """Whether a member has already lived here: its write-ahead log has files (etcd wal.Exist).

    Raises StartError if that can't be seen.
    """
    try:
        return Wal.exists(Path(wal_dir), OsFiles())
    except OSError as error:
        raise StartError(f'cannot use wal dir "{wal_dir}": {_reason(error)}') from None


def data_dir_warnings(data_dir: str | Path) -> list[tuple[str, dict[str, object]]]:
    """Return what is odd about a data directory although it can be used: (msg, fields)."""
    folder = Path(data_dir)
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        return []
    found: list[tuple[str, dict[str, object]]] = []
    if mode & 0o077:
        shown = stat.filemode(stat.S_IFDIR | mode)
        reason = (
            f'directory "{folder}" exist, but the permission is "{shown}". The recommended '
            'permission is "drwx------" to prevent possible unprivileged access to the data'
        )
        found.append(("check file permission", {"error": reason}))
    for name in names:
        if name not in KNOWN:
            fields: dict[str, object] = {"filename": name, "data-dir": str(folder)}
            found.append(("found invalid file under data directory", fields))
    return found
