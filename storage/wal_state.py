"""What the records of the log amount to."""

from __future__ import annotations

from collections.abc import Sequence

from raft.state import Entry
from storage.wal_index import LogIndex
from storage.wal_record import (
    STATE,
    Record,
    RecordType,
    SegmentHeader,
    decode_batch,
    decode_hard_state,
    decode_snapshot,
)


class LogState:
    """What the records up to a point of the log amount to.

    Replay feeds it every record, and a running log every record it writes.
    """

    __slots__ = ("_state", "entries", "hard_state", "index", "keep_after", "snapshot")

    def __init__(self, header: SegmentHeader, next_index: int) -> None:
        """Start in a segment, where entry `next_index` is the next; keep no entries in memory."""
        self.hard_state = header.hard_state
        self.snapshot = header.snapshot
        self.index = LogIndex(next_index)
        self.entries: list[Entry] = []
        self.keep_after: int | None = None
        self._state: Record | None = None

    def feed(self, segment: int, records: Sequence[Record]) -> None:
        """Take in records of one segment, in order. Entries above `keep_after` are kept."""
        index, batch = self.index, RecordType.BATCH
        keep_from = None if self.keep_after is None else self.keep_after + 1
        for record in records:
            kind, flags, _, _, first, count, offset, _, _, _ = record
            if kind == batch:
                if flags & STATE:
                    self._state = record
                if count:
                    index.note(segment, offset, first, count)
                    if self.entries:
                        del self.entries[max(0, first - self.entries[0].index) :]
                    if keep_from is not None and first + count > keep_from:
                        start = max(0, keep_from - first)
                        self.entries += decode_batch(first, record.body).entries(start)
            elif kind == RecordType.SNAPSHOT:
                self.snapshot, restarts = decode_snapshot(record.body)
                if restarts:
                    index.restart(self.snapshot.index)
                    self.entries.clear()

    def replaces(self, header: SegmentHeader) -> bool:
        """Whether records fed say all that the header did. To be asked before settle()."""
        return self._state is not None and self.snapshot is not header.snapshot

    def settle(self) -> None:
        """Decode the last hard state fed; `hard_state` is right only after it."""
        if self._state is not None:
            self.hard_state = decode_hard_state(self._state.body)
            self._state = None
