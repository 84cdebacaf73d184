"""A pykka inbox over the streams of one actor.

The actor's own thread polls the socket, so a message from another process costs no extra thread
hop, and the actor still handles one message at a time. Frames are drained eagerly into a bounded
queue of our own: libzmq cannot tell how many messages it holds.

Whenever the inbox runs dry, or after BATCH_MAX messages, the actor is handed a Flush: the moment to
commit, fsync and send what the batch has produced. Group commit comes from here, not from a timer.
Timers are messages too: a Tick at least every `tick_seconds`, but never two in one batch: an actor
whose Tick takes longer than that still handles what it is sent.

Waiting is one epoll over the descriptors of all sockets: zmq_poll asks every socket each time, and
an actor looks several times a batch. A socket's descriptor tells only that something has changed
since the socket was asked last (ZMQ_FD), so a socket is asked until it has nothing more: that of
the mailbox before the actor waits, and not within a batch, where the board tells it for less.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import zmq
from pykka._envelope import Envelope

from raft.message import message
from transport.counters import Board, Cell
from transport.links import Links, Received, has_more

BATCH_MAX: Final = 256
QUEUE_MAX: Final = 4096
LINGER_SECONDS: Final = 0.001


@message
class Flush:
    """End of a batch. Never crosses a process boundary."""


@message
class Tick:
    """Time has passed; `now` is CLOCK_MONOTONIC in seconds. Never crosses a process boundary."""

    now: float


_FLUSH: Final = Envelope(Flush())


class _Watched(NamedTuple):
    """A source that somebody waits for."""

    source: int | zmq.Socket[Any]
    callback: Callable[[], None]
    events: int


class Mailbox:
    """Implements pykka's ActorInbox over the PULL socket of `links` and a local queue.

    Invariant: when it waits, every socket was asked and had nothing since its descriptor told of
    something.
    """

    def __init__(self, links: Links, board: Board, name: str, *, tick_seconds: float) -> None:
        self.links = links
        self._words = board.words
        block = board.block(name)
        self._batches = block + int(Cell.BATCHES)
        self._items = block + int(Cell.ITEMS)
        self._tag = block + int(Cell.TAG)
        self._loops = block + int(Cell.LOOPS)
        self._tick_seconds = tick_seconds
        self._next_tick = time.monotonic()
        self._local: deque[Envelope[Any]] = deque()
        self._queue: deque[Received] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._socket = int(links.socket.getsockopt(zmq.FD))
        self._epoll.register(self._socket, select.EPOLLIN)
        self._watched: dict[int, _Watched] = {}  # by descriptor
        self._dry = False  # the socket was asked and had nothing more
        self._ready: set[int] = set()  # descriptors of watched sockets that may have more
        self._since_flush = 0
        self._flushed = True
        self._ticked = False
        self.lingers = False
        """Whether to wait awake for what should come soon, as it did the last time (`_linger`)."""
        self._came_soon = False

    def put(self, envelope: Envelope[Any], /) -> None:
        """Queue a local message (stop requests, tests); any thread may."""
        self._local.append(envelope)
        os.eventfd_write(self._wake, 1)

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
            if not self._flushed:
                if self._watched:
                    self._look(0.0)
                elif self.links.owed():
                    self._drain()
                if self._queue and self._since_flush < BATCH_MAX:
                    return self._take()
                self._since_flush = 0
                self._flushed = True
                self._ticked = False
                self._words[self._batches] += 1
                return _FLUSH
            self._since_flush = 0
            if not self._dry:
                self._ask()
            elif self._ready:
                self._look(0.0)
            elif not self._queue:
                self._wait(now)

    def watch(
        self,
        source: int | zmq.Socket[Any],
        callback: Callable[[], None],
        events: int = zmq.POLLIN,
    ) -> None:
        """Call `callback` on the actor's thread whenever `source` is ready; a Flush follows."""
        descriptor = source if isinstance(source, int) else int(source.getsockopt(zmq.FD))
        self._watched[descriptor] = _Watched(source, callback, int(events))
        self._epoll.register(descriptor, select.EPOLLIN)
        if not isinstance(source, int):
            self._ready.add(descriptor)

    def unwatch(self, source: int | zmq.Socket[Any]) -> None:
        """Forget a source, before it is closed."""
        for descriptor, watched in self._watched.items():
            if watched.source is source:
                del self._watched[descriptor]
                self._epoll.unregister(descriptor)
                self._ready.discard(descriptor)
                return

    def wake_at(self, when: float) -> None:
        """Hand out the next Tick at `when` (CLOCK_MONOTONIC) if that is sooner than planned."""
        if when < self._next_tick:
            self._next_tick = when

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
        self._words[self._items] += received[2]
        return Envelope(received[1])

    def _look(self, seconds: float) -> None:
        """Take in what has come and call back for what is ready; wait that long for something."""
        ready = self._ready
        came = False
        for descriptor, _ in self._epoll.poll(seconds):
            if descriptor == self._socket:
                came = True
            elif descriptor == self._wake:
                os.eventfd_read(self._wake)
            else:
                ready.add(descriptor)
        if came or (not self._dry and self.links.owed()):
            self._drain()
        for descriptor in tuple(ready) if ready else ():
            self._call_back(descriptor)

    def _ask(self) -> None:
        """Take in what else the socket has, if there is room, until it has nothing."""
        while len(self._queue) < QUEUE_MAX:
            if not has_more(self.links.socket):
                self._dry = True
                return
            self._drain()

    def _drain(self) -> None:
        """Take in a frame that should have come, and what else the board says was sent."""
        links = self.links
        receive, queue = links.socket.recv, self._queue
        self._dry = False
        try:
            for _ in range(QUEUE_MAX - len(queue)):
                accepted = links.accept(receive(zmq.NOBLOCK))
                if accepted is not None:
                    queue.append(accepted)
                else:
                    self._flushed = False  # a stream may be open: what waited for it may go
                if not links.owed():
                    return
        except zmq.Again:
            self._dry = True

    def _call_back(self, descriptor: int) -> None:
        watched = self._watched.get(descriptor)
        if watched is None:  # another callback has just unwatched it
            return
        source = watched.source
        if isinstance(source, int):
            self._ready.discard(descriptor)
        elif not source.getsockopt(zmq.EVENTS) & watched.events:  # type: ignore[operator]
            self._ready.discard(descriptor)
            return
        watched.callback()
        self._flushed = False

    def _wait(self, now: float) -> None:
        self._words[self._tag] = 0
        until = self._next_tick
        hello = self.links.next_hello()
        if hello is not None:
            until = min(until, hello)
        if self.lingers:
            soon = now + LINGER_SECONDS
            self._look(max(0.0, until - now) if not self._came_soon else self._linger(soon, until))
            self._came_soon = bool(self._queue) and time.monotonic() < soon
        else:
            self._look(max(0.0, until - now))
        if hello is not None:
            self.links.tick(time.monotonic())
        self._words[self._loops] += 1

    def _linger(self, soon: float, until: float) -> float:
        """Look in a loop until `soon`; return for how long to sleep then, 0.0 if something came.

        A processor that sleeps takes 25 us to wake, and whoever answers a lone client is woken a
        dozen times. All others on this processor go first.
        """
        poll, end = self._epoll.poll, min(soon, until)
        while not poll(0.0):
            os.sched_yield()
            now = time.monotonic()
            if now >= end:
                return max(0.0, until - now)
        return 0.0
