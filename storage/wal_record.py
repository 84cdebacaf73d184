"""The format of the log on disk, and how records are read back.

A segment is a row of records, each starting at a multiple of 8 bytes, little endian:

    magic     4 bytes   "TRWL"
    seed      u32       random, the same for all records of a segment: tells them from those that
                        the file held before it was recycled
    length    u32       of the body, without padding
    type      u32       RecordType
    sequence  u64       number of the record in the whole log, from 0, without gaps
    synced    u64       all records below this number were durable before this one was written
    previous  u32       the CRC of the record before, over segments as well
    crc       u32       CRC-32 of the 36 bytes above and the body
    body      msgpack, padded with zeros

Rules for reading:
1. The first bad record ends the log, and it is a torn tail, unless rule 2 or 3 says otherwise.
2. A good record further on whose `synced` is above the number of the bad one proves that the bad
   one was durable: the log is corrupt.
3. A record that is good in itself but does not continue the chain of CRCs proves the same.
4. A segment's records end where the next segment's header begins by number: what follows them was
   written again into that next segment, after a sync had failed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack

from raft.state import ConfState, Entry, HardState, SnapshotMetadata
from storage.files import Files
from storage.wal_errors import WalCorruptError

MAGIC: Final = b"TRWL"
PREFIX: Final = struct.Struct("<4sIIIQQI")
CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = PREFIX.size + CRC.size
ALIGN: Final = 8
CHUNK_BYTES: Final = 1 << 20
PADDING: Final = tuple(bytes(-length % ALIGN) for length in range(ALIGN))


class RecordType(IntEnum):
    """What a body holds. Append only."""

    SEGMENT = 1
    BATCH = 2
    SNAPSHOT = 3


class Record(NamedTuple):
    """One good record as read. `body` is a view into the chunk it was read with."""

    type: int
    sequence: int
    synced: int
    previous: int
    offset: int
    body: memoryview


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
    hard_state: HardState | None

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


def encode_batch(entries: Sequence[Entry], hard_state: HardState | None) -> bytes:
    """Encode entries with consecutive indexes and a hard state into a body."""
    state = None if hard_state is None else (hard_state.term, hard_state.vote, hard_state.commit)
    if len(entries) == 1:
        entry = entries[0]
        columns = (entry.index, entry.term, int(entry.type), (entry.data,), state)
        return bytes(_packer.pack(columns))
    first = entries[0].index if entries else 0
    terms: Any = [entry.term for entry in entries]
    types: Any = [int(entry.type) for entry in entries]
    if terms.count(terms[0] if terms else 0) == len(terms):
        terms = terms[0] if terms else 0
    if types.count(types[0] if types else 0) == len(types):
        types = types[0] if types else 0
    return bytes(_packer.pack((first, terms, types, [entry.data for entry in entries], state)))


def decode_batch(body: memoryview) -> Batch:
    """Decode what encode_batch made."""
    first, terms, types, datas, state = msgpack.unpackb(body)
    return Batch(first, terms, types, datas, None if state is None else HardState(*state))


def encode_snapshot(snapshot: SnapshotMetadata, *, restarts: bool) -> bytes:
    """Encode snapshot metadata, and whether the entries so far are void, into a body."""
    return bytes(_packer.pack((_snapshot_columns(snapshot), restarts)))


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
) -> bytes:
    """Encode the body of a segment's first record."""
    state = (hard_state.term, hard_state.vote, hard_state.commit)
    columns = (number, metadata, next_index, state, _snapshot_columns(snapshot))
    return bytes(_packer.pack(columns))


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
    record_type: int, body: bytes, *, seed: int, sequence: int, synced: int, previous: int
) -> tuple[tuple[bytes, ...], int]:
    """Return the parts of a record, to be written one after the other, and its CRC."""
    prefix = PREFIX.pack(MAGIC, seed, len(body), record_type, sequence, synced, previous)
    crc = zlib.crc32(body, zlib.crc32(prefix))
    return (prefix + CRC.pack(crc), body, PADDING[len(body) % ALIGN]), crc


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
    magic, seed, length, record_type, sequence, _, previous = PREFIX.unpack_from(chunk)
    if magic != MAGIC or record_type != RecordType.SEGMENT or length > files.size(descriptor):
        return None
    body = files.pread(descriptor, length, HEADER_BYTES)
    if zlib.crc32(body, zlib.crc32(chunk[: PREFIX.size])) != CRC.unpack_from(chunk, PREFIX.size)[0]:
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
    length = PREFIX.unpack_from(chunk)[2]
    if HEADER_BYTES + length > len(chunk):
        chunk = files.pread(descriptor, HEADER_BYTES + length, offset)
    view = memoryview(chunk)
    body = view[HEADER_BYTES : HEADER_BYTES + length]
    crc = zlib.crc32(body, zlib.crc32(view[: PREFIX.size]))
    if len(body) < length or crc != CRC.unpack_from(chunk, PREFIX.size)[0]:
        raise WalCorruptError(path, offset, "crc mismatch")
    return body


