"""The write-ahead log: what raft has promised, in segment files.

    wal, replay = Wal.open(directory, files)
    wal.append(entries, hard_state)     one record, one write
    wal.sync()                          one fdatasync: now it may be acknowledged

The format is in wal_record.py, the files in wal_segment.py, what an open does in wal_replay.py;
DESIGN.md says why.

Threads: append(), save_snapshot() and release() belong to one thread at a time. sync() may run in
another while append() goes on; it makes durable what was appended before it began. entries(),
term() and prepare_slice() may be called from any thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns

from raft.errors import CompactedError, UnavailableError
from raft.state import Entry, HardState, SnapshotMetadata
from storage.files import Files
from storage.wal_errors import WalDiskError, WalSpaceError, WalSyncError
from storage.wal_index import to_word
from storage.wal_record import (
    Batch,
    Body,
    decode_batch,
    encode_batch,
    encode_header,
    encode_record,
    encode_snapshot,
    read_body,
    record_bytes,
)
from storage.wal_replay import Opening, Replay, Tail, leave_marker
from storage.wal_segment import (
    SEGMENT_NAME,
    NextSegment,
    Segment,
    disk_error,
    segment_name,
)
from storage.wal_state import LogState

SEGMENT_BYTES = 4 << 20  # etcd's are 64 MiB; DESIGN.md says why


class Wal:
    """The log of one member.

    Invariants:
    - Records below `_synced` are durable; `_synced` <= `_sequence`, the number of the next record.
    - A segment is begun only when the header of the one before is durable, and with it all that
      came before that: at most the last two segments hold records that are not. A sync makes the
      older of the two durable first.
    - After an error of the disk nothing is written any more; every call raises that error again.
    """

    def __init__(
        self,
        files: Files,
        segment_bytes: int,
        metadata: bytes,
        segments: list[Segment],
        state: LogState,
        tail: Tail,
        following: NextSegment,
    ) -> None:
        """Private: use create() or open()."""
        self._files = files
        self._segment_bytes = segment_bytes
        self._metadata = metadata
        self._segments = segments
        self._state = state
        self._offset, self._sequence = tail.offset, tail.sequence
        self._previous, self._seed = tail.previous, tail.seed
        self._synced = tail.sequence
        self._begun = tail.begun
        self._finished: tuple[int, int] | None = None
        """The segment before, if it is not known durable: its descriptor, and its end by number."""
        self._snapshot_sequence = 0  # behind the record of the newest snapshot
        self._covered_before = state.snapshot.index  # by the snapshot before, which is durable
        self._half_rolled = False
        """Whether a roll has left a header in the next segment, and no room to name it: until that
        is done nothing is written, for an open() would go on there."""
        self._named = False
        """Whether the name of the last segment is known durable: none before it goes until then."""
        self._start = 0  # where the segment's first record after its header stands, if known
        self._next = following
        self._directory = segments[-1].path.parent
        self._descriptor = segments[-1].descriptor
        self._lock = threading.Lock()  # the index, the list of segments, what a sync has to do
        self._sync_lock = threading.Lock()  # an error is told to one of two concurrent syncs only
        self._error: WalDiskError | None = None
        self.resume_at = 0
        """Where an open() need only begin to read: the batch of the first entry that the snapshot
        saved last did not cover, or that snapshot's record; 0 if none was saved."""
        self.bytes_written = 0
        self.write_ns = 0
        """What the last record's write(2) took."""
        self.outgrows = False
        """Whether a segment may grow to twice its size while the next one is not ready: another
        thread prepares it, and a roll would have to wait for that."""

    @classmethod
    def exists(cls, directory: Path, files: Files) -> bool:
        """Whether there is a log in the folder."""
        try:
            return any(map(SEGMENT_NAME.fullmatch, files.list(directory)))
        except FileNotFoundError:
            return False

    @classmethod
    def create(
        cls, directory: Path, metadata: bytes, files: Files, *, segment_bytes: int = SEGMENT_BYTES
    ) -> Wal:
        """Make a new log: in <directory>.tmp first, so that there is all of it or nothing.

        `metadata` is kept as it is and given back by open(). Raises FileExistsError if there is a
        log, WalSpaceError, WalDiskError.
        """
        if cls.exists(directory, files):
            raise FileExistsError(f"wal: {directory} holds a log already")
        partial = directory.with_name(directory.name + ".tmp")
        try:
            with suppress(FileNotFoundError):
                for name in files.list(partial):
                    files.unlink(partial / name)
                files.remove_directory(partial)
            files.make_directory(partial)
            path, descriptor = NextSegment(partial, files, segment_bytes, 0).take()
            body = encode_header(0, metadata, 1, HardState(), SnapshotMetadata())
            seed = _new_seed()
            parts, _ = encode_record(body, seed=seed, sequence=0, doubted=0, previous=0)
            files.pwrite(descriptor, parts, 0)
            files.fdatasync(descriptor)
            files.close(descriptor)
            files.rename(path, partial / segment_name(0, 1))
            files.sync_directory(partial)
            files.rename(partial, directory)
            files.sync_directory(directory.parent)
        except OSError as error:
            raise disk_error(error, f"making {directory}") from error
        wal, _ = cls.open(directory, files, segment_bytes=segment_bytes)
        return wal

    @classmethod
    def open(
        cls,
        directory: Path,
        files: Files,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        from_index: int = 0,
        resume_at: int = 0,
    ) -> tuple[Wal, Replay]:
        """Open a log and read it. All that the Replay holds is durable when this returns.

        Entries above both the newest snapshot's index and `from_index` are returned in memory;
        those before stay readable by entries() from first_index on. `resume_at` is what a Wal of
        this log said last, or anything: it saves the time to read what stands before that place.
        Raises WalMissingError, WalCorruptError, WalDiskError, WalSpaceError.
        """
        opening = Opening(directory, files, segment_bytes)
        segments, state, tail, following, replay = opening.run(from_index, resume_at)
        return cls(files, segment_bytes, replay.metadata, segments, state, tail, following), replay

    @property
    def first_index(self) -> int:
        """The lowest index entries() can read; last_index + 1 if there is none."""
        return self._state.index.first

    @property
    def last_index(self) -> int:
        """The index of the last entry, or of the snapshot that replaced the log."""
        return self._state.index.last

    @property
    def hard_state(self) -> HardState:
        """The hard state appended last."""
        return self._state.hard_state

    @property
    def snapshot(self) -> SnapshotMetadata:
        """The snapshot saved last."""
        return self._state.snapshot

    @property
    def segments(self) -> list[str]:
        """The names of the segments, oldest first."""
        return [segment.path.name for segment in self._segments]

    def append(self, entries: Sequence[Entry], hard_state: HardState | None) -> None:
        """Write entries (consecutive; they void what they overlap) and a hard state: one record.

        Not durable before sync(). Raises WalDiskError; WalSpaceError if more than what was
        prepared is needed and there is no room, in which case nothing was changed.
        """
        state = self._state
        if entries:
            first, count = entries[0].index, len(entries)
            assert entries[-1].index == first + count - 1, "entries are not consecutive"
            assert state.snapshot.index < first <= state.index.last + 1, (
                f"entry {first} does not follow {state.index.last}, or is below the snapshot"
            )
        else:
            assert hard_state is not None, "nothing to append"
        offset = self._write(encode_batch(entries, hard_state))
        if hard_state is not None:
            state.hard_state = hard_state
        if entries:
            with self._lock:
                state.index.note(self._segments[-1].number, offset, first, count)

    def sync(self) -> None:
        """Make durable all that was appended before this call; one fdatasync, two after a roll.

        Raises WalSyncError; then the log refuses further use, and so do all later calls.
        """
        with self._sync_lock:
            if self._error is not None:
                raise self._error
            with self._lock:
                sequence, descriptor, finished = self._sequence, self._descriptor, self._finished
            if finished is not None:
                self._sync_file(*finished)
                self._finished = None
            if self._synced < sequence:
                self._sync_file(descriptor, sequence)

    def _sync_file(self, descriptor: int, sequence: int) -> None:
        """Make records below `sequence`, the last of which are in this file, durable."""
        try:
            self._files.fdatasync(descriptor)
        except OSError as error:
            leave_marker(self._directory, self._files)
            self._error = WalSyncError(f"wal: fdatasync: {error}")
            raise self._error from error
        self._synced = sequence

    def save_snapshot(self, metadata: SnapshotMetadata, *, now: bool = True) -> None:
        """Record that a durable snapshot covers the log up to metadata.index, and sync.

        Unless `now`, the record is left to the next sync; release() keeps what it needs until then.
        If the log does not hold the entry at that index and term, it goes on after the snapshot
        and its entries are void: a snapshot of the leader was installed.
        """
        state = self._state
        assert metadata.index >= state.snapshot.index, "a snapshot older than the last one"
        restarts = metadata.index > state.index.last or (
            metadata.index >= state.index.first and self.term(metadata.index) != metadata.term
        )
        covered = self._covered()
        next_index = (metadata.index if restarts else state.index.last) + 1
        offset = self._write(encode_snapshot(metadata, next_index, restarts=restarts))
        self._covered_before, self._snapshot_sequence = covered, self._sequence
        with self._lock:
            state.snapshot = metadata
            if restarts:
                state.index.restart(metadata.index)
            own = to_word(self._segments[-1].number, offset)
            self.resume_at = min(own, state.index.word(metadata.index + 1) or own)
        if now or restarts:
            self.sync()

    def _covered(self) -> int:
        """Return the index of the newest snapshot whose record is durable."""
        if self._synced >= self._snapshot_sequence:
            return self._state.snapshot.index
        return self._covered_before

    def entries(self, low: int, high: int, max_size: int | None = None) -> list[Entry]:
        """Read entries [low, high) from the files, cut to `max_size` bytes of data but not to none.

        Raises raft's CompactedError below first_index and UnavailableError above last_index.
        """
        with self._lock:
            index = self._state.index
            if low < index.first:
                raise CompactedError
            if high > index.last + 1:
                raise UnavailableError
            result: list[Entry] = []
            size = 0
            while low < high:
                batch, stop = self._batch(low)
                found = batch.entries(low - batch.first, min(stop, high) - batch.first)
                for entry in found:
                    size += len(entry.data)
                    if max_size is not None and size > max_size and result:
                        return result
                    result.append(entry)
                low += len(found)
            return result

    def term(self, index: int) -> int:
        """Read the term of the entry at an index. Raises as entries() does."""
        with self._lock:
            if index < self._state.index.first:
                raise CompactedError
            if index > self._state.index.last:
                raise UnavailableError
            batch, _ = self._batch(index)
            return batch.term(index - batch.first)

    def prepare(self) -> None:
        """Make the next segment ready; from a thread that may block."""
        while not self.prepare_slice(1 << 20):
            pass

    def prepare_slice(self, count: int) -> bool:
        """Write up to `count` bytes of the next segment, one fdatasync; True when it is ready.

        Raises WalSpaceError or WalDiskError; the log goes on and will try again when it rolls.
        """
        return self._next.fill(count)

    @property
    def prepared(self) -> bool:
        """Whether the next segment is ready."""
        return self._next.ready

    def release(self, index: int, keep: int) -> list[str]:
        """Remove segments that neither the snapshot nor `index` needs, down to `keep` segments.

        A segment goes only if all its entries are at or below both `index` and the newest durable
        snapshot; `keep` 0 removes nothing, as etcd's --max-wals. One of them waits to be recycled.
        Returns the names removed. Raises WalDiskError.
        """
        if self._error is not None:
            raise self._error
        index = min(index, self._covered())
        removed: list[str] = []
        while 0 < keep < len(self._segments) and self._segments[1].next_index <= index + 1:
            if len(self._segments) == 2 and self._finished is not None:
                break  # it is still to be synced
            try:
                if not self._named:
                    self._files.sync_directory(self._directory)
                    self._named = True
                with self._lock:
                    oldest = self._segments.pop(0)
                    self._state.index.forget(self._segments[0].number)
                removed.append(oldest.path.name)
                self._remove(oldest)
            except OSError as error:
                raise disk_error(error, "removing a segment") from error
        return removed

    def close(self) -> None:
        """Sync and close. After an error of the disk only close."""
        try:
            if self._error is None:
                self.sync()
        finally:
            self._next.close()
            for segment in self._segments:
                self._files.close(segment.descriptor)

    def _batch(self, index: int) -> tuple[Batch, int]:
        place = self._state.index.find(index)
        segment = self._segments[place.segment - self._segments[0].number]
        body = read_body(self._files, segment.descriptor, segment.path, place.offset)
        batch = decode_batch(place.first, body)
        assert len(batch.datas) >= place.stop - place.first, f"{segment.path}: not that batch"
        return batch, place.stop

    def _write(self, body: Body) -> int:
        """Write one record and return its offset, in a new segment if it does not fit."""
        if self._error is not None:
            raise self._error
        length = record_bytes(len(body.content))
        beyond = self._offset + length - self._segment_bytes
        waits = self.outgrows and not (self._next.ready and self._begun < self._synced)
        outgrown = beyond > (self._segment_bytes if waits else 0) and self._offset > self._start
        if outgrown or self._half_rolled:
            self._roll()
        parts, crc = encode_record(
            body,
            seed=self._seed,
            sequence=self._sequence,
            doubted=self._sequence - self._synced,
            previous=self._previous,
        )
        offset = self._offset
        started = monotonic_ns()
        try:
            written = self._files.pwrite(self._descriptor, parts, offset)
        except OSError as error:
            raise self._refused(error, "write") from error
        self.write_ns = monotonic_ns() - started
        self._offset = offset + written
        self._previous = crc
        self._sequence += 1
        self.bytes_written += written
        return offset

    def _roll(self) -> None:
        """Go on in the next segment; makes it here, with one sync, if it is not ready.

        What is not durable of the segment before is left to the next sync.
        """
        if self._synced <= self._begun:
            self.sync()
        path, descriptor = self._next.take()
        state, number = self._state, self._segments[-1].number + 1
        next_index = state.index.last + 1
        seed = _new_seed()
        parts, crc = encode_record(
            encode_header(number, self._metadata, next_index, state.hard_state, state.snapshot),
            seed=seed,
            sequence=self._sequence,
            doubted=self._sequence - self._synced,
            previous=self._previous,
        )
        final = self._directory / segment_name(number, next_index)
        try:
            written = self._files.pwrite(descriptor, parts, 0)
            # Not synced: a lost rename leaves a .next file with a good header, which open() adopts
            # behind the segment before.
            self._named = False
            self._files.rename(path, final)
        except OSError as error:
            refused = self._refused(error, "rolling")
            if isinstance(refused, WalSpaceError):
                self._next.give_back(path, descriptor)
                self._half_rolled = True
            raise refused from error
        self._half_rolled = False
        with self._lock:
            if self._synced < self._sequence:
                self._finished = self._descriptor, self._sequence
            self._begun = self._sequence
            self._segments.append(Segment(number, final, descriptor, next_index))
            self._descriptor, self._seed, self._previous = descriptor, seed, crc
            self._offset = self._start = written
            self._sequence += 1

    def _remove(self, segment: Segment) -> None:
        free = self._directory / f"{segment.number:016x}.free"
        size = self._files.size(segment.descriptor)
        self._files.close(segment.descriptor)
        self._files.rename(segment.path, free)
        if size != self._segment_bytes or not self._next.offer_free(free):
            self._files.unlink(free)

    def _refused(self, error: OSError, doing: str) -> WalDiskError | WalSpaceError:
        """Return what to raise for a failed write. For want of space the same may be tried again.

        A part of the record that was written is a torn tail until then.
        """
        found = disk_error(error, doing)
        if isinstance(found, WalDiskError):
            self._error = found
        return found


def _new_seed() -> int:
    return int.from_bytes(os.urandom(4))
