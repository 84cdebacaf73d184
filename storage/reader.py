"""A gateway's read-only window on the database.

Rules (RULES A4, A5):
1. The applied index is read in the same transaction as the data: whoever waits for an index looks
   at the view, not at messages.
2. Every statement on the point connection is exhausted in the method that runs it, and no
   transaction is open between views.
3. What takes long has a connection of its own (scan.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from etcdpb.rpc_pb2 import RangeRequest, RangeResponse, TxnRequest
from kv.cluster import Member
from kv.range import is_small, range_response
from kv.store import Lease, Result
from kv.txn import read_txn
from raft.state import ConfState
from storage.database import generation, open_current
from storage.leases import load_lease, load_lease_ids, load_lease_keys, load_leases
from storage.queries import NEWEST, Queries
from storage.scan import HashScan, Scan, ScanPool
from storage.schema import signed
from storage.sessions import load_results
from storage.store import (
    load_alarms,
    load_cluster_version,
    load_conf_state,
    load_members,
)
from storage.txn_scan import TxnScan

__all__ = ["Reader", "View", "is_small"]

_PROGRESS: Final = (
    "SELECT applied_index, applied_term, revision, compact_revision, hash FROM progress"
)
_SIZES: Final = "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"


class View:
    """One read transaction: all that is asked of it is of the same moment."""

    __slots__ = (
        "_execute",
        "_queries",
        "applied_index",
        "applied_term",
        "compact_revision",
        "hash",
        "revision",
    )

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._execute = queries.execute
        ((progress),) = queries.execute(_PROGRESS).fetchall()
        self.applied_index: int
        self.applied_term: int
        self.revision: int
        self.compact_revision: int
        self.hash: int
        (
            self.applied_index,
            self.applied_term,
            self.revision,
            self.compact_revision,
            self.hash,
        ) = progress

    def range(self, request: RangeRequest) -> bytes:
        """Return a RangeResponse without header. Raises EtcdError.

        For what `is_small` says is small; anything else takes as long as it takes.
        """
        if (
            request.range_end
            or request.revision > 0
            or request.count_only
            or request.keys_only
            or request.limit
            or request.sort_order
            or request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        ):
            return range_response(
                self._queries, request, self.revision, self.compact_revision
            ).SerializeToString()
        key = request.key
        found = self._execute(NEWEST, (key,)).fetchall()
        if not found:
            return b""
        value, create_revision, mod_revision, version, lease = found[0]
        response = RangeResponse(count=1)
        response.kvs.add(
            key=key,
            value=value,
            create_revision=create_revision,
            mod_revision=mod_revision,
            version=version,
            lease=lease,
        )
        return response.SerializeToString()

    def txn(self, request: TxnRequest) -> bytes:
        """Return the TxnResponse of a read-only txn, without header. Raises EtcdError."""
        return read_txn(
            self._queries, request, self.revision, self.compact_revision
        ).SerializeToString()

    def session_open(self, session_id: int) -> bool:
        """Tell whether a session is open."""
        statement = "SELECT 1 FROM sessions WHERE id = ? AND NOT closed"
        return bool(self._execute(statement, (signed(session_id),)).fetchall())

    def session_results(self, session_id: int, ids: Iterable[int]) -> dict[int, Result]:
        """Return the results kept of these requests.

        What is missing was not applied, or is below the mark, or is too big to be kept: the applier
        gives it again to whoever proposes the request again.
        """
        wanted = set(ids)
        if not wanted:
            return {}
        found: dict[int, Result] = {}
        for request_id, kept in load_results(
            self._queries, session_id, min(wanted), max(wanted)
        ).items():
            if request_id not in wanted:
                continue
            if isinstance(kept, int):
                found[request_id] = kept
            elif isinstance(kept[1], bytes):
                found[request_id] = kept[0], kept[1]
        return found

    def members(self) -> list[Member]:
        """Return the members of the cluster, by id."""
        return load_members(self._queries)

    def cluster_version(self) -> str | None:
        """Return the decided cluster version; None while undecided."""
        return load_cluster_version(self._queries)

    def alarms(self) -> list[tuple[int, int]]:
        """Return (member id, alarm type) of every raised alarm."""
        return load_alarms(self._queries)

    def lease(self, lease_id: int) -> Lease | None:
        """Return a lease, or None."""
        return load_lease(self._queries, lease_id)

    def lease_keys(self, lease_id: int) -> list[bytes]:
        """Return the keys attached to a lease, in their order."""
        return load_lease_keys(self._queries, lease_id)

    def leases(self) -> list[Lease]:
        """Return all leases in the order they were granted."""
        return load_leases(self._queries)

    def lease_ids(self) -> list[int]:
        """Return the ids of all leases in the order they were granted."""
        return load_lease_ids(self._queries)

    @property
    def conf_state(self) -> ConfState:
        """Raft's configuration at the applied index."""
        return load_conf_state(self._queries)


class Reader:
    """Connections of one process to the database in use. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open()
        self._pool = ScanPool(self._directory / self._generation)

    def _open(self) -> None:
        self._generation, self._point = open_current(self._directory)
        self._queries = Queries(self._point)
        self._page_bytes = self._point.pragma("page_size")

    @property
    def generation(self) -> str:
        """Name of the database file that is open."""
        return self._generation

    def reopen(self) -> bool:
        """Go over to the file that CURRENT names; True if it is another.

        Scans under way go on there, at the same revision.
        """
        if generation(self._directory) == self._generation:
            return False
        self._point.close()
        self._open()
        self._pool.move(self._directory / self._generation)
        return True

    def keep_scan_connection(self) -> None:
        """Have a connection for scans from now on, whatever descriptors there will be later."""
        self._pool.open_one()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._point.close()

    @contextmanager
    def view(self) -> Iterator[View]:
        """Open one read transaction on the point connection; views don't nest."""
        point = self._point
        assert point.txn_state() == apsw.SQLITE_TXN_NONE, "a read transaction was left open"
        point.execute("BEGIN")
        try:
            yield View(self._queries)
        finally:
            point.execute("COMMIT")

    def scan(self, request: RangeRequest, floor: int = 0, *, stream: bool = False) -> Scan:
        """Start a big range over a state that has applied the index `floor` at least."""
        return Scan(self._pool, request, floor, stream=stream)

    def scan_txn(self, request: TxnRequest, floor: int = 0) -> TxnScan:
        """Start a big read-only txn over a state that has applied the index `floor` at least."""
        return TxnScan(self._pool, request, floor)

    def hash_kv(self, revision: int = 0, floor: int = 0) -> HashScan:
        """Start hashing the keys at a revision, 0 for the newest."""
        return HashScan(self._pool, revision, floor)

    def sizes(self) -> tuple[int, int]:
        """Return bytes of the database and how many of them are in use.

        Asked for regularly, so scans that nobody steps are put to rest here.
        """
        self._pool.rest()
        ((pages, free),) = self._queries.execute(_SIZES).fetchall()
        return pages * self._page_bytes, (pages - free) * self._page_bytes
