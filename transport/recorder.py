"""The flight recorder: the last RECORDS messages of each actor, on the board.

A ring of fixed-size binary records without payload. One writer, the actor's own thread; anyone may
read it while the actor is busy, stuck or dead: it is shared memory, so it survives SIGKILL.

A record of a received message is written when its handling begins, with `work_ns` 0, and gets its
`work_ns` when that ends: what a dead actor was handling is a record that was never finished. Flush
and Tick are recorded when they are over, if they took long or ended a batch with messages.

A reader may meet a record that is being written. Its `number` is written with the rest, so what
does not belong to the last RECORDS numbers is left out; a torn record is possible, and harmless.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from transport.counters import RECORD_BYTES, RECORDS, Board

_RECORD: Final = struct.Struct("<QQQQQQIIHBBHH")
_WORK_WORD: Final = 3
_U32: Final = (1 << 32) - 1
_U16: Final = (1 << 16) - 1
assert _RECORD.size == RECORD_BYTES


class Kind(IntEnum):
    """What happened to a message."""

    IN = 1
    OUT = 2
    LOCAL = 3
    """Flush and Tick."""
    DROPPED = 4
    """The edge was full."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message of an actor. Times in ns of CLOCK_MONOTONIC.

    `peer` is the number of the other actor on the board; `size` the payload's bytes; `correlation`
    what ties it to others (see actors.observing). `wait_ns` is 0 unless it was received.
    `operations` are those of clients (kv.operations) in what was sent, or in a Flush; 0 if nobody
    has told. `incarnation` is its lowest 16 bits.
    """

    number: int
    time_ns: int
    wait_ns: int
    work_ns: int
    sequence: int
    correlation: int
    items: int
    size: int
    tag: int
    peer: int
    kind: int
    incarnation: int
    operations: int = 0


class Recorder:
    """Writes the ring of one actor. Turned off by `enabled`."""

    __slots__ = ("_base", "_count", "_count_word", "_incarnation", "_map", "_words", "enabled")

    def __init__(self, board: Board, name: str, incarnation: int) -> None:
        self._map = board.buffer
        self._words = board.words
        self._count_word = board.recorder(name)
        self._base = 8 * (self._count_word + 1)
        self._count = self._words[self._count_word]
        self._incarnation = incarnation & _U16
        self.enabled = True

    def note(
        self,
        kind: int,
        tag: int,
        peer: int,
        sequence: int,
        items: int,
        size: int,
        correlation: int,
        time_ns: int,
        wait_ns: int = 0,
        work_ns: int = 0,
        operations: int = 0,
    ) -> int:
        """Write one record; return the word that takes its `work_ns` later."""
        count = self._count
        self._count = count + 1
        offset = self._base + (count & (RECORDS - 1)) * RECORD_BYTES
        _RECORD.pack_into(
            self._map,
            offset,
            count + 1,
            time_ns,
            wait_ns,
            work_ns,
            sequence,
            correlation,
            items & _U32,
            size & _U32,
            tag,
            peer,
            kind,
            self._incarnation,
            operations,
        )
        self._words[self._count_word] = count + 1
        return (offset >> 3) + _WORK_WORD


def records(board: Board, name: str) -> list[Record]:
    """Return what an actor's ring holds, oldest first; of all its incarnations."""
    first = board.recorder(name)
    raw = bytes(board.buffer[8 * first : 8 * (first + 1) + RECORDS * RECORD_BYTES])
    count = int.from_bytes(raw[:8], "little")
    found = [Record(*fields) for fields in _RECORD.iter_unpack(raw[8:])]
    kept = [record for record in found if count - RECORDS < record.number <= count + 1]
    return sorted((record for record in kept if record.number), key=lambda record: record.number)


def fields_since(board: Board, name: str, number: int) -> list[tuple[int, ...]]:
    """Return the fields of the records after `number`, oldest first; at most RECORDS."""
    first = board.recorder(name)
    raw = bytes(board.buffer[8 * (first + 1) : 8 * (first + 1) + RECORDS * RECORD_BYTES])
    return sorted(fields for fields in _RECORD.iter_unpack(raw) if fields[0] > number)
