"""A pykka inbox over the streams of one actor.

The actor's own thread polls the socket, so a message from another process costs no extra thread
hop, and the actor still handles one message at a time. Frames are drained eagerly into a bounded
queue of our own: libzmq cannot tell how many messages it holds.

Whenever the inbox runs dry, or after BATCH_MAX messages, the actor is handed a Flush: the moment to
commit, fsync and send what the batch has produced. Group commit comes from here, not from a timer.
Timers are messages too: a Tick at least every `tick_seconds`, but never two in one batch: an actor
whose Tick takes longer than that still handles what it is sent.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import zmq
from pykka._envelope import Envelope

from raft.message import message
from transport.counters import Board, Cell
from transport.links import Links, Received

BATCH_MAX: Final = 256
QUEUE_MAX: Final = 4096


@message
class Flush:
    """End of a batch. Never crosses a process boundary."""


@message
class Tick:
    """Time has passed; `now` is CLOCK_MONOTONIC in seconds. Never crosses a process boundary."""

    now: float


class Mailbox:
    """Implements pykka's ActorInbox over the PULL socket of `links` and a local queue."""

    def __init__(self, links: Links, board: Board, name: str, *, tick_seconds: float) -> None:
        self.links = links
        self._words = board.words
        self._block = board.block(name)
        self._tick_seconds = tick_seconds
        self._next_tick = time.monotonic()
        self._local: deque[Envelope[Any]] = deque()
        self._queue: deque[Received] = deque()
        self._wake_in: zmq.Socket[bytes] = links.socket.context.socket(zmq.PAIR)
        self._wake_out: zmq.Socket[bytes] = links.socket.context.socket(zmq.PAIR)
        address = f"inproc://wake-{id(self)}"
        self._wake_in.bind(address)
        self._wake_out.connect(address)
        self._poller = zmq.Poller()
        self._poller.register(links.socket, zmq.POLLIN)
        self._poller.register(self._wake_in, zmq.POLLIN)
        self._watched: dict[int | zmq.Socket[Any], Callable[[], None]] = {}
        self._since_flush = 0
        self._flushed = True
        self._ticked = False

    def put(self, envelope: Envelope[Any], /) -> None:
        """Queue a local message (stop requests, tests); any thread may."""
        self._local.append(envelope)
        self._wake_out.send(b"")

    def get(self) -> Envelope[Any]:
        """Return the next message; blocks only after a Flush."""
        while True:
            if self._local:
                return self._local.popleft()
            now = time.monotonic()
            if now >= self._next_tick and not self._ticked:
                self._ticked = True
                self._next_tick = now + self._tick_seconds
                self.links.tick(now)
                self._flushed = False
                return Envelope(Tick(now))
            if self._queue and self._since_flush < BATCH_MAX:
                return self._take()
            self._drain()
            if self._queue and self._since_flush < BATCH_MAX:
                return self._take()
            if not self._flushed:
                if self._watched:
                    self._call_watchers(dict(self._poller.poll(0)))
                self._since_flush = 0
                self._flushed = True
                self._ticked = False
                self._words[self._block + Cell.BATCHES] += 1
                return Envelope(Flush())
            self._since_flush = 0
            if not self._queue:
                self._wait(now)

    def watch(
        self,
        source: int | zmq.Socket[Any],
        callback: Callable[[], None],
        events: int = zmq.POLLIN,
    ) -> None:
        """Call `callback` on the actor's thread whenever `source` is ready; a Flush follows."""
        self._watched[source] = callback
        self._poller.register(source, events)

    def unwatch(self, source: int | zmq.Socket[Any]) -> None:
        """Forget a source, before it is closed."""
        if self._watched.pop(source, None) is not None:
            self._poller.unregister(source)

    def wake_at(self, when: float) -> None:
        """Hand out the next Tick at `when` (CLOCK_MONOTONIC) if that is sooner than planned."""
        self._next_tick = min(self._next_tick, when)

    def empty(self) -> bool:
        """Tell whether local messages are left to refuse after a stop."""
        return not self._local

    def peek(self) -> list[Received]:
        """Return what is drained and not yet handled; any thread may ask."""
        return list(self._queue)

    def _take(self) -> Envelope[Any]:
        received = self._queue.popleft()
        self.links.handled(received[0])
        self.links.taken = received
        self._since_flush += 1
        self._flushed = False
        self._words[self._block + Cell.ITEMS] += received[2]
        return Envelope(received[1])

    def _drain(self) -> None:
        links = self.links
        receive = links.socket.recv
        room = QUEUE_MAX - len(self._queue)
        for _ in range(room):
            try:
                frame = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            accepted = links.accept(frame)
            if accepted is not None:
                self._queue.append(accepted)
            else:
                self._flushed = False  # a stream may have been opened: what waited for it may go

    def _call_watchers(self, ready: Mapping[Any, int]) -> None:
        for source, callback in list(self._watched.items()):
            if source in ready:
                callback()
                self._flushed = False

    def _wait(self, now: float) -> None:
        self._words[self._block + Cell.TAG] = 0
        until = self._next_tick
        hello = self.links.next_hello()
        if hello is not None:
            until = min(until, hello)
        ready = dict(self._poller.poll(max(0, int((until - now) * 1000) + 1)))
        if self._wake_in in ready:
            self._wake_in.recv()
        self._call_watchers(ready)
        if hello is not None:
            self.links.tick(time.monotonic())
        self._words[self._block + Cell.LOOPS] += 1
