"""A gRPC load client: many HTTP/2 connections, many streams, no coroutine and no future a request.

A connection turns what it reads into finished calls and asks its load what to send next; all of
that happens in one `data_received`, so the answers of a read are followed by one write.
The engine is ngh2, as in the server's own API, but the client end of it: 3 us a call.

A request counts from the moment it was *due*. In a closed loop that is when the answer before
it came; in an open loop it is the time on the schedule, whatever the server was doing then, so a
stall of one second shows in every request that was due in that second.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections.abc import Iterator
from typing import Final, cast

from ngh2 import Configuration, Connection, Role
from ngh2.enums import Setting
from ngh2.events import (
    DataReceived,
    GoAwayReceived,
    ResponseReceived,
    StreamClosed,
    TrailersReceived,
)

from benchmarks.payloads import Headers, Request

_OK: Final = (b"grpc-status", b"0")
_STREAM_WINDOW: Final = 1 << 20
_CONNECTION_WINDOW: Final = 16 << 20
_TICK_SECONDS: Final = 0.001
_STREAMS_UNTIL_SETTINGS: Final = 4096


class Record:
    """What has been answered. `due` and `latencies` are parallel, in seconds."""

    __slots__ = ("due", "errors", "latencies", "response_bytes")

    def __init__(self) -> None:
        self.due: array[float] = array("d")
        self.latencies: array[float] = array("d")
        self.errors: dict[str, int] = {}
        self.response_bytes = 0

    def fail(self, why: str) -> None:
        """Count one request that was not answered with OK."""
        self.errors[why] = self.errors.get(why, 0) + 1


class Load:
    """The loop that feeds the connections; `ClosedLoop` and `OpenLoop` say when.

    The record in use is replaced at the edge between warm-up and window. Issues at most `count`
    requests when given.
    """

    def __init__(self, requests: Iterator[Request], count: int | None = None) -> None:
        self.requests = requests
        self.record = Record()
        self.connections: list[LoadConnection] = []
        self.stopped = False
        self.drained = asyncio.Event()
        self._left = count

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet answered."""
        return sum(len(connection.open) for connection in self.connections)

    def begin(self) -> None:
        """Send the first requests; every connection has been made."""
        raise NotImplementedError

    def answered(self, connection: LoadConnection, free: int, now: float) -> None:
        """Give the connection its next requests: `free` were answered by this read."""
        raise NotImplementedError

    def stop(self) -> None:
        """Send nothing more; `drained` is set when all has been answered."""
        self.stopped = True
        self._look_if_drained()

    def take(self, wanted: int) -> int:
        """Return how many of the wanted requests may still be sent, and count them as sent."""
        if self._left is None:
            return 0 if self.stopped else wanted
        granted = 0 if self.stopped else min(wanted, self._left)
        self._left -= granted
        if not self._left:
            self.stopped = True
        return granted

    def lost(self, connection: LoadConnection) -> None:
        """Take a connection out; its open calls are errors."""
        for _ in connection.open:
            self.record.fail("connection lost")
        connection.open.clear()
        self.connections.remove(connection)
        if not self.connections:
            self.stopped = True
        self._look_if_drained()

    def _look_if_drained(self) -> None:
        if self.stopped and not self.in_flight:
            self.drained.set()


class ClosedLoop(Load):
    """A fixed number of requests in flight on every connection: an answer frees a place."""

    def __init__(
        self, requests: Iterator[Request], in_flight: int, count: int | None = None
    ) -> None:
        super().__init__(requests, count)
        self._places = in_flight

    def begin(self) -> None:
        """Fill the places, spread evenly over the connections."""
        share, rest = divmod(self._places, len(self.connections))
        now = time.monotonic()
        for number, connection in enumerate(self.connections):
            for _ in range(self.take(share + (number < rest))):
                connection.send(now)
            connection.flush()

    def answered(self, connection: LoadConnection, free: int, now: float) -> None:
        """Fill the places that this read freed."""
        send = connection.send
        for _ in range(self.take(free)):
            send(now)
        if self.stopped:
            self._look_if_drained()


