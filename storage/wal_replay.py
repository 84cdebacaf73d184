"""Opening a log: find its segments, read them, and make its tail durable again.

What the page cache shows after a failed sync can't be believed, and a process that was killed
leaves records that were written and never synced. So an open never trusts the tail: all records
that no later one proves durable (usually one) are written again in place, which makes their pages
dirty once more, together with zeros over a torn record, and synced: one write, one fdatasync.
These records may begin in the segment before the last one, which the log leaves without waiting for
its sync. If that one is torn, nothing of the last one was ever promised: it is dropped, durably,
before anything is written where it would follow.
If the log that is opened has told where it need only be begun to be read, that is tried first.
That place is a hint from memory and believed only for what stands there: a good record, from which
an unbroken row of good ones leads to the end, with a snapshot that covers all before it, a hard
state, and all that is doubted. Else the log is read as if there had been no hint.
If the marker says that a sync failed here, the same place is not tried again: these records go
into a new segment, which voids them where they stood (RULES A7). The marker itself needs no sync:
it has to live exactly as long as the page cache that it warns of.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from raft.state import Entry, HardState, SnapshotMetadata
from storage.files import Files
from storage.wal_errors import WalCorruptError, WalMissingError, WalSyncError, WalWriteError
from storage.wal_index import from_word
from storage.wal_record import (
    Body,
    Record,
    RecordType,
    SegmentHeader,
    SegmentReader,
    decode_snapshot,
    encode_header,
    encode_record,
    read_header,
    read_remains,
)
from storage.wal_segment import (
    FREE_NAME,
    MARKER_NAME,
    NEXT_NAME,
    SEGMENT_NAME,
    NextSegment,
    Segment,
    segment_name,
)
from storage.wal_state import LogState


@dataclass(slots=True)
class Replay:
    """What the log says. `entries` are those after the newest snapshot, without gaps."""

    metadata: bytes
    hard_state: HardState
    snapshot: SnapshotMetadata
    entries: list[Entry] = field(default_factory=list)
    cut_bytes: int = 0  # of a torn tail that was cut off
    resumed: bool = False  # what stands before the place to resume at was not read


@dataclass(slots=True)
class Tail:
    """Where the log goes on: the position after the last good record of the last segment."""

    offset: int
    sequence: int
    previous: int
    seed: int
    begun: int  # number of that segment's first record


@dataclass(slots=True)
class _Found:
    """A segment file with a good header."""

    path: Path
    descriptor: int
    header: SegmentHeader


class _ReadInFullError(Exception):
    """What stands from the place to resume at on does not suffice."""


class Opening:
    """One attempt to open the log in a folder."""

    def __init__(self, directory: Path, files: Files, segment_bytes: int) -> None:
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self._found: list[_Found] = []
        self._spare: tuple[Path, int] | None = None
        self._free: list[Path] = []
        self._orphans: list[_Found] = []
        self._marked = False
        self._behind: list[Record] = []
        """Records of the segment before the last one that the last one does not prove durable."""
        self._behind_end = 0
        self._resume: tuple[int, int] | None = None
        """Number of the segment and offset in it to begin at, if it is not its header."""

    def run(
        self, from_index: int, resume_at: int = 0
    ) -> tuple[list[Segment], LogState, Tail, NextSegment, Replay]:
        """Return all that a Wal needs to go on, and what there was. See Wal.open().

        Raises WalMissingError, WalCorruptError, WalSyncError, WalWriteError.
        """
        try:
            with _collector_paused():
                self._find()
                if resume_at and not self._marked:
                    self._resume = from_word(resume_at)
                    with suppress(_ReadInFullError):
                        return self._run(from_index)
                    self._resume = None
                return self._run(from_index)
        except BaseException:
            self._close()
            raise

    def _run(self, from_index: int) -> tuple[list[Segment], LogState, Tail, NextSegment, Replay]:
        reader, records, remains_end = self._read_tail()
        last = self._found[-1]
        newest = last.header.snapshot
        for record in reversed(records):
            if record.type == RecordType.SNAPSHOT:
                newest, _ = decode_snapshot(record.body)
                break
        start, first = self._start(newest)
        if self._marked and self._behind:  # what is written again begins in the segment before
            start = min(start, len(self._found) - 2)
            first = self._found[start].header.next_index
        header = self._found[start].header
        state = LogState(header, first)
        state.keep_after = max(newest.index, from_index)
        for number in range(start, len(self._found) - 1):
            self._read_inner(number, state)
        if self._marked:
            self._write_tail_again(records, reader.durable, state)
            self._close()
            self._orphans, self._found = [], []
            fresh = Opening(self._directory, self._files, self._segment_bytes)
            return fresh.run(from_index)
        state.feed(last.header.number, records)
        if self._resume is not None and not state.replaces(header):
            raise _ReadInFullError
        state.settle()
        if self._behind:
            start, end = self._behind[0].offset, self._behind_end
            self._write_in_place(self._found[-2], start, end, end)
        doubted = _since(records, reader.durable)
        self._write_in_place(last, doubted[0].offset, reader.offset, remains_end)
        cut = remains_end - reader.offset
        replay = Replay(
            last.header.metadata,
            state.hard_state,
            state.snapshot,
            state.entries,
            cut,
            self._resume is not None,
        )
        state.entries, state.keep_after = [], None
        while self._orphans:  # taken out first: what fails here is not closed twice
            orphan = self._orphans.pop(0)
            self._remove(orphan.path, orphan.descriptor)
        header = last.header
        tail = Tail(reader.offset, reader.sequence, reader.previous, header.seed, header.sequence)
        segments = [
            Segment(found.header.number, found.path, found.descriptor, found.header.next_index)
            for found in self._found
        ]
        return segments, state, tail, self._next(last.header.number + 1), replay

    def _find(self) -> None:
        """Open the newest unbroken row of segments, and sort out what stands beside it."""
        files, directory = self._files, self._directory
        try:
            names = files.list(directory)
        except FileNotFoundError:
            raise WalMissingError(directory) from None
        paths = {int(m[1], 16): directory / m[0] for m in map(SEGMENT_NAME.fullmatch, names) if m}
        ready = {int(m[1], 16): directory / m[0] for m in map(NEXT_NAME.fullmatch, names) if m}
        if not paths:
            raise WalMissingError(directory)
        self._free = [directory / name for name in names if FREE_NAME.fullmatch(name)]
        self._marked = MARKER_NAME in names
        # A segment's name may have been lost, and that of the next one not.
        for number in sorted({*paths, *ready}):
            if number in paths:
                self._take(number, paths[number], newest=max(paths))
            if number in ready:
                self._adopt(number, ready[number], newest=max(paths))

    def _take(self, number: int, path: Path, *, newest: int) -> None:
        """Handle a segment; forget those before it if there is a gap."""
        descriptor = self._files.open(path)
        header = read_header(self._files, descriptor)
        if header is None or header.number != number:
            if number < newest or not self._never_synced(number, descriptor, header):
                raise WalCorruptError(path, 0, "bad segment header")
            self._remove(path, descriptor)
            return
        if self._found and self._found[-1].header.number + 1 != number:
            # The unlinks of a purge reached the disk in part: older ones than needed are left.
            self._orphans += self._found
            self._found = []
        self._found.append(_Found(path, descriptor, header))

    def _never_synced(self, number: int, descriptor: int, header: SegmentHeader | None) -> bool:
        """Whether a file without its own header can't have been the log's last segment.

        A header is synced with the first records, so it is missing only if they never were.
        """
        if not self._found or self._found[-1].header.number + 1 != number:
            return False
        if header is not None:
            return header.number < number  # recycled, and still as it was
        if read_remains(self._files, descriptor, 0, sequence=0, seed=None).end == 0:
            return True  # nothing in it looks like a record: no need to know where the log ends
        before = self._found[-1]
        reader = SegmentReader(self._files, before.descriptor, before.path, before.header)
        reader.records()
        remains = read_remains(self._files, descriptor, 0, sequence=reader.sequence, seed=None)
        return remains.proof is None

    def _adopt(self, number: int, path: Path, *, newest: int) -> None:
        """Handle a .next file: a segment whose rename was lost, a spare one, or rubbish."""
        files = self._files
        descriptor = files.open(path)
        header = read_header(files, descriptor)
        if not self._found or number != self._found[-1].header.number + 1:
            self._remove(path, descriptor)
        elif header is not None and header.number == number:
            final = self._directory / segment_name(number, header.next_index)
            files.rename(path, final)
            files.sync_directory(self._directory)
            self._found.append(_Found(final, descriptor, header))
        elif number < newest or not self._never_synced(number, descriptor, header):
            raise WalCorruptError(path, 0, "bad segment header")
        elif files.size(descriptor) == self._segment_bytes and (
            header is not None or not any(files.pread(descriptor, 4096, 0))
        ):
            self._spare = path, descriptor
        else:
            self._remove(path, descriptor)

    def _remove(self, path: Path, descriptor: int) -> None:
        self._files.close(descriptor)
        self._files.unlink(path)

    def _read_tail(self) -> tuple[SegmentReader, list[Record], int]:
        """Read the last segment; drop it if it was begun behind records that are lost.

        As _read_last(), for what is the last one then. A segment is begun only when the header of
        the one before is durable, so there is never more than one to drop.
        """
        last = self._found[-1]
        reader, records, end = self._read_last(last)
        durable, begun = reader.durable, last.header.sequence
        if durable >= begun or len(self._found) == 1:  # one that was released was durable
            return reader, records, end
        before, files = self._found[-2], self._files
        earlier = SegmentReader(files, before.descriptor, before.path, before.header)
        behind = _since(earlier.records(begun), durable)
        if earlier.sequence == begun:
            self._behind, self._behind_end = behind, earlier.offset
            return reader, records, end
        lost, seed = earlier.sequence, last.header.seed
        if read_remains(files, last.descriptor, 0, sequence=lost, seed=seed).proof is not None:
            raise WalCorruptError(before.path, earlier.offset, "bad record")
        self._found.pop()
        self._remove(last.path, last.descriptor)
        if self._spare is not None:  # made for the number after the one that is dropped
            self._remove(*self._spare)
            self._spare = None
        files.sync_directory(self._directory)
        return self._read_last(before)

    def _read_last(self, last: _Found) -> tuple[SegmentReader, list[Record], int]:
        """Read the last segment, its header first; return where what looks like records ends."""
        files = self._files
        reader = SegmentReader(files, last.descriptor, last.path, last.header)
        resumed = self._resumed(last, reader)
        records = reader.records()
        if resumed is not None and (not records or reader.durable < records[0].sequence):
            raise _ReadInFullError
        remains = read_remains(
            files,
            last.descriptor,
            reader.offset,
            sequence=reader.sequence,
            seed=last.header.seed,
        )
        if remains.proof is not None:
            reason = f"bad record (a later one at {remains.proof} was written after its sync)"
            raise WalCorruptError(last.path, reader.offset, reason)
        return reader, records, remains.end

    def _resumed(self, found: _Found, reader: SegmentReader) -> int | None:
        """If this is the segment to resume in, have it read from there; return the first index."""
        if self._resume is None or found.header.number != self._resume[0]:
            return None
        return reader.begin_at(self._resume[1])

    def _start(self, newest: SnapshotMetadata) -> tuple[int, int]:
        """Return the place of the segment that replay starts at, and the next index there.

        The last one that was begun when entry newest.index + 1 was not there yet: every version
        of the entries after the snapshot that counts was written in it or after it.
        """
        for place in range(len(self._found) - 1, -1, -1):
            found = self._found[place]
            if self._resume is not None:
                reader = SegmentReader(self._files, found.descriptor, found.path, found.header)
                first = self._resumed(found, reader)
                if first is not None and 0 < first <= newest.index + 1:
                    return place, first
            elif found.header.next_index <= newest.index + 1:
                return place, found.header.next_index
        if self._resume is not None:
            raise _ReadInFullError
        found = self._found[0]
        raise WalCorruptError(found.path, 0, f"the segments from index {newest.index + 1} are gone")

    def _read_inner(self, place: int, state: LogState) -> None:
        """Read a segment that is not the last: everything in it is good.

        What has to be written again elsewhere is not taken into the state.
        """
        found, follower = self._found[place], self._found[place + 1]
        until = follower.header.sequence
        if until <= found.header.sequence:
            return
        reader = SegmentReader(self._files, found.descriptor, found.path, found.header)
        resumed = self._resumed(found, reader)
        # From number `until` on stands what was written again in the next segment.
        records = reader.records(until) if reader.sequence < until else []
        if resumed is not None and not records:
            raise _ReadInFullError
        if self._marked and self._behind:
            records = records[: self._behind[0].sequence - found.header.sequence]
        state.feed(found.header.number, records)
        if reader.sequence != until:
            raise WalCorruptError(found.path, reader.offset, "bad record")
        if reader.previous != follower.header.previous:
            raise WalCorruptError(follower.path, 0, "broken chain of segments")

    def _write_in_place(self, found: _Found, start: int, end: int, remains_end: int) -> None:
        """Make bytes [start, end) of a segment durable, with zeros over what follows them."""
        kept = self._files.pread(found.descriptor, end - start, start)
        try:
            self._files.pwrite(found.descriptor, [kept, bytes(remains_end - end)], start)
        except OSError as error:
            raise WalWriteError(f"wal: {found.path}: {error}") from error
        try:
            self._files.fdatasync(found.descriptor)
        except OSError as error:
            leave_marker(self._directory, self._files)
            raise WalSyncError(f"wal: {found.path}: {error}") from error

    def _write_tail_again(self, records: list[Record], durable: int, state: LogState) -> None:
        """Write the doubted records into another segment than those they are in, and sync it."""
        last, doubted = self._found[-1].header, _since(records, durable)
        state.feed(last.number, records[: len(records) - len(doubted)])
        state.settle()
        # A header that is doubted itself may never reach the disk: the new segment takes its name,
        # so that no segment without a header is left before the last one.
        replaces = doubted[0].type == RecordType.SEGMENT
        number = last.number if replaces else last.number + 1
        doubted = self._behind + doubted
        first = doubted[0]
        making = self._next(number)
        path, descriptor = making.take()
        seed, sequence = int.from_bytes(os.urandom(4)), first.sequence
        next_index = state.index.last + 1
        if first.type == RecordType.SEGMENT:
            state.hard_state, state.snapshot = last.hard_state, last.snapshot
            next_index = last.next_index
        header = encode_header(number, last.metadata, next_index, state.hard_state, state.snapshot)
        bodies = [header]
        bodies += [
            Body(r.type, r.flags, r.first, r.entry_count, bytes(r.body))
            for r in doubted
            if r.type != RecordType.SEGMENT
        ]
        parts: list[bytes] = []
        previous = first.previous
        for place, body in enumerate(bodies):
            written, previous = encode_record(
                body, seed=seed, sequence=sequence + place, doubted=place, previous=previous
            )
            parts += written
        name = self._found[-1].path.name if replaces else segment_name(number, next_index)
        self._publish(path, descriptor, name, b"".join(parts))

    def _publish(self, path: Path, descriptor: int, name: str, content: bytes) -> None:
        files = self._files
        try:
            files.pwrite(descriptor, [content], 0)
            files.fdatasync(descriptor)
            files.close(descriptor)
            files.rename(path, self._directory / name)
            files.sync_directory(self._directory)
            files.unlink(self._directory / MARKER_NAME)
        except OSError as error:
            raise WalSyncError(f"wal: writing the tail again: {error}") from error

    def _next(self, number: int) -> NextSegment:
        making = NextSegment(self._directory, self._files, self._segment_bytes, number)
        if self._spare is not None:
            making.adopt(*self._spare)
            self._spare = None
        for path in self._free:
            if not self._recyclable(path) or not making.offer_free(path):
                self._files.unlink(path)
        self._free = []
        return making

    def _recyclable(self, path: Path) -> bool:
        descriptor = self._files.open(path)
        size = self._files.size(descriptor)
        self._files.close(descriptor)
        return size == self._segment_bytes

    def _close(self) -> None:
        for found in self._orphans + self._found:
            self._files.close(found.descriptor)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the cyclic garbage collector from walking a growing heap that has no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _since(records: list[Record], number: int) -> list[Record]:
    """Return those of a segment's records that have this number or a later one."""
    return records[max(0, number - records[0].sequence) :] if records else []


def leave_marker(directory: Path, files: Files) -> None:
    """Note for the next open that a sync failed; best effort, see the module's text."""
    with suppress(OSError):
        files.close(files.create(directory / MARKER_NAME))
