"""The edge: sockets and the event loop under the sans-I/O connections.

Owns the listening sockets, every client connection and one timer for all of them. Works with any
asyncio loop.

Rules:
1. A connection with something to send is in `_dirty` once; a flush, at most one a turn of the
   loop (or forced), writes each of them once. Nothing else writes.
2. While a transport's buffer is full nothing is taken from its connection and nothing is read
   from its peer: what a peer does not read waits in the engine, within its bounds.
3. One buffer receives for all connections: what arrives is consumed before the callback returns.
4. Timers are one heap of (when, connection); an entry may be early, never late.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Final, Protocol, cast

from api.grpc import GrpcConnection, Intercept, Method
from api.http1 import Http1Connection, HttpRoutes
from api.http2 import NEVER, PREFACE, Limits

__all__ = ["ClientProtocol", "ClientServer"]

RECEIVE_BYTES: Final = 256 * 1024
SEND_BYTES: Final = 256 * 1024  # taken from a connection at a time
WRITE_HIGH_WATER: Final = 1024 * 1024
ACCEPTS_PER_TURN: Final = 64
ACCEPT_PAUSE: Final = 0.1  # after an accept that failed for want of descriptors
LEAVE_PAUSE: Final = 0.005  # after a client was left to others who may accept
CLOSE_TIMEOUT: Final = 10.0  # without any of a connection's last bytes leaving
WAIT_STEP: Final = 0.01
TIMER_HORIZON: Final = 30.0  # so that a timer keeps what has ended no longer


class Connection(Protocol):
    """What GrpcConnection and Http1Connection have in common."""

    dirty: bool

    @property
    def closed(self) -> bool:
        """Whether the connection ends once everything has been sent."""

    @property
    def busy(self) -> int:
        """How many calls or requests are open."""

    @property
    def wake_at(self) -> float:
        """When `wake` wants to be called."""

    def receive(self, data: memoryview) -> None:
        """Take bytes from the peer."""

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Take bytes to send to the peer."""

    def wake(self, now: float) -> None:
        """Do what is due."""

    def drain(self) -> None:
        """Take nothing new; `closed` once what is open is over."""

    def lost(self) -> None:
        """End everything: the peer has gone."""


