"""What the state machine asks of the store it lives in.

The history is append-only: one row per change of a key, keyed by `row id`, an integer that
ascends with revision and place within it. A row names the previous row of its key, so a read at
an old revision walks back. The newest row of every key is found through the *key table*.

The store is transactional: between `begin` and `commit` everything written is seen by the store's
own reads and by nobody else; `rollback` throws all of it away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from kv.cluster import Member
from raft.state import ConfState

SUB_BITS: Final = 24
SUB_MAX: Final = (1 << SUB_BITS) - 1
REVISION_MAX: Final = (1 << (63 - SUB_BITS)) - 1

KV: TypeAlias = tuple[bytes, bytes, int, int, int, int]
"""key, value, create revision, mod revision, version, lease: mvccpb.KeyValue as a tuple."""

Latest: TypeAlias = tuple[int, int, int, int]
"""Row id, create revision, version, lease of a key's newest row; version 0 is a tombstone."""

HistoryRow: TypeAlias = tuple[int, bytes, int, int, int, int, bytes]
"""Row id, key, previous row id of the key (0: none), create revision, version, lease, value."""

Result: TypeAlias = int | tuple[int, bytes]
"""What a request came to: its revision (empty body), (revision, body), or -Status.number."""

Kept: TypeAlias = Result | tuple[int, int]
"""A result as it is kept; of a big one only its revision and the one its request began at."""

KeptResults: TypeAlias = list[tuple[int, list[Kept]]]
"""Runs of results of consecutive ids: (first id, results)."""


def row_id(revision: int, sub: int = 0) -> int:
    """Return the row id of change number `sub` of a revision; it sorts by both."""
    return revision << SUB_BITS | sub


@dataclass(slots=True)
class Progress:
    """What changes with every transaction."""

    applied_index: int = 0
    applied_term: int = 0
    revision: int = 1
    compact_revision: int = -1
    hash: int = 0


@dataclass(slots=True)
class Session:
    """A gateway's session (RIFL, section 3).

    Invariants: `mark` and `highest` never fall; a closed session is never opened again.
    """

    id: int
    member_id: int
    slot: int
    mark: int = 0
    highest: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease: TTLs in seconds, `remaining_ttl` is the last checkpoint's, 0 if there is none.

    `granted_index` is the index of the entry that granted it: with the id it names the lease.
    """

    id: int
    ttl: int
    remaining_ttl: int
    granted_index: int


@dataclass(slots=True)
class State:
    """Everything but the keys: small, and held in memory by the state machine."""

    progress: Progress = field(default_factory=Progress)
    conf_state: ConfState = field(default_factory=ConfState)
    cluster_version: str | None = None
    members: dict[int, Member] = field(default_factory=dict)
    alarms: set[tuple[int, int]] = field(default_factory=set)
    sessions: dict[int, Session] = field(default_factory=dict)


class Reads(Protocol):
    """Reads of keys. `revision` 0 is the newest state. An end of None is "no end"."""

    def get(self, key: bytes, revision: int = 0) -> KV | None:
        """Return a key as it was at a revision, or None."""
        ...

    def scan(
        self, key: bytes, end: bytes | None, revision: int = 0, limit: int = 0
    ) -> Sequence[KV]:
        """Return the keys in [key, end) in order, at most `limit` of them (0: all)."""
        ...

    def count(self, key: bytes, end: bytes | None, revision: int = 0) -> int:
        """Return how many keys there are in [key, end)."""
        ...


class Store(Reads, Protocol):
    """The state machine's store: one writer."""

    def load(self) -> State:
        """Return what is committed."""
        ...

    def begin(self) -> None:
        """Open a transaction."""
        ...

    def commit(self) -> None:
        """Make the transaction visible to others, all of it at once."""
        ...

    def rollback(self) -> None:
        """Forget the transaction."""
        ...

    def latest(self, keys: Collection[bytes]) -> dict[bytes, Latest]:
        """Return the newest row of each key that has one, tombstones too."""
        ...

    def write(self, history: list[HistoryRow], latest: dict[bytes, Latest]) -> None:
        """Append rows, ids ascending, and make `latest` the newest rows of their keys."""
        ...

    def save_progress(self, progress: Progress) -> None:
        """Save what changes with every transaction."""
        ...

    def save_conf_state(self, conf_state: ConfState) -> None:
        """Save raft's configuration."""
        ...

    def save_cluster_version(self, version: str) -> None:
        """Save the decided version of the cluster."""
        ...

    def save_member(self, member: Member) -> None:
        """Add a member or change it."""
        ...

    def delete_member(self, member_id: int) -> None:
        """Remove a member."""
        ...

    def save_alarms(self, alarms: Iterable[tuple[int, int]]) -> None:
        """Replace all raised alarms, (member id, type)."""
        ...

    def lease(self, lease_id: int) -> Lease | None:
        """Return a lease, or None."""
        ...

    def lease_keys(self, lease_id: int) -> Sequence[bytes]:
        """Return the keys attached to a lease, in their order."""
        ...

    def save_lease(self, lease: Lease) -> None:
        """Add a lease or change it."""
        ...

    def delete_lease(self, lease_id: int) -> None:
        """Remove a lease; its keys are not touched."""
        ...

    def save_session(self, session: Session) -> None:
        """Add a session or change it; if it is closed, its results go."""
        ...

    def delete_session(self, session_id: int) -> None:
        """Remove a session and its results."""
        ...

    def keep_results(self, session: Session, results: KeptResults) -> None:
        """Keep results of a session that was saved, and its mark and highest request.

        Results all of whose runs are below a session's mark may go.
        """
        ...

    def results(self, session_id: int, first_id: int, last_id: int) -> dict[int, Kept]:
        """Return the kept results of a session with ids in [first_id, last_id].

        Those below the mark may be there or not.
        """
        ...
