"""What the records of the log amount to."""

from __future__ import annotations

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

    __slots__ = ("_state_body", "entries", "hard_state", "index", "keep_after", "snapshot")

    def __init__(self, header: SegmentHeader) -> None:
        """Start at a segment's header; keep no entries in memory until told so."""
        self.hard_state = header.hard_state
        self.snapshot = header.snapshot
        self.index = LogIndex(header.next_index)
        self.entries: list[Entry] = []
        self.keep_after: int | None = None
        self._state_body: memoryview | None = None

    def feed(self, segment: int, record: Record) -> None:
        """Take in one record. Entries above `keep_after` are kept."""
        if record.type == RecordType.BATCH:
            self._feed_batch(segment, record)
        elif record.type == RecordType.SNAPSHOT:
            self.snapshot, restarts = decode_snapshot(record.body)
            if restarts:
                self.index.restart(self.snapshot.index)
                self.entries.clear()

    def settle(self) -> None:
        """Decode the last hard state fed; `hard_state` is right only after it."""
        if self._state_body is not None:
            self.hard_state = decode_hard_state(self._state_body)
            self._state_body = None

    def _feed_batch(self, segment: int, record: Record) -> None:
        if record.flags & STATE:
            self._state_body = record.body  # decoded only if no later one follows
        first, count = record.first, record.entry_count
        if count == 0:
            return
        self.index.note(segment, record.offset, first, count)
        if self.entries:
            del self.entries[max(0, first - self.entries[0].index) :]
        if self.keep_after is None or first + count <= self.keep_after + 1:
            return
        start = max(0, self.keep_after + 1 - first)
        self.entries += decode_batch(first, record.body).entries(start)