class OpenLoop(Load):
    """`rate` requests a second on a schedule, at most `in_flight` at once.

    A request whose time has come while all places are taken waits here, and its latency runs; those
    that were due before `stop` are still sent after it.
    """

    def __init__(
        self, requests: Iterator[Request], in_flight: int, rate: float, count: int | None = None
    ) -> None:
        super().__init__(requests, count)
        self._places = in_flight
        self._interval = 1 / rate
        self._next_due = 0.0
        self._end = math.inf
        self._turn = 0

    def begin(self) -> None:
        """Start the schedule."""
        self._next_due = time.monotonic()
        self._tick()

    def answered(self, connection: LoadConnection, free: int, now: float) -> None:
        """Send what is overdue through the connection that has places again."""
        while self._next_due <= now and free and self._send(connection):
            free -= 1
        if self.stopped:
            self._look_if_drained()

    def stop(self) -> None:
        """End the schedule now."""
        self._end = time.monotonic()
        if self._next_due >= self._end or not self.connections:
            super().stop()

    def _send(self, connection: LoadConnection) -> bool:
        if self._next_due >= self._end:
            super().stop()
        if not self.take(1):
            return False
        connection.send(self._next_due)
        self._next_due += self._interval
        return True

    def _tick(self) -> None:
        if self.stopped:
            self._look_if_drained()
            return
        now = time.monotonic()
        touched = set()
        places = self._places - self.in_flight
        while self._next_due <= now and places > 0:
            connection = self.connections[self._turn % len(self.connections)]
            if not self._send(connection):
                break
            self._turn += 1
            places -= 1
            touched.add(connection)
        if self._next_due >= self._end:
            super().stop()
        for connection in touched:
            connection.flush()
        asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)


class LoadConnection(asyncio.Protocol):
    """One HTTP/2 connection. `open` maps the stream of each call to the time it was due."""

    def __init__(self, load: Load) -> None:
        self.open: dict[int, float] = {}
        self._load = load
        engine = Connection(
            Role.CLIENT, Configuration(peer_max_concurrent_streams=_STREAMS_UNTIL_SETTINGS)
        )
        engine.initiate_connection(
            {Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW, Setting.ENABLE_PUSH: 0}
        )
        engine.set_local_window_size(_CONNECTION_WINDOW)
        self._engine = engine
        self._receive = engine.receive_data
        self._events = engine.events
        self._unsent = engine.data_to_send
        self._send_request = engine.send_request
        self._send_data = engine.send_data
        self._requests = load.requests
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the load, unless it has closed us."""
        if self in self._load.connections:
            self._load.lost(self)

    def close(self) -> None:
        """Close the connection; nothing is expected of it any more."""
        if self._transport is not None:
            self._transport.close()

    def send(self, due: float) -> None:
        """Queue the next request of the load; `flush` sends it."""
        head, body = next(self._requests)
        stream_id = self._send_request(head)
        self._send_data(stream_id, body, end_stream=True)
        self.open[stream_id] = due

    def flush(self) -> None:
        """Write what the engine has to say."""
        data = self._unsent()
        if data and self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Finish the calls that these bytes answer, start the next ones, write once."""
        self._receive(data)
        now = time.monotonic()
        record = self._load.record
        open_calls = self.open
        free = 0
        for event in self._events():
            kind = type(event)
            if kind is DataReceived:
                record.response_bytes += len(event.data)  # type: ignore[attr-defined]
            elif kind is TrailersReceived or kind is ResponseReceived:
                fields: Headers = event.headers  # type: ignore[attr-defined]
                if _OK in fields:
                    due = open_calls.pop(event.stream_id)  # type: ignore[attr-defined]
                    record.due.append(due)
                    record.latencies.append(now - due)
                    free += 1
                elif event.end_stream if isinstance(event, ResponseReceived) else True:
                    del open_calls[event.stream_id]  # type: ignore[attr-defined]
                    record.fail(_status_text(fields))
                    free += 1
            elif isinstance(event, StreamClosed):
                if open_calls.pop(event.stream_id, None) is not None:
                    record.fail(f"stream ended with HTTP/2 error {event.error_code}")
                    free += 1
            elif isinstance(event, GoAwayReceived):
                record.fail(f"GOAWAY {event.error_code} {event.debug_data!r}")
        if free:
            self._load.answered(self, free, now)
        self.flush()


def _status_text(fields: Headers) -> str:
    """Return `code text` of the status in these headers or trailers."""
    found = dict(fields)
    code = found.get(b"grpc-status", b"none").decode()
    return f"{code} {found.get(b'grpc-message', b'').decode()}".strip()
