"""Leases in the database, and the keys attached to them.

The keys of a lease are found by a partial index over the key table: a key without a lease is not
in it, and a put that takes a key's lease away takes it out of the index too. For puts without a
lease it costs nothing that can be measured (2.5 microseconds a row with and without it).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw

from kv.store import Lease
from storage.database import generation, open_current
from storage.queries import Queries

_ALL: Final = "SELECT id, ttl, remaining_ttl, granted_index FROM leases"
_ONE: Final = f"{_ALL} WHERE id = ?"
_SOME: Final = (
    "SELECT l.id, l.ttl, l.remaining_ttl, l.granted_index "
    "FROM carray(?) wanted CROSS JOIN leases l ON l.id = wanted.value"
)
_KEYS: Final = "SELECT key FROM key WHERE lease = ? AND lease != 0 AND version > 0 ORDER BY key"


def load_lease(queries: Queries, lease_id: int) -> Lease | None:
    """Return one lease."""
    for row in queries.execute(_ONE, (lease_id,)).fetchall():
        return Lease(*row)
    return None


def load_leases(queries: Queries) -> list[Lease]:
    """Return all leases in the order they were granted."""
    rows = queries.execute(f"{_ALL} ORDER BY granted_index, id").fetchall()
    return [Lease(*row) for row in rows]


def load_lease_ids(queries: Queries) -> list[int]:
    """Return the ids of all leases in the order they were granted."""
    rows = queries.execute("SELECT id FROM leases ORDER BY granted_index, id").fetchall()
    return [lease_id for (lease_id,) in rows]


def load_lease_keys(queries: Queries, lease_id: int) -> list[bytes]:
    """Return the keys attached to a lease, in their order."""
    return [key for (key,) in queries.execute(_KEYS, (lease_id,)).fetchall()]


class LeaseTable(Queries):
    """The part of kv.store.Store that is about leases."""

    __slots__ = ()

    def lease(self, lease_id: int) -> Lease | None:
        """See Store."""
        return load_lease(self, lease_id)

    def lease_keys(self, lease_id: int) -> list[bytes]:
        """See Store."""
        return load_lease_keys(self, lease_id)

    def save_lease(self, lease: Lease) -> None:
        """See Store."""
        self.execute(
            "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)",
            (lease.id, lease.ttl, lease.remaining_ttl, lease.granted_index),
        )

    def delete_lease(self, lease_id: int) -> None:
        """See Store."""
        self.execute("DELETE FROM leases WHERE id = ?", (lease_id,))


class LeaseReader:
    """A lessor's connection to the database. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open()

    def _open(self) -> None:
        self._generation, self._connection = open_current(self._directory)
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

    def leases(self) -> tuple[int, list[Lease]]:
        """Return the applied index and all leases at it."""
        connection = self._connection
        connection.execute("BEGIN")
        try:
            index: int = self._queries.execute("SELECT applied_index FROM progress").get
            return index, load_leases(self._queries)
        finally:
            connection.execute("COMMIT")

    def some(self, lease_ids: Sequence[int]) -> dict[int, Lease]:
        """Return those of some leases that exist."""
        rows = self._queries.execute(
            _SOME, (apsw.carray(array("q", lease_ids), flags=apsw.SQLITE_CARRAY_INT64),)
        ).fetchall()
        return {row[0]: Lease(*row) for row in rows}
