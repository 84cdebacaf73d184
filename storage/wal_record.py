"""The format of the log on disk, and how records are read back.

A segment is a row of records, each starting at a multiple of 8 bytes, little endian:

    crc       u32       CRC-32 of all that follows, without the padding
    magic     4 bytes   "TRWL"
    seed      u32       random, the same for all records of a segment: tells them from those that
                        the file held before it was recycled
    previous  u32       the CRC of the record before, over segments as well
    length    u32       of the body, without padding
    type      u16       RecordType
    flags     u16       STATE: the body holds a hard state
    sequence  u64       number of the record in the whole log, from 0, without gaps
    first     u64       index of the first entry; of a snapshot, of the entry that follows it
    count     u32       of entries
    doubted   u32       records before this one that were not known durable when it was written
    body      msgpack, padded with zeros

A reader that only needs to know what is where looks at no body: a record costs it about 1.2 us.

Rules for reading:
1. The first bad record ends the log, and it is a torn tail, unless rule 2 or 3 says otherwise.
2. A good record further on, in the next segment too, that does not count the bad one among its
   `doubted` proves that the bad one was durable: the log is corrupt. If there is none, what follows
   the torn tail in the next segment is void.
3. A record that is good in itself but does not continue the chain of CRCs proves the same.
4. A segment's records end where the next segment's header begins by number: what follows them was
   written again into that next segment, after a sync had failed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack

from raft.state import ConfState, Entry, HardState, SnapshotMetadata
from storage.files import Files
from storage.wal_errors import WalCorruptError

MAGIC: Final = b"TRWL"
HEADER: Final = struct.Struct("<I4sIIIHHQQII")
HEADER_BYTES: Final = HEADER.size
STATE: Final = 1
_CRC: Final = struct.Struct("<I")
_REST: Final = struct.Struct("<4sIIIHHQQII")
_COVERED: Final = _CRC.size  # the CRC covers the record from here on
ALIGN: Final = 8
CHUNK_BYTES: Final = 1 << 20
_ZEROS: Final = bytes(CHUNK_BYTES)
PADDING: Final = tuple(bytes(-length % ALIGN) for length in range(ALIGN))


class RecordType(IntEnum):
    """What a body holds. Append only."""

    SEGMENT = 1
    BATCH = 2
    SNAPSHOT = 3


class Record(NamedTuple):
    """One good record as read. Its body is chunk[start:end], of the chunk it was read with."""

    type: int
    flags: int
    sequence: int
    previous: int
    first: int
    entry_count: int
    offset: int
    chunk: memoryview
    start: int
    end: int

    @property
    def body(self) -> memoryview:
        """A view of the body: made when it is asked for, as most are not."""
        return self.chunk[self.start : self.end]


class Body(NamedTuple):
    """What is written as one record, less its place in the log."""

    type: int
    flags: int
    first: int
    entry_count: int
    content: bytes


class SegmentHeader(NamedTuple):
    """The first record of a segment: all that replay must know of the segments before."""

    number: int
    metadata: bytes
    next_index: int
    hard_state: HardState
    snapshot: SnapshotMetadata
    sequence: int
    previous: int
    seed: int


class Batch(NamedTuple):
    """Entries with consecutive indexes, by columns; a term or type that all share stands alone."""

    first: int
    terms: int | list[int]
    types: int | list[int]
    datas: list[bytes]

    def entries(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """Return the entries at these places of the batch (not indexes)."""
        terms, types, first = self.terms, self.types, self.first + start
        datas = self.datas[start:stop]
        if isinstance(terms, int) and isinstance(types, int):
            return [Entry(terms, i, data, types) for i, data in enumerate(datas, first)]
        return [
            Entry(self.term(i - self.first), i, data, self._type(i - self.first))
            for i, data in enumerate(datas, first)
        ]

    def term(self, place: int) -> int:
        """Return the term of the entry at a place of the batch."""
        return self.terms if isinstance(self.terms, int) else self.terms[place]

    def _type(self, place: int) -> int:
        return self.types if isinstance(self.types, int) else self.types[place]


_packer = msgpack.Packer(autoreset=True)


def encode_batch(entries: Sequence[Entry], hard_state: HardState | None) -> Body:
    """Encode entries with consecutive indexes and a hard state."""
    flags, state = 0, None
    if hard_state is not None:
        flags, state = STATE, (hard_state.term, hard_state.vote, hard_state.commit)
    terms: Any = 0
    types: Any = 0
    first = 0
    datas = [entry.data for entry in entries]
    if len(entries) == 1:
        first, terms, types = entries[0].index, entries[0].term, int(entries[0].type)
    elif entries:
        first = entries[0].index
        terms = [entry.term for entry in entries]
        types = [int(entry.type) for entry in entries]
        if terms[0] == terms[-1]:  # terms never fall along a log
            terms = terms[0]
        if types.count(types[0]) == len(types):
            types = types[0]
    content = bytes(_packer.pack((state, terms, types, datas)))
    return Body(RecordType.BATCH, flags, first, len(datas), content)


def decode_batch(first: int, body: memoryview) -> Batch:
    """Decode the entries of what encode_batch made."""
    _, terms, types, datas = msgpack.unpackb(body)
    return Batch(first, terms, types, datas)


def decode_hard_state(body: memoryview) -> HardState:
    """Decode the hard state of what encode_batch made; the record's flags say that there is one."""
    state, _, _, _ = msgpack.unpackb(body)
    return HardState(*state)


