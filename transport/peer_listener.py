"""The one socket on which a member hears all its peers, and who is turned away at it.

PULL takes a frame from each connection in turn. What is rejected is counted by reason and logged at
most once a second. Root may keep the listening socket: it then outlives the process, and peers that
dial meanwhile wait in its queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from transport.links import has_more
from transport.log import Logger
from transport.peer_address import adopt, bind
from transport.peer_auth import Gate, Keys, PeerKeyError
from transport.peer_connection import Context, Poll, Timing, next_event
from transport.peer_wire import Reason

FRAMES_PER_TURN: Final = 256
BYTES_PER_TURN: Final = 16 << 20
RECEIVE_HWM: Final = 32
FRAME_BYTES_MAX: Final = 512 << 20
"""As etcd's peers read, whatever their own --max-request-bytes: what is in a leader's log must get
through to members that are set otherwise."""
RELOAD_KEYS_SECONDS: Final = 2.0
LOG_SECONDS: Final = 1.0
DEFAULT_TIMING: Final = Timing()
_EVENTS: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Who this member is, where it listens and how patient it is.

    `descriptors` are sockets that listen already; without them the URLs are bound.
    """

    member_id: int
    cluster_id: int
    urls: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    timing: Timing = DEFAULT_TIMING
    frame_bytes_max: int = FRAME_BYTES_MAX
    keys: Keys | None = None


class Listener:
    """See the module docstring. `rejected` counts by Reason, `closed` the connections that ended.

    One thread uses it, the actor's; with keys, a thread of its own decides over them.
    """

    def __init__(
        self,
        context: Context,
        settings: PeerSettings,
        poll: Poll,
        log: Logger,
        on_frame: Callable[[bytes, str], None],
    ) -> None:
        """`on_frame` is given each frame, and the key its sender has proved to hold ("": none)."""
        self.rejected = [0] * len(Reason)
        self.closed = 0
        self._settings = settings
        self._poll = poll
        self._log = log
        self._on_frame = on_frame
        self._next_keys = self._next_log = 0.0
        self._told = 0
        self._example = ""
        self._gate = Gate(context, settings.keys) if settings.keys else None
        self._socket = context.socket(zmq.PULL)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)

    def open(self) -> None:
        """Listen. Raises PeerUrlError and PeerBindError."""
        unit = self._settings.timing.unit_ms
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.RCVHWM, RECEIVE_HWM),
            (zmq.MAXMSGSIZE, self._settings.frame_bytes_max),
            (zmq.HANDSHAKE_IVL, 10 * unit),
            (zmq.HEARTBEAT_IVL, 10 * unit),
            (zmq.HEARTBEAT_TIMEOUT, 60 * unit),
            (zmq.BACKLOG, 128),
        ):
            self._socket.setsockopt(option, value)
        if self._settings.keys is not None:
            self._settings.keys.secure_listener(self._socket)
        if self._settings.descriptors:
            adopt(self._socket, self._settings.descriptors)
        else:
            bind(self._socket, self._settings.urls)
        self._poll.watch(self._socket, self._on_readable)
        self._poll.watch(self._monitor, self._on_events)

    def close(self) -> None:
        """Close without waiting."""
        self._poll.unwatch(self._socket)
        self._poll.unwatch(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        if self._gate is not None:
            self._gate.close()

    def reject(self, reason: Reason, example: str, count: int = 1) -> None:
        """Count what was turned away; `example` is for the log."""
        self.rejected[reason] += count
        self._example = f"{reason.name.lower()}: {example}"

    def tick(self, now: float) -> None:
        """Log what was rejected, and look for new keys."""
        if self._gate is not None:
            refused = self._gate.refused - self.rejected[Reason.KEY_UNKNOWN]
            if refused:
                self.reject(Reason.KEY_UNKNOWN, "a key that is not in the folder", refused)
        if now >= self._next_keys and self._settings.keys is not None:
            self._next_keys = now + RELOAD_KEYS_SECONDS
            try:
                self._settings.keys.reload()
            except PeerKeyError as error:
                self._log.warning("keys of peers stay as they are", error=str(error))
        total = sum(self.rejected)
        if total > self._told and now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            self._log.warning(
                "rejected connection on peer endpoint",
                count=total - self._told,
                last=self._example,
                total={reason.name.lower(): self.rejected[reason] for reason in Reason},
            )
            self._told = total

    def _on_readable(self) -> None:
        size = 0
        secured = self._gate is not None
        for _ in range(FRAMES_PER_TURN):
            key = ""
            try:
                if secured:
                    held = self._socket.recv(zmq.NOBLOCK, copy=False)
                    frame, key = held.bytes, _key_of(held)
                else:
                    frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._on_frame(frame, key)
            size += len(frame)
            if size > BYTES_PER_TURN or not has_more(self._socket):
                return

    def _on_events(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            event = next_event(self._monitor)
            if not event:
                return
            if event == zmq.EVENT_DISCONNECTED:
                self.closed += 1
            elif event != zmq.EVENT_HANDSHAKE_FAILED_AUTH:  # the gate counts these
                self.reject(Reason.HANDSHAKE, "somebody who is no peer")


def _key_of(frame: zmq.Frame) -> str:
    """Return the client key that libzmq's handshake has proved, as the handler named it."""
    key = frame.get("User-Id")
    return key if isinstance(key, str) else ""
