"""The raft log: what Storage holds, the unstable tail behind it, and three marks.

         first_index                       offset              last_index
             | ... stable (Storage) ........ | ... unstable ..... |
                    applied <= applying <= committed

`slice`, `term` and friends make the two halves look like one. Terms are the only thing that is
ever compared: two logs that agree on (index, term) agree on everything before (raft paper, 5.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raft.config import INFO, Trace, ignore
from raft.errors import CompactedError, InvariantError, UnavailableError
from raft.size import NO_LIMIT, entries_size, limit_size
from raft.state import Entry, Snapshot
from raft.storage import Storage
from raft.unstable import Unstable


class RaftLog:
    """See the module.

    Invariants:
    - applied <= applying <= committed <= last_index().
    - What is committed is never replaced.
    - At most max_applying_size bytes (and one entry more) are being applied.
    """

    __slots__ = (
        "applied",
        "applying",
        "applying_paused",
        "applying_size",
        "committed",
        "max_applying_size",
        "storage",
        "trace",
        "unstable",
    )

    def __init__(
        self, storage: Storage, trace: Trace = ignore, max_applying_size: int = NO_LIMIT
    ) -> None:
        self.storage = storage
        self.unstable = Unstable(storage.last_index() + 1, trace)
        self.trace = trace
        self.max_applying_size = max_applying_size
        self.applying_size = 0
        self.applying_paused = False
        self.committed = self.applying = self.applied = storage.first_index() - 1

    def __str__(self) -> str:
        unstable = self.unstable
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={unstable.offset}, "
            f"unstable.offsetInProgress={unstable.offset_in_progress}, "
            f"len(unstable.Entries)={len(unstable.entries)}"
        )

    def check(self) -> None:
        """Raise InvariantError if an invariant is broken."""
        self.unstable.check()
        if not self.applied <= self.applying <= self.committed <= self.last_index():
            raise InvariantError(f"marks out of order: {self}, lastIndex={self.last_index()}")

    # Places

    def first_index(self) -> int:
        """Return the index of the first entry that can be had."""
        snapshot = self.unstable.snapshot
        if snapshot is not None:
            return snapshot.metadata.index + 1
        return self.storage.first_index()

    def last_index(self) -> int:
        """Return the index of the last entry, or of the snapshot if the log is empty."""
        unstable = self.unstable
        return unstable.offset + len(unstable.entries) - 1

    def term(self, index: int) -> int:
        """Return the term at `index`. Raises CompactedError, UnavailableError."""
        term = self.unstable.maybe_term(index)
        if term is not None:
            return term
        if index > self.last_index():
            raise UnavailableError
        if index + 1 < self.first_index():
            raise CompactedError
        return self.storage.term(index)

    def term_or_zero(self, index: int) -> int:
        """Return the term at `index`, 0 where there is none."""
        try:
            return self.term(index)
        except (CompactedError, UnavailableError):
            return 0

    def match_term(self, index: int, term: int) -> bool:
        """Tell whether the entry at `index` is there and has this term."""
        if index > self.last_index():
            return False
        ours = self.unstable.maybe_term(index)
        if ours is not None:
            return ours == term
        try:
            return self.term(index) == term
        except (CompactedError, UnavailableError):
            return False

    def last_term(self) -> int:
        """Return the term at last_index()."""
        try:
            return self.term(self.last_index())
        except (CompactedError, UnavailableError) as error:
            raise InvariantError(
                f"unexpected error when getting the last term at {self.last_index()}: {error}"
            ) from error

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Tell whether a log that ends there holds all that ours does (raft paper, 5.4.1)."""
        last_term = self.last_term()
        return term > last_term or (term == last_term and index >= self.last_index())

    # Growing

    def maybe_append(
        self, prev_index: int, prev_term: int, entries: Sequence[Entry], commit: int
    ) -> int | None:
        """Add what a leader sent and learn its commit index; None if `prev` doesn't match.

        Returns the index up to which the log now equals the leader's.
        """
        if not self.match_term(prev_index, prev_term):
            return None
        last = prev_index + len(entries)
        conflict = self.find_conflict(entries)
        if conflict != 0:
            if conflict <= self.committed:
                raise InvariantError(
                    f"entry {conflict} conflict with committed entry [committed({self.committed})]"
                )
            self.append(entries[conflict - prev_index - 1 :])
        self.commit_to(min(commit, last))
        return last

    def append(self, entries: Sequence[Entry]) -> int:
        """Add entries, replacing what is uncommitted and in the way; return last_index()."""
        if entries:
            after = entries[0].index - 1
            if after < self.committed:
                raise InvariantError(
                    f"after({after}) is out of range [committed({self.committed})]"
                )
            self.unstable.truncate_and_append(entries)
        return self.last_index()

    def find_conflict(self, entries: Sequence[Entry]) -> int:
        """Return the index of the first entry we lack or hold with another term, else 0."""
        for entry in entries:
            if not self.match_term(entry.index, entry.term):
                if entry.index <= self.last_index():
                    self.trace(
                        INFO,
                        f"found conflict at index {entry.index} [existing term: "
                        f"{self.term_or_zero(entry.index)}, conflicting term: {entry.term}]",
                    )
                return entry.index
        return 0

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """Return the last place at or before `index` whose term is at most `term`.

        The answer is (index, term); the term is 0 where it is not known, since compacted away.
        Skips whole terms that can't match instead of probing entry by entry.
        """
        while index > 0:
            try:
                ours = self.term(index)
            except (CompactedError, UnavailableError):
                return index, 0
            if ours <= term:
                return index, ours
            index -= 1
        return 0, 0

    def restore(self, snapshot: Snapshot) -> None:
        """Begin anew behind `snapshot`."""
        metadata = snapshot.metadata
        self.trace(
            INFO,
            f"log [{self}] starts to restore snapshot "
            f"[index: {metadata.index}, term: {metadata.term}]",
        )
        if metadata.index <= self.committed:
            raise InvariantError(f"snapshot {metadata.index} replaces committed {self.committed}")
        self.committed = metadata.index
        self.unstable.restore(snapshot)

    # Committing

    def commit_to(self, index: int) -> None:
        """Raise `committed` to `index`; it never goes back."""
        if self.committed < index:
            if self.last_index() < index:
                raise InvariantError(
                    f"tocommit({index}) is out of range [lastIndex({self.last_index()})]. "
                    "Was the raft log corrupted, truncated, or lost?"
                )
            self.committed = index

    def maybe_commit(self, index: int, term: int) -> bool:
        """Commit up to `index` if the entry there is of the leader's `term` (raft paper, 5.4.2)."""
        if index > self.committed and term != 0 and self.match_term(index, term):
            self.commit_to(index)
            return True
        return False

    # Handing out

    def has_next_or_in_progress_snapshot(self) -> bool:
        """Tell whether a snapshot is yet to be installed: nothing is applied before that."""
        return self.unstable.snapshot is not None

    def max_appliable_index(self, allow_unstable: bool) -> int:
        """Return the last index that may be applied now."""
        if allow_unstable:
            return self.committed
        return min(self.committed, self.unstable.offset - 1)

    def has_next_committed_entries(self, allow_unstable: bool) -> bool:
        """Tell whether next_committed_entries() would return any."""
        if self.applying >= self.committed or self.applying_paused:
            return False
        if self.unstable.snapshot is not None:
            return False
        return self.applying < self.max_appliable_index(allow_unstable)

    def next_committed_entries(self, allow_unstable: bool) -> tuple[Entry, ...]:
        """Return committed entries not handed out yet, within what may be in progress."""
        if not self.has_next_committed_entries(allow_unstable):
            return ()
        room = self.max_applying_size
        if room < NO_LIMIT:
            room -= self.applying_size
            if room < 0:
                raise InvariantError(f"applying entry size is {-room} above its limit")
        return self.slice(self.applying + 1, self.max_appliable_index(allow_unstable) + 1, room)

    def accept_applying(self, index: int, size: int, allow_unstable: bool) -> None:
        """Entries up to `index`, `size` bytes of them new, are being applied."""
        if self.committed < index:
            raise InvariantError(
                f"applying({index}) is out of range "
                f"[prevApplying({self.applying}), committed({self.committed})]"
            )
        self.applying = index
        self.applying_size += size
        # When the limit cut the entries short, more would only make many small batches.
        self.applying_paused = (
            self.applying_size >= self.max_applying_size
            or index < self.max_appliable_index(allow_unstable)
        )

    def applied_to(self, index: int, size: int) -> None:
        """Entries up to `index` are applied; `size` bytes of them were in progress."""
        if self.committed < index or index < self.applied:
            raise InvariantError(
                f"applied({index}) is out of range "
                f"[prevApplied({self.applied}), committed({self.committed})]"
            )
        self.applied = index
        self.applying = max(self.applying, index)
        self.applying_size = max(self.applying_size - size, 0)
        self.applying_paused = self.applying_size >= self.max_applying_size

    # Reading

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot. Raises SnapshotTemporarilyUnavailableError."""
        return self.unstable.snapshot or self.storage.snapshot()

    def entries(self, index: int, max_size: int) -> tuple[Entry, ...]:
        """Return entries from `index` on, within `max_size` bytes. Raises CompactedError."""
        if index > self.last_index():
            return ()
        return self.slice(index, self.last_index() + 1, max_size)

    def slice(self, lo: int, hi: int, max_size: int) -> tuple[Entry, ...]:
        """Return entries [lo, hi), cut to `max_size` bytes but never to nothing.

        Raises CompactedError.
        """
        if lo > hi:
            raise InvariantError(f"invalid slice {lo} > {hi}")
        if lo < self.first_index():
            raise CompactedError
        if hi > self.last_index() + 1:
            raise InvariantError(
                f"slice[{lo},{hi}) out of bound [{self.first_index()},{self.last_index()}]"
            )
        if lo == hi:
            return ()
        offset = self.unstable.offset
        if lo >= offset:
            return limit_size(self.unstable.slice(lo, hi), max_size)
        cut = min(hi, offset)
        try:
            stable = self.storage.entries(lo, cut, max_size)
        except UnavailableError as error:
            raise InvariantError(f"entries[{lo}:{cut}) is unavailable from storage") from error
        if hi <= offset or len(stable) < cut - lo:
            return stable
        unstable = self.unstable.slice(offset, hi)
        if max_size < NO_LIMIT:
            room = max_size - entries_size(stable)
            unstable = limit_size(unstable, room) if room > 0 else ()
            # limit_size always leaves one entry, which here must not exceed the whole.
            if len(unstable) == 1 and entries_size(unstable) > room:
                unstable = ()
        return stable + unstable

    def scan(self, lo: int, hi: int, page_size: int) -> Iterator[tuple[Entry, ...]]:
        """Yield entries [lo, hi) in pages of at most `page_size` bytes. Raises CompactedError."""
        while lo < hi:
            page = self.slice(lo, hi, page_size)
            if not page:
                raise InvariantError(f"got 0 entries in [{lo}, {hi})")
            yield page
            lo += len(page)
