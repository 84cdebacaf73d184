"""One of the connections a member dials to a peer: a PUSH socket, its monitor and its outbox.

PUSH, because a link is one-way: each side dials the other, so a cut in one direction is a cut in
one direction, and a sender never has to read. The socket is IMMEDIATE: libzmq holds messages for a
living connection only, and few of them; what waits, waits in the outbox, where it has a bound in
bytes and in time. A connection that ends takes what libzmq held with it; raft is told.

The monitor tells when a connection is up (its handshake is done), when it ended and when a try
failed. Every try goes to one target; after a few failures the next one is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import zmq
from zmq.utils.monitor import parse_monitor_message

from transport.peer_auth import Keys
from transport.peer_outbox import Outbox
from transport.peer_wire import encode_frame

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
TRIES_PER_TARGET: Final = 2
_HANDSHAKE_FAILED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_EVENTS: Final = (
    zmq.EVENT_CONNECT_RETRIED  # a wait before the next try begins, after a connection ended too
    | zmq.EVENT_CLOSED  # a try failed
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | _HANDSHAKE_FAILED
)


@dataclass(frozen=True, slots=True)
class Timing:
    """What all times of links derive from: --heartbeat-interval and --election-timeout."""

    heartbeat_seconds: float = 0.1
    election_seconds: float = 1.0

    @property
    def unit_ms(self) -> int:
        """A heartbeat, in milliseconds; short ones are not tightened further."""
        return max(100, int(self.heartbeat_seconds * 1000))

    @property
    def silence_seconds(self) -> float:
        """A connection of heartbeats over which nothing came for so long is given up."""
        return 3 * self.unit_ms / 1000


@dataclass(frozen=True, slots=True)
class Channel:
    """How one kind of connection is set. `patience` stretches the times of its liveness checks.

    Bulk stands before a check in the same stream, so a busy connection gets more time.
    """

    name: str
    messages_max: int
    outbox_bytes: int
    frame_bytes: int
    patience: int


CHANNELS: Final = (
    Channel("control", 64, 4 << 20, 64 << 10, 1),
    Channel("append", 16, 64 << 20, 1 << 20, 5),
    Channel("snapshot", 4, 16 << 20, 1 << 20, 20),
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to dial, and with CURVE the key of who must be there."""

    host: str
    port: int
    endpoint: str
    server_key: bytes = b""


class Poll(Protocol):
    """Who waits for sockets on behalf of links: the actor's mailbox. A Flush follows callbacks."""

    def watch(
        self, source: zmq.Socket[Any], callback: Callable[[], None], events: int = zmq.POLLIN
    ) -> None:
        """Call back when the socket is ready."""

    def unwatch(self, source: zmq.Socket[Any]) -> None:
        """Stop that; before the socket is closed."""

    def wake_at(self, when: float) -> None:
        """Tick at `when` (CLOCK_MONOTONIC), if nothing ticks before."""


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def connection_up(self, connection: Connection) -> None:
        """It can carry messages now, or again after it was full."""

    def connection_down(self, connection: Connection) -> None:
        """It ended after it had been up."""

    def connection_failed(self, connection: Connection) -> None:
        """Nobody took the connection."""


