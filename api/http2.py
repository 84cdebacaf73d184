"""HTTP/2 for a server, without sockets: the only module that knows the engine (libnghttp2).

What the engine decides: framing, HPACK, flow control, stream states, and the floods it can see by
itself (resets, CONTINUATION frames, unsent acknowledgements, header lists).
What is decided here, with the clock handed in: windows and limits, the keep-alive of both sides
as grpc-go has it, floods of frames that cost an answer each, and how a connection ends:

1. A peer that breaks the protocol or a limit gets one GOAWAY that says why, then the end.
2. `drain` announces the end (GOAWAY with the highest id, and a PING), and names the last stream
   once the peer has answered or DRAIN_NOTICE_TIMEOUT has passed (RFC 9113, section 6.8).

Received data is acknowledged only when its reader says so: this is the back-pressure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ngh2 import Configuration, Connection, Role
from ngh2.enums import ErrorCode, Setting
from ngh2.events import (
    DataReceived,
    Event,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
)
from ngh2.exceptions import DenialOfServiceError
from ngh2.exceptions import NGH2Error as Http2Error

from api.authority import AuthorityScreen

__all__ = [
    "PREFACE",
    "DataReceived",
    "ErrorCode",
    "Event",
    "Http2Connection",
    "Http2Error",
    "Limits",
    "RequestReceived",
    "StreamClosed",
    "TrailersReceived",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NEVER: Final = float("inf")
RESERVED_DESCRIPTORS: Final = 150  # etcd's reservedInternalFDNum: not for clients
GRPC_OVERHEAD_BYTES: Final = 512 * 1024  # etcd's grpcOverheadBytes
DRAIN_NOTICE_TIMEOUT: Final = 1.0
PING_STRIKES_MAX: Final = 2  # grpc-go's maxPingStrikes
# So much is no mere control frames: a part of a big answer forgives pings as its beginning does.
# grpc-go's clients measure the bandwidth by one ping for each such part.
FORGIVING_BYTES_MIN: Final = 4096
PING_IDLE_MIN_TIME: Final = 7200.0  # grpc-go: without a call open, pings every two hours at most
_STREAMS_UNLIMITED: Final = 2**32 - 1
_KEEPALIVE: Final = b"trouped\x00"
_DRAIN: Final = b"trouped\x01"
_GOAWAY: Final = struct.Struct(">BHBBIII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a client connection. Bytes and seconds; etcd's flags where there is one."""

    message_bytes_max: int = 2 * 1024 * 1024  # --max-request-bytes and 512 KiB for gRPC
    concurrent_streams: int = _STREAMS_UNLIMITED  # --max-concurrent-streams
    keepalive_min_time: float = 5.0  # --grpc-keepalive-min-time
    keepalive_interval: float = 7200.0  # --grpc-keepalive-interval
    keepalive_timeout: float = 20.0  # --grpc-keepalive-timeout

    stream_window: int = 1024 * 1024
    connection_window: int = 4 * 1024 * 1024
    # Bytes of unfinished messages a connection may hold; the call that passes it is refused.
    assembly_bytes_max: int = 64 * 1024 * 1024
    # A stream with more unsent bytes is not `writable`; a connection with more unsent bytes
    # gets no more window for requests until it has read half of them.
    stream_queue_bytes: int = 256 * 1024
    connection_queue_bytes: int = 8 * 1024 * 1024

    header_list_bytes_max: int = 64 * 1024
    header_count_max: int = 512
    continuations_max: int = 8
    # Token buckets (burst, per second). Clients that cancel by deadline reset every call, so
    # resets are far above the engine's own 1,000 and 33.
    resets: tuple[int, int] = (10_000, 1_000)
    settings: tuple[int, int] = (100, 10)
    empty_frames: tuple[int, int] = (1_000, 100)

    handshake_timeout: float = 20.0  # until TLS, the preface and the first SETTINGS are in
    http1_header_bytes_max: int = 64 * 1024
    http1_body_bytes_max: int = 4 * 1024 * 1024  # a message of JSON with base64 in it
    http1_idle_timeout: float = 300.0  # etcd's http.Server has five minutes
    connections_max: int = 50_000

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Limits:
        """Take the bounds that etcd has flags for from a configuration's fields, if they are there.

        A keep-alive interval or time-out of 0 means never, as for etcd.
        """
        given: dict[str, Any] = {}
        if "max_request_bytes" in config:
            given["message_bytes_max"] = int(config["max_request_bytes"]) + GRPC_OVERHEAD_BYTES
        if "max_concurrent_streams" in config:
            given["concurrent_streams"] = (
                int(config["max_concurrent_streams"]) or _STREAMS_UNLIMITED
            )
        for name in ("keepalive_min_time", "keepalive_interval", "keepalive_timeout"):
            seconds = config.get(f"grpc_{name}_seconds")
            if seconds is not None:
                given[name] = float(seconds)
        for name in ("keepalive_interval", "keepalive_timeout"):
            given[name] = given.get(name, cls.__dataclass_fields__[name].default) or NEVER
        return cls(**given)

    def within(self, descriptors: int, *, sixteenths: int) -> Limits:
        """Return bounds for a server with a share of what clients get of a process's descriptors.

        `descriptors` is RLIMIT_NOFILE; RLIM_INFINITY is negative.
        """
        if descriptors < 0:
            return self
        room = max(0, descriptors - RESERVED_DESCRIPTORS) * sixteenths // 16
        return replace(self, connections_max=max(1, min(self.connections_max, room)))