class SegmentReader:
    """Reads one segment from its header on, in chunks.

    Invariants: [0, offset) holds good records, the next of which would have number `sequence` and
    name `previous` as the CRC before it.
    """

    def __init__(self, files: Files, descriptor: int, path: Path, header: SegmentHeader) -> None:
        self.offset = 0
        self.sequence = header.sequence
        self.previous = header.previous
        self._files = files
        self._descriptor = descriptor
        self._path = path
        self._seed = header.seed

    def records(self, until: int | None = None) -> Iterator[Record]:
        """Yield the good records, up to record number `until` exclusively.

        Raises WalCorruptError by rule 3; rules 1, 2 and 4 are the caller's.
        """
        chunk, base = memoryview(b""), 0
        size = self._files.size(self._descriptor)
        while self.sequence != until:
            place = self.offset - base
            if place + HEADER_BYTES > len(chunk):
                chunk, base, place = self._chunk(CHUNK_BYTES), self.offset, 0
                if len(chunk) < HEADER_BYTES:
                    return
            fields = PREFIX.unpack_from(chunk, place)
            magic, seed, length, record_type, sequence, synced, previous = fields
            end = place + HEADER_BYTES + length
            if magic != MAGIC or seed != self._seed or sequence != self.sequence:
                return
            if end > len(chunk):
                if self.offset + HEADER_BYTES + length > size:
                    return
                chunk, base, place = self._chunk(HEADER_BYTES + length), self.offset, 0
                end = HEADER_BYTES + length
            body = chunk[place + HEADER_BYTES : end]
            crc = zlib.crc32(body, zlib.crc32(chunk[place : place + PREFIX.size]))
            if crc != CRC.unpack_from(chunk, place + PREFIX.size)[0]:
                return
            if previous != self.previous:
                raise WalCorruptError(self._path, self.offset, "broken chain of records")
            record = Record(record_type, sequence, synced, previous, self.offset, body)
            self.offset += record_bytes(length)
            self.sequence += 1
            self.previous = crc
            yield record

    def _chunk(self, length: int) -> memoryview:
        length = max(length, CHUNK_BYTES)
        return memoryview(self._files.pread(self._descriptor, length, self.offset))


class Remains(NamedTuple):
    """What stands behind the last good record of a segment."""

    end: int  # everything that looks like a record of this segment ends here
    proof: int | None  # offset of a record that proves the log was durable further (rule 2)


def read_remains(
    files: Files, descriptor: int, offset: int, *, sequence: int, seed: int | None
) -> Remains:
    """Search a segment from `offset` on, where record number `sequence` should be and is not.

    With `seed` None (the segment's header is bad) records of any seed count.
    """
    key = MAGIC if seed is None else MAGIC + struct.pack("<I", seed)
    size = files.size(descriptor)
    end, proof, base = offset, None, offset
    while base < size:
        chunk = files.pread(descriptor, CHUNK_BYTES + len(key), base)
        place = chunk.find(key)
        while 0 <= place < CHUNK_BYTES:
            at = base + place
            head = files.pread(descriptor, HEADER_BYTES, at)
            if len(head) == HEADER_BYTES:
                _, _, length, _, number, synced, _ = PREFIX.unpack_from(head)
                end = max(end, min(size, at + record_bytes(length)))
                body = (
                    b""
                    if length > size - at
                    else files.pread(descriptor, length, at + HEADER_BYTES)
                )
                crc = zlib.crc32(body, zlib.crc32(head[: PREFIX.size]))
                good = crc == CRC.unpack_from(head, PREFIX.size)[0]
                if good and number > sequence and synced > sequence and proof is None:
                    proof = at
            place = chunk.find(key, place + 1)
        base += CHUNK_BYTES
    return Remains(end, proof)