def encode_snapshot(snapshot: SnapshotMetadata, next_index: int, *, restarts: bool) -> Body:
    """Encode snapshot metadata, and whether the entries so far are void."""
    content = bytes(_packer.pack((_snapshot_columns(snapshot), restarts)))
    return Body(RecordType.SNAPSHOT, 0, next_index, 0, content)


def decode_snapshot(body: memoryview) -> tuple[SnapshotMetadata, bool]:
    """Decode what encode_snapshot made."""
    columns, restarts = msgpack.unpackb(body, use_list=False)
    return _snapshot(columns), restarts


def encode_header(
    number: int,
    metadata: bytes,
    next_index: int,
    hard_state: HardState,
    snapshot: SnapshotMetadata,
) -> Body:
    """Encode a segment's first record."""
    state = (hard_state.term, hard_state.vote, hard_state.commit)
    columns = (number, metadata, next_index, state, _snapshot_columns(snapshot))
    return Body(RecordType.SEGMENT, 0, 0, 0, bytes(_packer.pack(columns)))


def _snapshot_columns(snapshot: SnapshotMetadata) -> tuple[object, ...]:
    conf = snapshot.conf_state
    return (
        snapshot.index,
        snapshot.term,
        (
            tuple(conf.voters),
            tuple(conf.learners),
            tuple(conf.voters_outgoing),
            tuple(conf.learners_next),
            conf.auto_leave,
        ),
    )


def _snapshot(columns: tuple[int, int, tuple[Any, ...]]) -> SnapshotMetadata:
    index, term, conf_state = columns
    return SnapshotMetadata(index, term, ConfState(*conf_state))


def encode_record(
    body: Body, *, seed: int, sequence: int, doubted: int, previous: int
) -> tuple[tuple[bytes, ...], int]:
    """Return the parts of a record, to be written one after the other, and its CRC."""
    record_type, flags, first, count, content = body
    length = len(content)
    rest = _REST.pack(
        MAGIC, seed, previous, length, record_type, flags, sequence, first, count, doubted
    )
    crc = zlib.crc32(content, zlib.crc32(rest))
    return (_CRC.pack(crc), rest, content, PADDING[length % ALIGN]), crc


def record_bytes(body_length: int) -> int:
    """Return the length of a record on disk."""
    return (HEADER_BYTES + body_length + ALIGN - 1) // ALIGN * ALIGN


def read_header(files: Files, descriptor: int) -> SegmentHeader | None:
    """Return a segment's header; None if the file has no good one.

    A recycled file that was not written yet has the header of a lower number.
    """
    chunk = files.pread(descriptor, HEADER_BYTES, 0)
    if len(chunk) < HEADER_BYTES:
        return None
    crc, magic, seed, previous, length, record_type, _, sequence, _, _, _ = HEADER.unpack(chunk)
    if magic != MAGIC or record_type != RecordType.SEGMENT or length > files.size(descriptor):
        return None
    body = files.pread(descriptor, length, HEADER_BYTES)
    if zlib.crc32(body, zlib.crc32(chunk[_COVERED:])) != crc:
        return None
    number, metadata, next_index, state, snapshot = msgpack.unpackb(body, use_list=False)
    return SegmentHeader(
        number,
        metadata,
        next_index,
        HardState(*state),
        _snapshot(snapshot),
        sequence,
        previous,
        seed,
    )


def read_body(files: Files, descriptor: int, path: Path, offset: int) -> memoryview:
    """Return the body of the record at an offset that the index knows, checking its CRC."""
    chunk = files.pread(descriptor, 16 << 10, offset)
    crc, _, _, _, length, *_ = HEADER.unpack_from(chunk)
    if HEADER_BYTES + length > len(chunk):
        chunk = files.pread(descriptor, HEADER_BYTES + length, offset)
    view = memoryview(chunk)[: HEADER_BYTES + length]
    if len(view) < HEADER_BYTES + length or zlib.crc32(view[_COVERED:]) != crc:
        raise WalCorruptError(path, offset, "crc mismatch")
    return view[HEADER_BYTES:]


