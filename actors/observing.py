"""What is written down of every message an actor handles: how long it waited, how long it took.

One Observer per actor, used by its own thread. Everything goes to the board, where anyone reads it
without asking: histograms of waiting and working, the flight recorder, and what ties messages to
each other so that a request can be followed through the mailboxes (`control.explain`).

What a message costs here: about a microsecond for each end of it, and nothing per request.
"""

from __future__ import annotations

import time
from typing import Any, Final

from actors import messages
from actors.tap import Taps
from actors.wire import WIRE, codec
from transport.counters import Board, Cell
from transport.latency import Latency
from transport.links import Correlations, Links
from transport.recorder import Kind

FLUSH_TAG: Final = 250
TICK_TAG: Final = 251
LOCAL_TAG: Final = 252
"""Any other message that never leaves its process."""
SYNC_TAG: Final = 249
"""No message: a sync of the log, on whichever thread."""
MESSAGE_NAMES: Final = {tag: cls.__name__ for tag, cls in WIRE.items()} | {
    FLUSH_TAG: "Flush",
    TICK_TAG: "Tick",
    LOCAL_TAG: "local message",
    SYNC_TAG: "Sync",
}
"""What an actor is doing, in words, by the tag on the board."""
NOTED_NS: Final = 1_000_000
"""A Tick, or a Flush of no messages, that took this long is worth a record."""
_APPLIED: Final = codec.tags[messages.Applied]
_IN: Final = int(Kind.IN)
_LOCAL: Final = int(Kind.LOCAL)


def _sender(message: messages.PeerReceived) -> int:
    """Return the member whose message came last in one delivery."""
    return message.senders[-1] if message.senders else 0


def _applied(message: messages.Applied) -> int:
    """Return the first of the receiving gateway's own requests, 0 if there is none."""
    return message.batches[0][1] if message.batches else 0


CORRELATIONS: Final[Correlations] = {
    messages.Propose: lambda message: message.first_id,
    messages.ReadIndex: lambda message: message.id,
    messages.ReadStates: lambda message: message.id,
    messages.Apply: lambda message: message.first_index,
    messages.CommittedTo: lambda message: message.index,
    messages.Applied: _applied,
    messages.AppliedTo: lambda message: message.index,
    messages.Durable: lambda message: message.applied_index,
    messages.PeerReceived: _sender,
}
"""By class: the number by which control.explain finds the messages of one request."""


class Observer:
    """Watches one actor at work. `begins` and `ends` stand around every handler."""

    def __init__(self, links: Links, board: Board, name: str) -> None:
        self._links = links
        self._recorder = links.recorder
        self._words = board.words
        first = board.latency(name)
        # Plain numbers: an enum's member costs a tenth of all this each time it is used.
        self._wait = first + int(Latency.WAIT)
        self._work = first + int(Latency.WORK)
        self._flush = first + int(Latency.FLUSH)
        self._wait_ns = first + int(Latency.WAIT_NS)
        self._work_ns = first + int(Latency.WORK_NS)
        self._flush_ns = first + int(Latency.FLUSH_NS)
        self._tick_ns = first + int(Latency.TICK_NS)
        self._operations = board.block(name) + int(Cell.OPERATIONS)
        self._words[self._operations] = 0
        self._positions = {other: board.position(other) for other in board.names}
        self._correlations = links.correlations
        self._position = board.position(name)
        self._pending = False
        self.taps = Taps(links, self._position)

    def switch(self, *, on: bool) -> None:
        """Turn recorder and histograms on or off; counters of the edges are always on."""
        self._recorder.enabled = on

    def begins(self, message: Any, tag: int, began: int) -> int:
        """Note that a handler begins at `began`; return what `ends` wants back."""
        links = self._links
        taken, links.taken = links.taken, None
        if taken is None or not self._recorder.enabled:
            return 0
        self._pending = True
        sender, _, items, sent_ns, sequence, size = taken
        wait = max(0, began - sent_ns)
        words = self._words
        words[self._wait + wait.bit_length()] += 1
        words[self._wait_ns] += wait
        correlate = self._correlations.get(type(message))
        if self.taps.open:
            self.taps.received(sender, message, items, began, sequence, size, wait)
        return self._recorder.note(
            _IN,
            tag,
            self._positions[sender],
            sequence,
            items,
            size,
            correlate(message) if correlate is not None else 0,
            began,
            wait,
        )

    def ends(self, slot: int, tag: int, began: int) -> None:
        """Note that the handler is over; `slot` is what `begins` returned."""
        if not self._recorder.enabled:
            return
        work = time.monotonic_ns() - began
        words = self._words
        if slot:
            words[slot] = work or 1
            words[self._work + work.bit_length()] += 1
            words[self._work_ns] += work
            return
        if tag == FLUSH_TAG:
            words[self._flush_ns] += work
            if self._pending:
                words[self._flush + work.bit_length()] += 1
        else:
            words[self._tick_ns] += work
        if work >= NOTED_NS or (self._pending and tag == FLUSH_TAG):
            self.note(tag, began, work, words[self._operations])
        if tag == FLUSH_TAG:
            self._pending = False
            if words[self._operations]:
                words[self._operations] = 0

    def found(self, correlation: int, items: int) -> None:
        """Record that an answer was looked up, whose message (Applied) may never come."""
        if self._recorder.enabled:
            now, own = time.monotonic_ns(), self._position
            self._recorder.note(_LOCAL, _APPLIED, own, 0, items, 0, correlation, now, work_ns=1)

    def note(self, tag: int, began: int, work: int, operations: int = 0) -> None:
        """Record something this actor did by itself."""
        self._recorder.note(_LOCAL, tag, self._position, 0, 0, 0, 0, began, 0, work, operations)
