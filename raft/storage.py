"""The log as raft sees it on disk, and the one kept in memory.

Raft never writes through this interface: the application writes what a Ready (or a
MsgStorageAppend) asks for and raft only reads. The snapshot stands before the log: the entry at
its index is known by its term, and the entries begin after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raft.errors import (
    CompactedError,
    InvariantError,
    SnapshotOutOfDateError,
    UnavailableError,
)
from raft.size import limit_size
from raft.state import ConfState, Entry, HardState, Snapshot, SnapshotMetadata


class Storage(Protocol):
    """What raft reads. Any other error than those named ends the member."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return what was last saved; an empty HardState for a new member."""
        ...

    def entries(self, lo: int, hi: int, max_size: int) -> tuple[Entry, ...]:
        """Return entries [lo, hi), cut to `max_size` bytes but never to nothing.

        Raises CompactedError, UnavailableError.
        """
        ...

    def term(self, index: int) -> int:
        """Return the term of an entry in [first_index()-1, last_index()].

        Raises CompactedError, UnavailableError.
        """
        ...

    def first_index(self) -> int:
        """Return the index of the first entry that entries() can return."""
        ...

    def last_index(self) -> int:
        """Return the index of the last entry, or of the snapshot if there is none."""
        ...

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot. Raises SnapshotTemporarilyUnavailableError."""
        ...


class MemoryStorage:
    """Storage in a list.

    Invariants:
    - _entries[i].index == _offset + 1 + i.
    - _offset_term is the term of the entry at _offset, which is compacted away.
    - first_index() <= last_index() + 1.
    """

    __slots__ = ("_conf_state", "_entries", "_hard_state", "_offset", "_offset_term", "_snapshot")

    def __init__(self, *, conf_state: ConfState | None = None) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot()
        self._conf_state = conf_state
        self._entries: list[Entry] = []
        self._offset = 0
        self._offset_term = 0

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return the last hard state and the configuration of the snapshot, if not overridden."""
        return self._hard_state, self._conf_state or self._snapshot.metadata.conf_state

    def set_hard_state(self, hard_state: HardState) -> None:
        """Remember the hard state."""
        self._hard_state = hard_state

    def set_conf_state(self, conf_state: ConfState) -> None:
        """Override the configuration raft starts with, when it is newer than the snapshot's."""
        self._conf_state = conf_state

    def entries(self, lo: int, hi: int, max_size: int) -> tuple[Entry, ...]:
        """See Storage."""
        if lo <= self._offset:
            raise CompactedError
        if hi > self.last_index() + 1:
            raise InvariantError(
                f"entries' hi({hi}) is out of bound lastindex({self.last_index()})"
            )
        if not self._entries:
            raise UnavailableError
        first = self._offset + 1
        return limit_size(tuple(self._entries[lo - first : hi - first]), max_size)

    def term(self, index: int) -> int:
        """See Storage."""
        place = index - self._offset - 1
        if place < 0:
            if place == -1:
                return self._offset_term
            raise CompactedError
        if place >= len(self._entries):
            raise UnavailableError
        return self._entries[place].term

    def first_index(self) -> int:
        """See Storage."""
        return self._offset + 1

    def last_index(self) -> int:
        """See Storage."""
        return self._offset + len(self._entries)

    def snapshot(self) -> Snapshot:
        """See Storage."""
        return self._snapshot

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries; those of an old log from the first one's index on are replaced."""
        if not entries:
            return
        place = entries[0].index - self._offset - 1
        if place < 0:
            entries = entries[-place:]
            place = 0
            if not entries:
                return
        if place > len(self._entries):
            raise InvariantError(
                f"missing log entry [last: {self.last_index()}, append at: {entries[0].index}]"
            )
        if place < len(self._entries):
            del self._entries[place:]
        self._entries.extend(entries)

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace all by a snapshot. Raises SnapshotOutOfDateError."""
        metadata = snapshot.metadata
        if 0 != self._snapshot.metadata.index >= metadata.index:
            raise SnapshotOutOfDateError
        self._snapshot = snapshot
        self._conf_state = None
        self._entries = []
        self._offset, self._offset_term = metadata.index, metadata.term

    def create_snapshot(
        self, index: int, conf_state: ConfState | None = None, data: bytes = b""
    ) -> Snapshot:
        """Remember the state at `index`; the log stays. Raises SnapshotOutOfDateError."""
        if index <= self._snapshot.metadata.index:
            raise SnapshotOutOfDateError
        if index > self.last_index():
            raise InvariantError(f"snapshot {index} is out of bound lastindex({self.last_index()})")
        conf_state = conf_state or self._snapshot.metadata.conf_state
        self._snapshot = Snapshot(data, SnapshotMetadata(index, self.term(index), conf_state))
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop all entries up to and including `index`. Raises CompactedError."""
        if index <= self._offset:
            raise CompactedError
        if index > self.last_index():
            raise InvariantError(f"compact {index} is out of bound lastindex({self.last_index()})")
        term = self.term(index)
        del self._entries[: index - self._offset]
        self._offset, self._offset_term = index, term