class SegmentReader:
    """Reads one segment from its header on, in chunks.

    Invariants: [0, offset) holds good records, the next of which would have number `sequence` and
    name `previous` as the CRC before it; `durable` is the number of the first that none of them
    proves durable.
    """

    def __init__(self, files: Files, descriptor: int, path: Path, header: SegmentHeader) -> None:
        self.offset = 0
        self.sequence = header.sequence
        self.previous = header.previous
        self.durable = 0
        self._files = files
        self._descriptor = descriptor
        self._path = path
        self._seed = header.seed

    def begin_at(self, offset: int) -> int:
        """Begin with the record at an offset; its own word is taken for what came before it.

        Returns the index that comes next there. If no record of this segment stands there it is
        anything, and there are no records.
        """
        self.offset = offset
        head = self._files.pread(self._descriptor, HEADER_BYTES, offset)
        if len(head) < HEADER_BYTES:
            return 0
        _, _, _, self.previous, _, _, _, self.sequence, first, _, _ = HEADER.unpack(head)
        return int(first)

    def records(self, until: int | None = None) -> list[Record]:
        """Return the good records from here on, up to record number `until` exclusively.

        Raises WalCorruptError by rule 3; rules 1, 2 and 4 are the caller's.
        """
        found: list[Record] = []
        note, new = found.append, tuple.__new__
        unpack, crc32, header_bytes = HEADER.unpack_from, zlib.crc32, HEADER_BYTES
        size, own_seed = self._files.size(self._descriptor), self._seed
        chunk, base, offset = memoryview(b""), 0, self.offset
        number, before, durable = self.sequence, self.previous, self.durable
        while number != until:
            place = offset - base
            start = place + header_bytes
            if start > len(chunk):
                chunk, base = self._chunk(CHUNK_BYTES, offset), offset
                place, start = 0, header_bytes
                if len(chunk) < header_bytes:
                    break
            crc, magic, seed, previous, length, kind, flags, sequence, first, count, doubted = (
                unpack(chunk, place)
            )
            if magic != MAGIC or seed != own_seed or sequence != number:
                break
            end = start + length
            if end > len(chunk):
                if offset + header_bytes + length > size:
                    break
                chunk, base = self._chunk(end - place, offset), offset
                place, start = 0, header_bytes
                end = header_bytes + length
            if crc32(chunk[place + _COVERED : end]) != crc:
                break
            if previous != before:
                raise WalCorruptError(self._path, offset, "broken chain of records")
            note(
                new(
                    Record,
                    (kind, flags, number, previous, first, count, offset, chunk, start, end),
                )
            )
            if number - doubted > durable:
                durable = number - doubted
            offset = base + (end + ALIGN - 1) // ALIGN * ALIGN
            number += 1
            before = crc
        self.offset, self.sequence = offset, number
        self.previous, self.durable = before, durable
        return found

    def _chunk(self, length: int, offset: int) -> memoryview:
        length = max(length, CHUNK_BYTES)
        return memoryview(self._files.pread(self._descriptor, length, offset))


class Remains(NamedTuple):
    """What stands behind the last good record of a segment."""

    end: int  # everything that looks like a record of this segment ends here
    proof: int | None  # offset of a record that proves the log was durable further (rule 2)


def read_remains(
    files: Files, descriptor: int, offset: int, *, sequence: int, seed: int | None
) -> Remains:
    """Search a segment from `offset` on, where record number `sequence` should be and is not.

    With `seed` None (the segment's header is bad) records of any seed count. Most of a segment is
    zeros: a chunk of them is passed over at the speed of a comparison, 60 us a MiB.
    """
    key = MAGIC if seed is None else MAGIC + struct.pack("<I", seed)
    size = files.size(descriptor)
    end, proof, base = offset, None, offset + _COVERED
    while base < size:
        chunk = files.pread(descriptor, CHUNK_BYTES, base)
        if chunk == _ZEROS[: len(chunk)]:
            base += CHUNK_BYTES
            continue
        chunk += files.pread(descriptor, len(key), base + len(chunk))
        place = chunk.find(key)
        while 0 <= place < CHUNK_BYTES:
            at = base + place - _COVERED
            found, good = _judge(files, descriptor, size, at)
            if found is not None:
                end = max(end, min(size, at + record_bytes(found.length)))
                if good and found.sequence - found.doubted > sequence and proof is None:
                    proof = at
            place = chunk.find(key, place + 1)
        base += CHUNK_BYTES
    return Remains(end, proof)


class _Looks(NamedTuple):
    length: int
    sequence: int
    doubted: int


def _judge(files: Files, descriptor: int, size: int, at: int) -> tuple[_Looks | None, bool]:
    """Return what stands at an offset, taken for a record, and whether it is a good one."""
    head = files.pread(descriptor, HEADER_BYTES, at)
    if len(head) < HEADER_BYTES:
        return None, False
    crc, _, _, _, length, _, _, sequence, _, _, doubted = HEADER.unpack(head)
    looks = _Looks(length, sequence, doubted)
    if length > size - at - HEADER_BYTES:
        return looks, False
    body = files.pread(descriptor, length, at + HEADER_BYTES)
    return looks, zlib.crc32(body, zlib.crc32(head[_COVERED:])) == crc