class Bucket:
    """A token bucket: `take` says False when more than burst + rate * seconds were taken."""

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")

    def __init__(self, burst_rate: tuple[int, int]) -> None:
        self._burst, self._rate = burst_rate
        self._tokens = float(self._burst)
        self._filled = -NEVER

    def take(self, now: float) -> bool:
        """Take one token at `now`, in seconds; False when there is none."""
        if self._tokens < 1:
            waited = now - self._filled
            self._tokens = float(min(self._burst, self._tokens + waited * self._rate))
            self._filled = now
            if self._tokens < 1:
                return False
        elif self._filled < 0:
            self._filled = now
        self._tokens -= 1
        return True


class Http2Connection:
    """One server-side connection. Every method that takes `now` takes seconds of one clock.

    The engine's own methods are handed out as attributes (send_response, send_data, ...), for a
    call in between costs as much as the work; they raise Http2Error when the stream or the
    connection has gone, which is ordinary: the peer may leave at any time.
    """

    __slots__ = (
        "_drain_at",
        "_empty",
        "_engine",
        "_last_ping",
        "_last_words",
        "_limits",
        "_ping_sent",
        "_screen",
        "_settings",
        "_strikes",
        "acknowledge",
        "closing",
        "draining",
        "events",
        "failure",
        "last_read",
        "last_stream_id",
        "queued_body_size",
        "reset_stream",
        "send_data",
        "send_response",
        "send_trailers",
        "sent",
        "settled",
        "wake_at",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        configuration = Configuration(
            auto_window_update=False,
            stream_reset_rate_limit=limits.resets,
            max_continuations=limits.continuations_max,
            max_inbound_header_list_size=limits.header_list_bytes_max,
            max_inbound_header_count=limits.header_count_max,
        )
        engine = Connection(Role.SERVER, configuration)
        settings = {
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
        }
        if limits.concurrent_streams < _STREAMS_UNLIMITED:
            settings[Setting.MAX_CONCURRENT_STREAMS] = limits.concurrent_streams
        engine.initiate_connection(settings)
        engine.set_local_window_size(limits.connection_window)
        self._engine = engine
        self._limits = limits
        self.events = engine.events
        self.send_response = engine.send_response
        self.send_data = engine.send_data
        self.send_trailers = engine.send_trailers
        self.reset_stream = engine.reset_stream
        self.queued_body_size = engine.queued_body_size
        self.acknowledge = engine.acknowledge_received_data
        self.failure = ""  # why we ended the connection; empty while it is sound
        self.closing = False  # nothing more is read; close once data_to_send is empty
        self.draining = False
        self.settled = False  # the peer's first SETTINGS are in
        self.sent = False  # set by the owner when a response is sent: forgives pings
        self.last_stream_id = 0
        self.last_read = now
        self.wake_at = now + limits.handshake_timeout
        self._last_words: bytes | None = None
        self._screen: AuthorityScreen | None = AuthorityScreen(
            prelude_bytes=len(PREFACE),
            header_bytes_max=limits.header_list_bytes_max,
            continuations_max=limits.continuations_max,
        )
        self._settings = Bucket(limits.settings)
        self._empty = Bucket(limits.empty_frames)
        self._strikes = 0
        self._last_ping = -NEVER
        self._ping_sent: float | None = None
        self._drain_at: float | None = None

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Return what these bytes mean; a peer at fault sets `closing` and `failure`."""
        self.last_read = now
        if self._screen is not None:
            data = self._screen.screen(data)
            if self._screen.done:
                self._screen = None
        try:
            self._engine.receive_data(data)
        except Http2Error as error:
            self._fail(error)
        return self._engine.events()

    def control(self, event: Event, now: float, *, calls: int) -> None:
        """Take an event that is about the connection; `calls` are the calls open now."""
        if isinstance(event, SettingsReceived):
            if not self.settled:
                self.settled = True
                self.wake_at = now + self._limits.keepalive_interval
            elif not self._settings.take(now):
                self._expel("too_many_settings")
        elif isinstance(event, PingReceived):
            self._police_ping(now, calls)
        elif isinstance(event, PingAcknowledged) and self._drain_at is not None:
            self._name_last_stream()

    def count_empty_frame(self, now: float) -> None:
        """Count a DATA frame that carries nothing: it costs us work and the peer no window."""
        if not self._empty.take(now):
            self._expel("too_many_empty_frames")

    def _police_ping(self, now: float, calls: int) -> None:
        """End the connection at the third ping too early (grpc-go's EnforcementPolicy)."""
        last, self._last_ping = self._last_ping, now
        if self.sent:
            self.sent = False
            self._strikes = 0
            return
        if last + (self._limits.keepalive_min_time if calls else PING_IDLE_MIN_TIME) > now:
            self._strikes += 1
            if self._strikes > PING_STRIKES_MAX:
                self._expel("too_many_pings")

    def wake(self, now: float) -> None:
        """Do what is due: handshake time-out, keep-alive, second half of a drain."""
        if self.closing or now < self.wake_at:
            return
        limits = self._limits
        if not self.settled:
            self._end("handshake timed out")
        elif self._drain_at is not None:
            self._name_last_stream()
        elif self._ping_sent is not None and self.last_read <= self._ping_sent:
            self._end("keepalive ping failed to receive ACK within timeout")
        # The sum that wake_at is made of, lest rounding has us woken at it again and again.
        elif now >= self.last_read + limits.keepalive_interval:
            self._ping_sent = now
            self.wake_at = now + limits.keepalive_timeout
            try:
                self._engine.ping(_KEEPALIVE)
            except Http2Error:
                self.finish()  # the peer has said goodbye, and nothing was sent since
        else:
            self._ping_sent = None
            self.wake_at = self.last_read + limits.keepalive_interval

    def drain(self, now: float) -> None:
        """Announce that no new stream will be taken; open streams go on."""
        if self.closing or self.draining:
            return
        self.draining = True
        try:
            self._engine.send_shutdown_notice()
            self._engine.ping(_DRAIN)
        except Http2Error as error:
            self._fail(error)
            return
        self._drain_at = now + DRAIN_NOTICE_TIMEOUT
        self.wake_at = min(self.wake_at, self._drain_at)

    def _name_last_stream(self) -> None:
        self._drain_at = None
        self.wake_at = NEVER
        try:
            self._engine.send_goaway(ErrorCode.NO_ERROR)
        except Http2Error as error:
            self._fail(error)

    @property
    def drained(self) -> bool:
        """Whether the last stream has been named: with no stream open the end may come."""
        return self.draining and self._drain_at is None

    def finish(self) -> None:
        """End a connection that has nothing more to say."""
        self.closing = True
        self.wake_at = NEVER

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Take at most `amount` bytes for the peer; empty when there is nothing to send."""
        if self._last_words is not None:
            words, self._last_words = self._last_words, b""
            return words
        engine = self._engine
        try:
            data = engine.data_to_send(amount)
        except Http2Error as error:
            self._fail(error)
            return self.data_to_send()
        if not engine.want_read and not engine.want_write:
            self.finish()
        if len(data) >= FORGIVING_BYTES_MIN:
            self.sent = True
        return data

    def _fail(self, error: Http2Error) -> None:
        """End with a GOAWAY of our own: the engine has given up and sends nothing more."""
        calm = isinstance(error, DenialOfServiceError)
        code = ErrorCode.ENHANCE_YOUR_CALM if calm else ErrorCode.PROTOCOL_ERROR
        self._end(str(error))
        reason = self.failure.encode("ascii", "replace")[:200]
        self._last_words = (
            _GOAWAY.pack(0, 8 + len(reason), 7, 0, 0, self.last_stream_id, code) + reason
        )

    def _expel(self, reason: str) -> None:
        """End the connection because of what its peer does."""
        if self.closing:
            return
        self._end(reason)
        try:
            self._engine.send_goaway(ErrorCode.ENHANCE_YOUR_CALM, debug_data=reason.encode())
        except Http2Error as error:
            self._fail(error)

    def _end(self, reason: str) -> None:
        self.closing = True
        self.failure = self.failure or reason
        self.wake_at = NEVER
