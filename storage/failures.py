"""Which failures of the disk or of the files on it end the member.

Restarting an actor does not mend them: the member stops with STORAGE_EXIT_CODE and one line that
says why, and whoever runs it decides. A full disk is not among them: that is waited for.
"""

from __future__ import annotations

from typing import Final

import apsw

from storage.database import DatabaseError
from storage.wal_errors import WalCorruptError, WalDiskError, WalMissingError

STORAGE_EXIT_CODE: Final = 74  # EX_IOERR


class LogMismatchError(Exception):
    """The log and the database don't belong together; names both indexes."""


UNUSABLE: Final = (
    DatabaseError,
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
