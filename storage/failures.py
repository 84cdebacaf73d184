"""Which failures of the disk or of the files on it end the member.

Restarting an actor does not mend them: the member stops with STORAGE_EXIT_CODE and one line that
says why, and whoever runs it decides. A full disk is not among them: that is waited for.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, TypeVar

import apsw

from storage.database import DatabaseError, DiskFullError
from storage.wal_errors import WalCorruptError, WalDiskError, WalMissingError, WalSpaceError

T = TypeVar("T")

STORAGE_EXIT_CODE: Final = 74  # EX_IOERR


class LogMismatchError(Exception):
    """The log and the database don't belong together; names both indexes."""


class LostDataError(Exception):
    """The cluster knows this member as one with data, and here is none."""


UNUSABLE: Final = (
    DatabaseError,
    LostDataError,
    LogMismatchError,
    WalCorruptError,
    WalDiskError,
    WalMissingError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.IOError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
    PermissionError,
)


DISK_ERRORS: Final = (apsw.FullError, apsw.IOError)
"""What a statement may raise on a full disk; is_for_space() tells."""


def is_for_space(error: Exception, system_errno: int = 0) -> bool:
    """Tell whether something failed for want of space on the disk, and may succeed later.

    `system_errno` is what SQLite's connection tells of its last call of the system.
    """
    if isinstance(error, apsw.IOError):
        # The index of the database's log is stretched as that grows, whatever room that has. And
        # to SQLite a quota that is used up is no full disk.
        stretched = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE
        return bool(stretched or system_errno == errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, DiskFullError | WalSpaceError)


def once_there_is_space(do: Callable[[], T], make_space: Callable[[Exception], object]) -> T:
    """Do what a start can't go without; between tries on a full disk `make_space` is called."""
    while True:
        try:
            return do()
        except (DiskFullError, WalSpaceError, apsw.IOError, OSError) as error:
            if not is_for_space(error):
                raise
            make_space(error)
