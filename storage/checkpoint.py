"""Making what was applied durable (RULES A8).

The database's log (-wal) is not synced at a commit. An applied index is durable only if it was read
first, in a transaction, and *then* a checkpoint copied and synced the whole log, or found that
everything had been copied. Anything else proves nothing: a checkpoint may well return success and
have done nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import apsw

from storage.database import DiskFullError, generation, open_checkpointer
from storage.failures import is_for_space
from storage.queries import Queries


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint came to.

    `durable_index` and `durable_term` are of the last entry whose effects are certainly on disk,
    None if this checkpoint proves nothing. `frames_left` is how many pages of the log are still to
    be copied.
    """

    durable_index: int | None
    durable_term: int
    frames_left: int


class Checkpointer:
    """The snapshotter's connection. It writes nothing but what others have committed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open()

    @property
    def generation(self) -> str:
        """Name of the database file that is open."""
        return self._generation

    def _open(self) -> None:
        self._generation = generation(self._directory)
        self._connection = open_checkpointer(self._directory / self._generation)
        self._execute = Queries(self._connection).execute
        self._frames_left = 0

    def applied_index(self) -> int:
        """Return what the database has applied, durable or not."""
        ((index,),) = self._execute("SELECT applied_index FROM progress").fetchall()
        return int(index)

    def run(self) -> Checkpoint:
        """Copy what no reader needs any more from the log to the database file, and sync.

        Passive: waits for nobody. A busy database is an ordinary answer. Raises DiskFullError, also
        where it is a quota that is used up.
        """
        ((index, term),) = self._execute(
            "SELECT applied_index, applied_term FROM progress"
        ).fetchall()
        try:
            log, copied = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return Checkpoint(None, 0, self._frames_left)
        except apsw.IOError as error:
            if not is_for_space(error, self._connection.system_errno):
                raise
            raise DiskFullError(str(error)) from error
        if log < 0:
            return Checkpoint(None, 0, self._frames_left)
        self._frames_left = log - copied
        if log != copied:
            return Checkpoint(None, 0, self._frames_left)
        return Checkpoint(index, term, 0)

    def reopen(self) -> bool:
        """Go over to the file that CURRENT names; True if it is another."""
        if generation(self._directory) == self._generation:
            return False
        # Nobody needs what the old file's log still holds.
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.close()
        self._open()
        return True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
