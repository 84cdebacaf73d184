"""Reads the history as a watch hub needs it: by row id, in slices, a transaction for each.

Rules (RULES A5, B4):
1. A slice says what its transaction knows: the store's revision, the compact revision and the row
   id from which on nothing has been pruned. Nobody believes rows below both.
2. The transaction ends with the slice; nothing is pinned between slices.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from kv.store import HistoryRow, row_id
from storage.database import generation, open_current
from storage.queries import Queries

CACHE_KIB: Final = 4096

_PROGRESS: Final = (
    "SELECT revision, compact_revision, "
    "ifnull((SELECT value FROM meta WHERE name = 'prune_place'), 0) FROM progress"
)
_COLUMNS: Final = "id, key, prev, create_revision, version, lease, value"
_ROWS: Final = f"SELECT {_COLUMNS} FROM history WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
_SOME: Final = (
    "SELECT h.id, h.key, h.prev, h.create_revision, h.version, h.lease, h.value "
    "FROM carray(?) wanted CROSS JOIN history h ON h.id = wanted.value"
)


class Slice:
    """One read transaction. `rows` is what `read` found, `rest` the first row id left out."""

    __slots__ = ("_execute", "compact_revision", "intact_from", "rest", "revision", "rows")

    revision: int
    compact_revision: int
    intact_from: int

    def __init__(self, queries: Queries) -> None:
        self._execute = queries.execute
        ((self.revision, self.compact_revision, self.intact_from),) = self._execute(
            _PROGRESS
        ).fetchall()
        self.rows: list[HistoryRow] = []
        self.rest = 0

    def read(self, place: int, to: int, rows_max: int, bytes_max: int) -> None:
        """Read rows from row id `place` up to all of revision `to`; at least one, if there is."""
        rows = self.rows
        cursor = self._execute(_ROWS, (place, row_id(to + 1), rows_max + 1))
        size = 0
        for row in cursor:
            if rows and (size > bytes_max or len(rows) == rows_max):
                self.rest = row[0]
                break
            rows.append(row)
            size += len(row[1]) + len(row[6])
        cursor.close()

    def previous(self, ids: Collection[int]) -> dict[int, HistoryRow]:
        """Return rows by id; what was pruned is missing."""
        if not ids:
            return {}
        found = self._execute(
            _SOME, (apsw.carray(array("q", ids), flags=apsw.SQLITE_CARRAY_INT64),)
        ).fetchall()
        return {row[0]: row for row in found}


class EventReader:
    """One connection of one process to the history. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open()

    def _open(self) -> None:
        self._generation, self._connection = open_current(self._directory)
        self._connection.pragma("cache_size", -CACHE_KIB)
        self._queries = Queries(self._connection)

    def reopen(self) -> bool:
        """Go over to the file that CURRENT names; True if it is another."""
        if generation(self._directory) == self._generation:
            return False
        self.close()
        self._open()
        return True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def revision(self) -> int:
        """Return the store's revision as it is now."""
        found: int = self._connection.execute("SELECT revision FROM progress").get
        return found

    @contextmanager
    def slice(self) -> Iterator[Slice]:
        """Open a read transaction; slices don't nest."""
        connection = self._connection
        assert connection.txn_state() == apsw.SQLITE_TXN_NONE, "a slice was left open"
        connection.execute("BEGIN")
        try:
            yield Slice(self._queries)
        finally:
            connection.execute("COMMIT")
