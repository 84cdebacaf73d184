"""What the write-ahead log raises. Errors of the caller are assertions and not here."""

from __future__ import annotations

from pathlib import Path


class WalError(Exception):
    """Any error of the write-ahead log."""


class WalMissingError(WalError):
    """There is no log in the folder."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"wal: no log in {directory}")


class WalCorruptError(WalError):
    """The log was durable here once and can't be read any more: data is lost, do not start."""

    def __init__(self, path: Path, offset: int, reason: str) -> None:
        super().__init__(f"wal: {path}: {reason} at offset {offset}")
        self.path = path
        self.offset = offset
        self.reason = reason


class WalDiskError(WalError):
    """The disk failed. The log refuses further use: what is in the page cache can't be believed."""


class WalSyncError(WalDiskError):
    """A sync failed, so nobody knows which of the records since the last good sync are there."""


class WalWriteError(WalDiskError):
    """A write failed half-way."""


class WalSpaceError(WalError):
    """No space for the next segment. Nothing was changed; the append may be tried again."""
