"""The tail of the log that is not known to be durable.

`offset` is the index of the first such entry. Up to `offset_in_progress` they have been handed
out to be written; an answer may yet be on its way. A snapshot that waits to be installed stands
before all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.config import INFO, Trace, ignore
from raft.errors import InvariantError
from raft.state import Entry, Snapshot


class Unstable:
    """See the module.

    Invariants:
    - entries[i].index == offset + i.
    - offset <= offset_in_progress <= offset + len(entries).
    - The log ends at offset + len(entries) - 1, whether or not anything is unstable.
    - With a snapshot: offset == snapshot.metadata.index + 1 until entries follow it.
    """

    __slots__ = (
        "entries",
        "offset",
        "offset_in_progress",
        "snapshot",
        "snapshot_in_progress",
        "trace",
    )

    def __init__(self, offset: int, trace: Trace = ignore) -> None:
        self.entries: list[Entry] = []
        self.offset = offset
        self.offset_in_progress = offset
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False
        self.trace = trace

    def check(self) -> None:
        """Raise InvariantError if an invariant is broken; looks at no entry but first and last."""
        entries, offset, snapshot = self.entries, self.offset, self.snapshot
        end = offset + len(entries)
        if entries and (entries[0].index != offset or entries[-1].index != end - 1):
            raise InvariantError(f"unstable entries are not [{offset},{end})")
        if not offset <= self.offset_in_progress <= end:
            raise InvariantError(f"in progress {self.offset_in_progress} not in [{offset},{end}]")
        if snapshot is not None:
            behind = offset - snapshot.metadata.index - 1
            if behind < 0 or (behind and not entries):
                raise InvariantError(f"unstable begins {behind} behind its snapshot")

    def maybe_term(self, index: int) -> int | None:
        """Return the term of an unstable entry, or of the snapshot, else None."""
        place = index - self.offset
        if place >= 0:
            return self.entries[place].term if place < len(self.entries) else None
        snapshot = self.snapshot
        if snapshot is not None and snapshot.metadata.index == index:
            return snapshot.metadata.term
        return None

    def has_next_entries(self) -> bool:
        """Tell whether entries wait to be handed out for writing."""
        return self.offset_in_progress < self.offset + len(self.entries)

    def next_entries(self) -> tuple[Entry, ...]:
        """Return the entries that were not handed out yet."""
        return tuple(self.entries[self.offset_in_progress - self.offset :])

    def next_snapshot(self) -> Snapshot | None:
        """Return the snapshot if it was not handed out yet."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept_in_progress(self) -> None:
        """Note that everything has been handed out."""
        self.offset_in_progress = self.offset + len(self.entries)
        self.snapshot_in_progress = self.snapshot is not None

    def stable_to(self, index: int, term: int) -> None:
        """Drop the entries up to (index, term): they are durable.

        An answer whose term differs is about entries that a newer leader has since replaced: the
        write of the replacement is still under way, so the answer says nothing.
        """
        place = index - self.offset
        ours = self.maybe_term(index)
        if ours is None:
            self.trace(INFO, f"entry at index {index} missing from unstable log; ignoring")
        elif place < 0:
            self.trace(INFO, f"entry at index {index} matched unstable snapshot; ignoring")
        elif ours != term:
            self.trace(
                INFO,
                f"entry at (index,term)=({index},{term}) mismatched with "
                f"entry at ({index},{ours}) in unstable log; ignoring",
            )
        else:
            del self.entries[: place + 1]
            self.offset = index + 1
            self.offset_in_progress = max(self.offset_in_progress, self.offset)

    def stable_snap_to(self, index: int) -> None:
        """Drop the snapshot at `index`: it is durable."""
        if self.snapshot is not None and self.snapshot.metadata.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew behind `snapshot`."""
        self.offset = self.offset_in_progress = snapshot.metadata.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def truncate_and_append(self, entries: Sequence[Entry]) -> None:
        """Append; whatever is there from the first one's index on goes."""
        first = entries[0].index
        place = first - self.offset
        if place == len(self.entries):
            self.entries.extend(entries)
        elif place <= 0:
            self.trace(INFO, f"replace the unstable entries from index {first}")
            self.entries = list(entries)
            self.offset = self.offset_in_progress = first
        else:
            self.trace(INFO, f"truncate the unstable entries before index {first}")
            self.slice(self.offset, first)  # raises if there would be a gap
            del self.entries[place:]
            self.entries.extend(entries)
            self.offset_in_progress = min(self.offset_in_progress, first)

    def slice(self, lo: int, hi: int) -> tuple[Entry, ...]:
        """Return entries [lo, hi); both must be within."""
        if lo > hi:
            raise InvariantError(f"invalid unstable.slice {lo} > {hi}")
        upper = self.offset + len(self.entries)
        if lo < self.offset or hi > upper:
            raise InvariantError(f"unstable.slice[{lo},{hi}) out of bound [{self.offset},{upper}]")
        return tuple(self.entries[lo - self.offset : hi - self.offset])
