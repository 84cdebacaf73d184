"""One mmapped file of counters for a whole member: readable by anyone, even of the dead.

Every cell has exactly one writer (an actor's own thread, or root), so no lock is needed and no
count is lost. A block per actor holds who it is and what it is doing; a pair of half-cells per
edge holds what was sent (the sender writes) and what was handled (the receiver writes).
Mailbox depth of an edge = sent - handled of the living stream; what streams that have ended never
handed over is *lost*: all that was sent on them - all that was taken from them.

Layout, in 8-byte words: HEADER_WORDS with the names as JSON, then a block of BLOCK_WORDS for each
actor, then EDGE_WORDS for each ordered pair of actors, then for each actor LATENCY_WORDS (see
latency.py) and RECORDER_WORDS (see recorder.py).
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final

HEADER_WORDS: Final = 256
BLOCK_WORDS: Final = 512
EDGE_WORDS: Final = 16
METRIC_WORDS: Final = 448
LATENCY_WORDS: Final = 256
RECORDS: Final = 256
RECORD_BYTES: Final = 64
RECORDER_WORDS: Final = 8 + RECORDS * RECORD_BYTES // 8


class State(IntEnum):
    """Where a child is in its life; root writes it, but RUNNING is written by the child."""

    STOPPED = 0
    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    BACKOFF = 4
    FAILED = 5


class Cell(IntEnum):
    """Words of an actor's block."""

    INCARNATION = 0  # root
    PID = 1  # root
    RESTARTS = 2  # root
    STATE = 3  # root, and the child once: STARTING -> RUNNING
    STARTED_NS = 4  # root, CLOCK_BOOTTIME
    LAST_EXIT = 5  # root: wait status of the incarnation before
    LOOPS = 8  # actor: turns of its own loop
    TAG = 9  # actor: wire tag of the message being handled, 0 when idle
    SINCE_NS = 10  # actor: when TAG was set, CLOCK_MONOTONIC
    HANDLED = 11  # actor: messages handled
    BATCHES = 12  # actor: flushes
    ITEMS = 13  # actor: requests inside the messages handled
    CONNECTIONS = 14  # gateway: open client connections
    OPERATIONS = 15  # applier: kv.operations that this Flush carries out
    METRICS = 64  # actor: METRIC_WORDS words named by its own table


class Edge(IntEnum):
    """Words of an edge. SENT.. are the sender's, HANDLED.. the receiver's."""

    SENT_STREAM = 0
    SENT = 1
    SENT_BYTES = 2
    SENT_ITEMS = 3
    DROPPED = 4
    SENT_ENDED = 5  # what was sent on streams that have ended
    HANDLED_STREAM = 8
    HANDLED = 9
    HANDLED_ITEMS = 10
    HANDLED_ENDED = 11  # what was taken from streams that have ended
    GAPS = 12


class Board:
    """The mapped file. Words are unsigned 64-bit; `words[i] += n` is the whole protocol."""

    def __init__(self, path: Path, *, create: Sequence[str] | None = None) -> None:
        """Map the board at `path`; with `create`, make it anew for actors of these names."""
        if create is not None:
            names = list(create)
            words = BLOCK_WORDS + len(names) * EDGE_WORDS + LATENCY_WORDS + RECORDER_WORDS
            size = 8 * (HEADER_WORDS + len(names) * words)
            header = json.dumps(names).encode()
            assert len(header) < 8 * HEADER_WORDS
            partial = path.with_suffix(".new")
            with partial.open("wb") as file:
                # Not sparse: a store into a page that a full disk has no block for is a SIGBUS.
                os.posix_fallocate(file.fileno(), 0, size)
                file.write(header)
            partial.rename(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map: mmap.mmap | bytearray = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        header = self._map[: 8 * HEADER_WORDS].rstrip(b"\0")
        self.names: tuple[str, ...] = tuple(json.loads(header))
        self.words = memoryview(self._map).cast("Q")
        self._positions = {name: position for position, name in enumerate(self.names)}
        self._edges = HEADER_WORDS + len(self.names) * BLOCK_WORDS
        self._latencies = self._edges + len(self.names) ** 2 * EDGE_WORDS
        self._recorders = self._latencies + len(self.names) * LATENCY_WORDS

    def position(self, name: str) -> int:
        """Return the number of an actor, as used in stream headers."""
        return self._positions[name]

    def block(self, name: str) -> int:
        """Return the index in `words` of the first word of an actor's block."""
        return HEADER_WORDS + self._positions[name] * BLOCK_WORDS

    def edge(self, sender: str, receiver: str) -> int:
        """Return the index in `words` of the first word of an edge."""
        row = self._positions[sender] * len(self.names) + self._positions[receiver]
        return self._edges + row * EDGE_WORDS

    @property
    def buffer(self) -> mmap.mmap | bytearray:
        """The mapping itself, for those who write more than a word at a time."""
        return self._map

    def copy(self) -> Board:
        """Return what the board says now, as a board that no longer changes."""
        made = object.__new__(Board)
        made.__dict__.update(self.__dict__)
        made._map = bytearray(self._map)
        made.words = memoryview(made._map).cast("Q")
        return made

    def latency(self, name: str) -> int:
        """Return the index in `words` of the first word of an actor's latency area."""
        return self._latencies + self._positions[name] * LATENCY_WORDS

    def recorder(self, name: str) -> int:
        """Return the index in `words` of the first word of an actor's flight recorder."""
        return self._recorders + self._positions[name] * RECORDER_WORDS

    def get(self, name: str, cell: int) -> int:
        """Read one word of an actor's block."""
        return self.words[self.block(name) + cell]

    def set(self, name: str, cell: int, value: int) -> None:
        """Write one word of an actor's block."""
        self.words[self.block(name) + cell] = value

    def depth(self, receiver: str) -> int:
        """Messages sent to an actor over living streams and not yet handled."""
        return sum(self.edge_depth(sender, receiver) for sender in self.names)

    def edge_depth(self, sender: str, receiver: str) -> int:
        """Messages sent over the living stream of an edge and not yet handled; 0 without one."""
        words, edge = self.words, self.edge(sender, receiver)
        if words[edge + Edge.SENT_STREAM] != words[edge + Edge.HANDLED_STREAM]:
            return 0
        return max(0, words[edge + Edge.SENT] - words[edge + Edge.HANDLED])

    def lost(self, sender: str, receiver: str) -> int:
        """Messages sent over streams of an edge that are dead, and never handled."""
        words, edge = self.words, self.edge(sender, receiver)
        sent = words[edge + Edge.SENT_ENDED]
        if words[edge + Edge.SENT_STREAM] != words[edge + Edge.HANDLED_STREAM]:
            sent += words[edge + Edge.SENT]  # its receiver has left it, its sender not yet
        return max(0, sent - words[edge + Edge.HANDLED_ENDED])
