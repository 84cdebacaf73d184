"""Changes on their way into the history.

A plain put is noted in a list and nothing is read for it: its result is its revision. What the new
row must say of the key's past is looked up for all noted changes at once, when somebody wants to
read, and at the latest at the end of the transaction. That is what makes puts cheap.

Invariants:
- Row ids of noted changes ascend.
- Everything noted is in the store before anything is read through the writer.
- The hash covers each row but not its link to the previous one, which depends on pruning; it
  rolls from row to row, so it does not depend on how entries came in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, TypeAlias
from zlib import crc32

from kv.errors import RevisionOverflowError
from kv.store import KV, REVISION_MAX, SUB_BITS, SUB_MAX, HistoryRow, Latest, Store

Change: TypeAlias = tuple[int, bytes, bytes | None, int]
"""Row id, key, value (None deletes), lease."""

NO_ROW: Final[Latest] = (0, 0, 0, 0)
_HASHED = Struct(">qqqqi").pack


class HistoryWriter:
    """Collects the changes of the open transaction. Implements kv.store.Reads."""

    __slots__ = ("_base", "_store", "_sub", "changes", "hash")

    def __init__(self, store: Store, rolling_hash: int) -> None:
        self._store = store
        self._base = 0
        self._sub = 0
        self.hash = rolling_hash
        self.changes: list[Change] = []

    # --- one request that may change several keys -------------------------------------------------

    def start(self, revision: int) -> None:
        """Start a request while the store is at `revision`: its changes make the next one."""
        if revision >= REVISION_MAX:
            raise RevisionOverflowError(f"revision {revision} is the last one")
        self._base = revision
        self._sub = 0

    @property
    def revision(self) -> int:
        """The store's revision with what this request has changed so far."""
        return self._base + 1 if self._sub else self._base

    @property
    def next_revision(self) -> int:
        """The revision that this request's changes have."""
        return self._base + 1

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Note a put."""
        self._note(key, value, lease)

    def delete(self, key: bytes) -> None:
        """Note a delete of a key that is there."""
        self._note(key, None, 0)

    def _note(self, key: bytes, value: bytes | None, lease: int) -> None:
        if self._sub > SUB_MAX:
            raise RevisionOverflowError(f"more than {SUB_MAX + 1} changes in one revision")
        self.changes.append((self._base + 1 << SUB_BITS | self._sub, key, value, lease))
        self._sub += 1

    # --- kv.store.Reads ---------------------------------------------------------------------------

    def get(self, key: bytes, revision: int = 0) -> KV | None:
        """See Reads."""
        self.sync()
        return self._store.get(key, revision)

    def scan(
        self, key: bytes, end: bytes | None, revision: int = 0, limit: int = 0
    ) -> Sequence[KV]:
        """See Reads."""
        self.sync()
        return self._store.scan(key, end, revision, limit)

    def count(self, key: bytes, end: bytes | None, revision: int = 0) -> int:
        """See Reads."""
        self.sync()
        return self._store.count(key, end, revision)

    def has_lease(self, lease: int) -> bool:
        """Whether a put may name a lease: there is such a lease, or 0 for none."""
        return not lease or self._store.lease(lease) is not None

    # --- towards the store ------------------------------------------------------------------------

    def sync(self) -> None:
        """Write what is noted into the store's transaction."""
        if not self.changes:
            return
        changes, self.changes = self.changes, []
        known = self._store.latest({change[1] for change in changes})
        get = known.get
        history: list[HistoryRow] = []
        add = history.append
        hashed: list[bytes] = []
        latest: dict[bytes, Latest] = {}
        for row, key, value, lease in changes:
            previous, create_revision, version, _ = get(key, NO_ROW)
            if value is None:
                create_revision = version = 0
                value = b""
            elif version:
                version += 1
            else:
                create_revision, version = row >> SUB_BITS, 1
            latest[key] = known[key] = (row, create_revision, version, lease)
            add((row, key, previous, create_revision, version, lease, value))
            hashed += (_HASHED(row, create_revision, version, lease, len(key)), key, value)
        self.hash = crc32(b"".join(hashed), self.hash)
        self._store.write(history, latest)