class ClientProtocol(asyncio.BufferedProtocol):
    """One client: sniffs HTTP/2 from HTTP/1.1 (ALPN decides under TLS), then hands bytes on."""

    __slots__ = (
        "_first",
        "_left",
        "_paused_reading",
        "_paused_writing",
        "_server",
        "connection",
        "dirty",
        "timer_at",
        "transport",
        "wake_at",
    )

    def __init__(self, server: ClientServer) -> None:
        self._server = server
        self.transport: asyncio.Transport | None = None
        self.connection: Connection | None = None
        self._first = b""  # bytes of what may become the preface
        self._left = 0  # bytes of a closing connection that had not left when last looked at
        self._paused_writing = False
        self._paused_reading = False
        self.dirty = False
        self.wake_at = NEVER  # when to give up while there is no connection, or it is closing
        self.timer_at = NEVER  # the earliest entry of ours in the server's heap

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new client, unless there are too many."""
        self.transport = cast(asyncio.Transport, transport)
        server = self._server
        if not server.admit(self):
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.wake_at = server.clock() + server.limits.handshake_timeout
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._start(is_http2=tls.selected_alpn_protocol() == "h2")
        server.schedule(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is open."""
        del exc
        self.transport = None
        connection, self.connection = self.connection, None  # the collector may be off: no cycles
        if connection is not None:
            connection.lost()
        self._server.forget(self)

    def eof_received(self) -> bool:
        """Answer a client that has half-closed."""
        connection = self.connection
        return isinstance(connection, Http1Connection) and connection.ended()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the server's buffer (rule 3)."""
        del sizehint
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Consume what has arrived."""
        server = self._server
        server.bytes_received += nbytes
        data = server.buffer[:nbytes]
        connection = self.connection
        if connection is None:
            data = memoryview(self._sniff(bytes(data)))
            connection = self.connection
            if connection is None:
                return
        connection.receive(data)
        self._after_receive(connection)

    def _after_receive(self, connection: Connection) -> None:
        if connection.wake_at < self.timer_at:
            self._server.schedule(self)
        if isinstance(connection, Http1Connection):
            self._regulate()

    def _sniff(self, data: bytes) -> bytes:
        """Decide by the first bytes; return all of them once decided."""
        first = self._first + data
        if first.startswith(PREFACE):
            self._start(is_http2=True)
        elif not PREFACE.startswith(first):
            self._start(is_http2=False)
        else:
            self._first = first
            return b""
        self._first = b""
        return first

    def _start(self, *, is_http2: bool) -> None:
        server = self._server
        assert self.transport is not None
        peer = _peer_name(self.transport.get_extra_info("peername"))
        self.wake_at = NEVER
        if is_http2:
            self.connection = GrpcConnection(
                server.router,
                server.limits,
                server.clock,
                peer=peer,
                on_dirty=self.mark,
                intercept=server.intercept,
            )
        else:
            self.connection = Http1Connection(
                server.http_routes,
                server.limits,
                server.clock,
                peer=peer,
                on_dirty=self.mark,
                date=server.date,
            )
        if server.draining:
            self.connection.drain()
        self.mark()

    def mark(self) -> None:
        """Have the next flush write what this connection has to send."""
        if not self.dirty:
            self.dirty = True
            self._server.mark(self)

    def flush(self) -> None:
        """Write what there is to send, once; close when the connection has ended."""
        self.dirty = False
        connection = self.connection
        transport = self.transport
        if connection is None or transport is None:
            return
        while not self._paused_writing:
            data = connection.data_to_send(SEND_BYTES)
            if not data:
                break
            self._server.bytes_sent += len(data)
            transport.write(data)
            if len(data) < SEND_BYTES and not connection.closed:
                break
        if connection.closed:
            if self.wake_at == NEVER:
                self._left = transport.get_write_buffer_size()
                self.wake_at = self._server.clock() + CLOSE_TIMEOUT
                self._server.schedule(self)
            if not self._paused_writing and not transport.is_closing():
                transport.close()
        elif connection.wake_at < self.timer_at:
            self._server.schedule(self)
        if isinstance(connection, Http1Connection):
            self._regulate()

    def pause_writing(self) -> None:
        """Stop taking from the connection, and reading from a peer that does not read."""
        self._paused_writing = True
        self._regulate()

    def resume_writing(self) -> None:
        """Go on where pause_writing stopped."""
        self._paused_writing = False
        self._regulate()
        self.mark()

    def _regulate(self) -> None:
        connection = self.connection
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        full = isinstance(connection, Http1Connection) and not connection.reading
        pause = self._paused_writing or full
        if pause and not self._paused_reading:
            transport.pause_reading()
        elif self._paused_reading and not pause:
            transport.resume_reading()
        self._paused_reading = pause

    def due_at(self) -> float:
        """When `wake` has something to do."""
        connection = self.connection
        if connection is None:
            return self.wake_at
        return min(self.wake_at, connection.wake_at)

    def wake(self, now: float) -> None:
        """Give up on what takes too long, or let the connection do it."""
        if self.transport is None:
            return
        if now >= self.wake_at:
            left = self.transport.get_write_buffer_size()
            if 0 < left < self._left:
                self._left = left
                self.wake_at = now + CLOSE_TIMEOUT
            else:
                self.wake_at = NEVER
                self.transport.abort()
        elif self.connection is not None:
            self.connection.wake(now)
            self.mark()

    def drain(self) -> None:
        """Take nothing new; a peer that has said nothing yet is let go."""
        if self.connection is not None:
            self.connection.drain()
            self.mark()
        elif self.transport is not None:
            self.transport.abort()

    def abort(self) -> None:
        """Close at once; nothing more is sent."""
        if self.transport is not None:
            self.transport.abort()


class ClientServer:
    """All client connections of one gateway.

    Counters are plain and readable at any time: `connections` open now, `accepted`, `rejected` and
    `accept_failures` in all, `bytes_received`, `bytes_sent`, and those of each Method.
    `clock` must be the monotonic clock that deadlines are read against. `on_rejected(peer, why)`
    hears of clients that fail the TLS handshake. `may_accept(connections)` is asked before each
    accept; on False the client is left to others, and it is asked again LEAVE_PAUSE later.
    `intercept` decides over every call of connections made after it was set.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        router: Mapping[bytes, Method],
        http_routes: HttpRoutes,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self.router = router
        self.http_routes = http_routes
        self.limits = limits
        self.clock = clock
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.accepted = 0
        self.rejected = 0
        self.accept_failures = 0
        self.on_rejected: Callable[[str, str], None] | None = None
        self.may_accept: Callable[[int], bool] | None = None
        self.intercept: Intercept | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.draining = False
        self._protocols: set[ClientProtocol] = set()
        self._sockets: dict[socket.socket, ssl.SSLContext | None] = {}
        self._paused = False
        self._accepting: set[asyncio.Task[object]] = set()
        self._dirty: list[ClientProtocol] = []
        self._flush_scheduled = False
        self._timers: list[tuple[float, int, ClientProtocol]] = []
        self._timer_number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = NEVER
        self._date = (0, "")

    @property
    def connections(self) -> int:
        """How many clients are connected, or being connected."""
        return len(self._protocols) + len(self._accepting)

    @property
    def busy(self) -> int:
        """How many calls and requests are open."""
        return sum(p.connection.busy for p in self._protocols if p.connection is not None)

    # Accepting.

    def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept clients from a listening socket, which this server closes in the end."""
        sock.setblocking(False)
        self._sockets[sock] = tls
        if not self._paused:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def pause_accept(self) -> None:
        """Leave new clients to others that accept from the same sockets."""
        if not self._paused:
            self._paused = True
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def resume_accept(self) -> None:
        """Accept again."""
        if self._paused and not self.draining:
            self._paused = False
            for sock in self._sockets:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self.may_accept is not None and not self.may_accept(self.connections):
                self.pause_accept()
                self._loop.call_later(LEAVE_PAUSE, self.resume_accept)  # it may be ours after all
                return
            try:
                client, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptors or memory: the queue stays full, so a turn at once would spin.
                self.accept_failures += 1
                if not self._paused:
                    self.pause_accept()
                    self._loop.call_later(ACCEPT_PAUSE, self.resume_accept)
                return
            self.accepted += 1
            client.setblocking(False)
            if client.family in (socket.AF_INET, socket.AF_INET6):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task: asyncio.Task[object] = self._loop.create_task(
                self._connect(client, self._sockets[sock])
            )
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _connect(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        timeout = self.limits.handshake_timeout if tls is not None else None
        peer = "@"
        try:
            peer = _peer_name(client.getpeername())  # raises if the client has gone already
            await self._loop.connect_accepted_socket(
                lambda: ClientProtocol(self), client, ssl=tls, ssl_handshake_timeout=timeout
            )
        except OSError as error:  # TLS and its time-out are OSErrors too
            client.close()
            self.rejected += 1
            if self.on_rejected is not None:
                self.on_rejected(peer, str(error))

    def admit(self, protocol: ClientProtocol) -> bool:
        """Take a connection into the server; False when there are too many."""
        if len(self._protocols) >= self.limits.connections_max:
            self.rejected += 1
            return False
        self._protocols.add(protocol)
        return True

    def forget(self, protocol: ClientProtocol) -> None:
        """Let go of a connection that has ended."""
        self._protocols.discard(protocol)

    def end_leaderless(self) -> None:
        """End the streams whose clients require a leader."""
        for protocol in list(self._protocols):
            if isinstance(protocol.connection, GrpcConnection):
                protocol.connection.end_leaderless()

    # Sending.

    def mark(self, protocol: ClientProtocol) -> None:
        """Have a protocol flushed in this turn of the loop."""
        self._dirty.append(protocol)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what every connection has to send, now."""
        dirty, self._dirty = self._dirty, []
        for protocol in dirty:
            protocol.flush()

    # Timers.

    def schedule(self, protocol: ClientProtocol) -> None:
        """Have a protocol woken when it is due, or before."""
        due = min(protocol.due_at(), self.clock() + TIMER_HORIZON)
        if due >= protocol.timer_at:
            return
        protocol.timer_at = due
        self._timer_number += 1
        heapq.heappush(self._timers, (due, self._timer_number, protocol))
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._timers[0][0] if self._timers else NEVER
        if due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = due
            self._timer = self._loop.call_later(max(0.0, due - self.clock()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._timer_due = NEVER
        now = self.clock()
        timers = self._timers
        while timers and timers[0][0] <= now:
            due, _, protocol = heapq.heappop(timers)
            if due != protocol.timer_at:
                continue  # an earlier entry was made since
            protocol.timer_at = NEVER
            if protocol.due_at() <= now:
                protocol.wake(now)
            if protocol.transport is not None and protocol.due_at() < NEVER:
                self.schedule(protocol)
        self._set_timer()

    # The end.

    async def shutdown(self, grace: float) -> None:
        """Stop accepting, let open calls end for `grace` seconds at most, then close everything."""
        self.draining = True
        self.pause_accept()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        for protocol in list(self._protocols):
            protocol.drain()
        self.flush()
        deadline = self.clock() + grace
        while (self._protocols or self._accepting) and self.clock() < deadline:
            await asyncio.sleep(WAIT_STEP)
        for task in list(self._accepting):
            task.cancel()
        for protocol in list(self._protocols):
            protocol.abort()
        while self._protocols or self._accepting:
            await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()

    def date(self) -> str:
        """Return the time as HTTP writes it, made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]


def _peer_name(peer: object) -> str:
    """Write an address as Go does: host:port, [v6]:port, or a path; `@` for a nameless socket."""
    if isinstance(peer, tuple):
        host, port = peer[0], peer[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return peer if isinstance(peer, str) and peer else "@"