class Connection:
    """See the module docstring. One thread uses it: the actor's."""

    def __init__(
        self,
        context: Context,
        poll: Poll,
        owner: Owner,
        *,
        channel: Channel,
        timing: Timing,
        keys: Keys | None,
        route: tuple[int, int, int, int],
    ) -> None:
        """`route` is (cluster id, from, to, session), see peer_wire."""
        self.channel = channel
        self.outbox = Outbox(channel.outbox_bytes, timing.election_seconds)
        self.up = False
        self.target: Target | None = None
        self.tries = 0
        self.sent_bytes = 0
        self._context = context
        self._poll = poll
        self._owner = owner
        self._timing = timing
        self._keys = keys
        self._route = route
        self._counter = 0
        self._full = False
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None

    def dial(self, target: Target) -> None:
        """Give up the connection there is, if any, and dial a target until it answers."""
        self.close()
        self.target = target
        self._socket = socket = self._context.socket(zmq.PUSH)
        self._set_options(socket, target)
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._poll.watch(self._monitor, self._on_events)
        socket.connect(target.endpoint)

    def _set_options(self, socket: zmq.Socket[bytes], target: Target) -> None:
        unit, patience = self._timing.unit_ms, self.channel.patience
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, self.channel.messages_max),
            (zmq.IPV6, int("[" in target.endpoint)),
            (zmq.HEARTBEAT_IVL, unit),
            (zmq.HEARTBEAT_TIMEOUT, 3 * unit * patience),
            (zmq.CONNECT_TIMEOUT, 3 * unit),  # as long as an answer to a check may take
            (zmq.RECONNECT_IVL, unit // 20),  # soon: a refusal tells that the peer has gone
            (zmq.RECONNECT_IVL_MAX, unit // 2),
            (zmq.TCP_MAXRT, 5 * unit * patience),
            (zmq.HANDSHAKE_IVL, 10 * unit),
            (zmq.MAXMSGSIZE, 1024),  # nobody sends anything in this direction
        ):
            socket.setsockopt(option, value)
        if self._keys is not None:
            self._keys.secure_dialler(socket, target.server_key)

    def put(self, at: float, lane: int, payload: bytes) -> list[int]:
        """Queue a payload; return the lanes of what was dropped."""
        return self.outbox.put(at, lane, payload)

    def flush(self, now: float) -> None:
        """Send what waits and may leave, as far as there is room; never waits."""
        if not self.up or self._full or not self.outbox:
            return
        assert self._socket is not None
        while True:
            lane, payloads = self.outbox.head(now, self.channel.frame_bytes)
            if not payloads:
                return
            frame = encode_frame(lane, self._route, self._counter + 1, payloads)
            try:
                self._socket.send(frame, zmq.NOBLOCK)
            except zmq.Again:
                self._full = True
                self._poll.watch(self._socket, self._on_room, zmq.POLLOUT)
                return
            self._counter += 1
            self.sent_bytes += len(frame)
            self.outbox.remove(payloads)

    def hang_up(self) -> None:
        """Close and dial nobody."""
        was_up = self.up
        self.close()
        self.target = None
        if was_up:
            self._owner.connection_down(self)

    def close(self) -> None:
        """Close without waiting; the outbox stays."""
        self.up = False
        if self._socket is None or self._monitor is None:
            return
        self._room_again()
        self._poll.unwatch(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self._socket = self._monitor = None

    def _on_room(self) -> None:
        self._room_again()
        self._owner.connection_up(self)

    def _room_again(self) -> None:
        if self._full and self._socket is not None:
            self._full = False
            self._poll.unwatch(self._socket)

    def _on_events(self) -> None:
        while self._monitor is not None and (event := next_event(self._monitor)):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.up = True
                self.tries = 0
                self._owner.connection_up(self)
            elif event == zmq.EVENT_DISCONNECTED:
                was_up, self.up = self.up, False
                self._room_again()
                if was_up:
                    self._owner.connection_down(self)
            elif event == zmq.EVENT_CLOSED:
                self._owner.connection_failed(self)
            else:
                self.tries += 1


def next_event(monitor: zmq.Socket[bytes]) -> int:
    """Return the next event of a socket's monitor, 0 when there is none."""
    try:
        parts = monitor.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return 0
    return parse_monitor_message(parts)["event"]


def next_target(targets: Sequence[Target], connection: Connection) -> Target | None:
    """Return what to dial: the next target after a few failures, else the one there is."""
    if not targets:
        return None
    current = connection.target
    if current not in targets:
        return targets[0]
    if connection.tries < TRIES_PER_TARGET or len(targets) == 1:
        return current
    return targets[(targets.index(current) + 1) % len(targets)]
