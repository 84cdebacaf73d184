"""gRPC over HTTP/2 without sockets: bytes in, calls to methods, bytes out.

What gRPC adds to HTTP/2 and no more: paths, 5-byte frames, timeouts, metadata, status trailers,
cancellation and limits, with grpc-go's texts where a client can see them. Everything is a plain
call in one thread: a method's handler gets a `Call` and answers it now or at any later time.

Rules a call keeps:
1. A handler is called once; whatever ends the call first wins (reply, finish, fail, the deadline,
   a reset, the end of the connection) and everything after that is ignored. An answer may race
   with a cancellation, so it is no error.
2. A call that ends without its handler's doing tells it once: `on_close(call)`, or the stream
   handler's `on_cancel()`.
3. A unary handler is called when the peer has half-closed, with one whole message.
4. Nothing per call is allocated that a no-op call does not need: no future, no timer, no log line.

Deadlines: a connection knows only the earliest one (`wake_at`) and looks through its calls when
that has passed. Since deadlines mostly grow, a connection full of calls with a five-second
time-out is looked through every five seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, Protocol

from api.grpc_frames import (
    FrameError,
    FrameReader,
    decode_metadata,
    decompress,
    parse_timeout,
    percent_encode,
)
from api.http2 import (
    NEVER,
    DataReceived,
    ErrorCode,
    Event,
    Http2Connection,
    Http2Error,
    Limits,
    RequestReceived,
    StreamClosed,
    TrailersReceived,
)
from kv.errors import Code, EtcdError, Status

__all__ = ["Call", "GrpcConnection", "Kind", "Limits", "Method", "Payload", "StreamHandler"]

Payload = bytes | Sequence[bytes]
Header = tuple[bytes, bytes]

_PREFIX: Final = struct.Struct(">BI")
_STATUS_200: Final = (b":status", b"200")
_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_RESPONSE: Final = (_STATUS_200, _CONTENT_TYPE)
_TRAILERS_OK: Final = ((b"grpc-status", b"0"), (b"grpc-message", b""))
_STATUS_CACHE_MAX: Final = 512
_GRPC: Final = b"application/grpc"
# A frame's prefix and payload are joined up to this size; above it they are queued one by one.
_JOIN_BYTES_MAX: Final = 16 * 1024


class Kind(Enum):
    """How many messages go each way; values are grpc-go-prometheus' labels."""

    UNARY = "unary"
    CLIENT_STREAM = "client_stream"
    SERVER_STREAM = "server_stream"
    BIDI = "bidi_stream"


class StreamHandler(Protocol):
    """What a method with a stream of requests gives back when a call opens."""

    def on_message(self, message: bytes) -> None:
        """Take the next message."""

    def on_half_close(self) -> None:
        """The peer sends no more messages; answers may go on."""

    def on_cancel(self) -> None:
        """The call has ended without our doing; nothing more comes and nothing can be sent."""

    def on_drain(self) -> None:
        """The call is `writable` again after it was found not to be."""


class Method:
    """What answers a path, and its counters, readable at any time.

    `started` calls, `handled` calls by gRPC code, `received` and `sent` messages.
    """

    __slots__ = ("handled", "kind", "message", "opened", "received", "sent", "started")

    def __init__(
        self,
        kind: Kind,
        *,
        message: Callable[[Call, bytes], None] | None = None,
        opened: Callable[[Call], StreamHandler] | None = None,
    ) -> None:
        assert (message is None) != (opened is None)
        self.kind = kind
        self.message = message
        self.opened = opened
        self.started = 0
        self.handled = [0] * (max(Code) + 1)
        self.received = 0
        self.sent = 0

    @classmethod
    def unary(cls, handler: Callable[[Call, bytes], None]) -> Method:
        """One message in, one out: `handler(call, message)`, then `reply` or `fail`."""
        return cls(Kind.UNARY, message=handler)

    @classmethod
    def server_stream(cls, handler: Callable[[Call, bytes], None]) -> Method:
        """One message in, any number out: `handler(call, message)`, `send`..., `finish`."""
        return cls(Kind.SERVER_STREAM, message=handler)

    @classmethod
    def stream(cls, opened: Callable[[Call], StreamHandler], kind: Kind = Kind.BIDI) -> Method:
        """Any number both ways: `opened(call)` gives the handler of the call's events."""
        return cls(kind, opened=opened)


class Call:
    """One call. `deadline` is in seconds of the connection's clock; None is none.

    `context` belongs to the handler. `on_close(call)` is called once if the call ends without
    the handler's doing (`cancelled` is then set), `on_drain(call)` once it is writable again;
    both are for methods without a StreamHandler.
    """

    __slots__ = (
        "_connection",
        "_half_closed",
        "_handler",
        "_headers",
        "_headers_sent",
        "_reader",
        "cancelled",
        "closed",
        "context",
        "deadline",
        "method",
        "on_close",
        "on_drain",
        "path",
        "stream_id",
    )

    def __init__(
        self,
        connection: GrpcConnection,
        stream_id: int,
        method: Method,
        path: bytes,
        headers: Sequence[Header],
    ) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.method = method
        self.path = path
        self._headers = headers
        self.deadline: float | None = None
        self.closed = False
        self.cancelled = False
        self.context: object = None
        self.on_close: Callable[[Call], None] | None = None
        self.on_drain: Callable[[Call], None] | None = None
        self._half_closed = False
        self._headers_sent = False
        self._handler: StreamHandler | None = None
        self._reader: FrameReader | None = None

    @property
    def peer(self) -> str:
        """The other end of the connection, `host:port` or a socket's path."""
        return self._connection.peer

    @property
    def connection(self) -> GrpcConnection:
        """The connection the call came by."""
        return self._connection

    @property
    def metadata(self) -> dict[str, str | bytes]:
        """The request's metadata, made anew on each access; `-bin` values are bytes.

        Of a key given more than once the first value counts, as everywhere in etcd.
        """
        return decode_metadata(self._headers)

    def header(self, name: bytes) -> bytes | None:
        """Return the raw value of one header (lower-case name), without decoding the others."""
        for key, value in self._headers:
            if key == name:
                return value
        return None

    def reply(self, message: Payload) -> None:
        """Answer a unary call with its message (bytes, or pieces of it) and code OK."""
        if self.closed:
            return
        self.closed = True
        method = self.method
        method.handled[0] += 1
        method.sent += 1
        connection = self._connection
        http2 = connection.http2
        stream_id = self.stream_id
        try:
            http2.send_response(stream_id, _RESPONSE)
            if type(message) is bytes and len(message) <= _JOIN_BYTES_MAX:
                http2.send_data(stream_id, _PREFIX.pack(0, len(message)) + message)
            else:
                connection.send_pieces(stream_id, message)
            http2.send_trailers(stream_id, _TRAILERS_OK)
        except Http2Error:
            return
        if not self._half_closed:
            connection.answered_early.append(stream_id)
        if not connection.dirty:
            connection.mark()

    def send(self, message: Payload) -> None:
        """Send one message of a stream; look at `writable` before sending much."""
        if self.closed:
            return
        connection = self._connection
        try:
            self._send_headers()
            connection.send_pieces(self.stream_id, message)
        except Http2Error:
            return
        self.method.sent += 1
        if not connection.dirty:
            connection.mark()

    def send_headers(self) -> None:
        """Send the response's headers now: some clients wait for them before the first message."""
        if self.closed or self._headers_sent:
            return
        try:
            self._send_headers()
        except Http2Error:
            return
        self._connection.mark()

    def _send_headers(self) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            self._connection.http2.send_response(self.stream_id, _RESPONSE)

    @property
    def writable(self) -> bool:
        """Whether less than `stream_queue_bytes` wait to be sent; False asks for on_drain."""
        if self.closed:
            return False
        return self._connection.is_writable(self)

    def finish(self, code: int = 0, text: str = "") -> None:
        """End the call with a code and a text; messages sent before still arrive."""
        if self.closed:
            return
        self.closed = True
        self.method.handled[code] += 1
        connection = self._connection
        trailers = connection.trailers(code, text)
        stream_id = self.stream_id
        try:
            if self._headers_sent:
                connection.http2.send_trailers(stream_id, trailers)
            else:
                connection.http2.send_response(stream_id, _RESPONSE + trailers, end_stream=True)
        except Http2Error:
            return
        if not self._half_closed:
            connection.answered_early.append(stream_id)
        if not connection.dirty:
            connection.mark()

    def fail(self, status: Status) -> None:
        """End the call with one of etcd's errors."""
        self.finish(status.code, status.text)

    def _abandon(self, code: Code) -> None:
        """End the call without its handler's doing, and tell it (rule 2)."""
        if code is Code.DEADLINE_EXCEEDED:
            self.finish(code, "context deadline exceeded")
        else:
            self.closed = True
            self.method.handled[code] += 1
        self.cancelled = True
        if self._handler is not None:
            self._handler.on_cancel()
        elif self.on_close is not None:
            self.on_close(self)

    def _refuse(self, code: Code, text: str) -> None:
        """End the call because its request cannot be read; a stream's handler is told."""
        if self.closed:
            return
        self.finish(code, text)
        if self._handler is not None:
            self.cancelled = True
            self._handler.on_cancel()


class GrpcConnection:
    """One client's connection: `receive`, `data_to_send` and `wake` drive it, nothing blocks.

    `on_dirty` is called once whenever there is something to send after there was nothing.
    `wake(now)` wants to be called when the clock passes `wake_at`, which may become earlier on
    any call. Once `closed`, what data_to_send still gives is sent and the connection closed.
    """

    __slots__ = (
        "_assembled",
        "_blocked",
        "_clock",
        "_next_deadline",
        "_router",
        "_statuses",
        "_unacknowledged",
        "answered_early",
        "calls",
        "dirty",
        "http2",
        "limits",
        "on_dirty",
        "peer",
    )

    def __init__(
        self,
        router: Mapping[bytes, Method],
        limits: Limits,
        clock: Callable[[], float],
        *,
        peer: str = "",
        on_dirty: Callable[[], None] | None = None,
    ) -> None:
        self._router = router
        self._clock = clock
        self.limits = limits
        self.peer = peer
        self.on_dirty = on_dirty
        self.http2 = Http2Connection(limits, clock())
        self.calls: dict[int, Call] = {}  # by stream, until the stream is closed
        self.dirty = False
        self.answered_early: list[int] = []  # answered before the peer had half-closed
        self._blocked: dict[int, Call] = {}  # found not writable
        # (stream, bytes) received while too much waits to be sent; None while all is well
        self._unacknowledged: list[tuple[int, int]] | None = None
        self._assembled = 0  # bytes of unfinished messages
        self._next_deadline = NEVER

    @property
    def wake_at(self) -> float:
        """When `wake` wants to be called, in seconds of the clock."""
        return min(self.http2.wake_at, self._next_deadline)

    @property
    def closed(self) -> bool:
        """Whether the connection ends once everything has been sent."""
        return self.http2.closing

    @property
    def busy(self) -> int:
        """How many calls are open."""
        return len(self.calls)

    def mark(self) -> None:
        """Note that there is something to send."""
        if not self.dirty:
            self.dirty = True
            if self.on_dirty is not None:
                self.on_dirty()

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer; handlers are called before this returns."""
        if self.http2.closing:
            return
        now = self._clock()
        for event in self.http2.receive(data, now):
            kind = type(event)
            if kind is RequestReceived:
                self._on_request(event, now)  # type: ignore[arg-type]
            elif kind is DataReceived:
                self._on_data(event, now)  # type: ignore[arg-type]
            else:
                self._on_other(event, now)
        self.mark()

    def _on_request(self, event: RequestReceived, now: float) -> None:
        stream_id = event.stream_id
        headers = event.headers
        fields = dict(headers)
        path = fields.get(b":path", b"")
        method = self._router.get(path)
        content_type = fields.get(b"content-type", b"")
        if method is None or content_type != _GRPC or fields.get(b":method") != b"POST":
            refusal = _refusal(self._router, path, content_type, fields.get(b":method", b""))
            if refusal is not None:
                self._refuse_request(stream_id, refusal, end_stream=event.end_stream)
                return
        assert method is not None
        self.http2.last_stream_id = stream_id
        call = Call(self, stream_id, method, path, headers)
        self.calls[stream_id] = call
        method.started += 1
        timeout = fields.get(b"grpc-timeout")
        if timeout is not None:
            seconds = parse_timeout(timeout)
            if seconds is None:
                text = "malformed grpc-timeout: " + timeout.decode("latin-1")
                call.finish(Code.INTERNAL, text)
                return
            deadline = call.deadline = now + seconds
            if deadline < self._next_deadline:
                self._next_deadline = deadline
            if seconds <= 0:
                call._abandon(Code.DEADLINE_EXCEEDED)
                return
        if method.opened is not None:
            try:
                call._handler = method.opened(call)
            except EtcdError as error:
                call.fail(error.status)
                return
        if event.end_stream:
            self._half_close(call)

    def _refuse_request(
        self, stream_id: int, refusal: tuple[bytes, Code, str], *, end_stream: bool
    ) -> None:
        """Answer what is no call of ours with an HTTP status, a code and a text."""
        http_status, code, text = refusal
        headers = ((b":status", http_status), _CONTENT_TYPE, *self.trailers(code, text))
        try:
            self.http2.send_response(stream_id, headers, end_stream=True)
        except Http2Error:
            return
        if not end_stream:
            self.answered_early.append(stream_id)

    def _on_data(self, event: DataReceived, now: float) -> None:
        stream_id = event.stream_id
        data = event.data
        end_stream = event.end_stream
        if data:
            self._acknowledge(stream_id, len(data))
        elif not end_stream:
            self.http2.count_empty_frame(now)
        call = self.calls.get(stream_id)
        if call is None or call.closed:
            return
        handler = call.method.message
        if end_stream and call._reader is None and handler is not None and len(data) >= 5:
            # The hot path: one whole message in one frame that is also the last one.
            flag, length = _PREFIX.unpack_from(data)
            if flag == 0 and length == len(data) - 5 and length <= self.limits.message_bytes_max:
                call._half_closed = True
                call.method.received += 1
                try:
                    handler(call, data[5:])
                except EtcdError as error:
                    call.fail(error.status)
                return
        if data:
            self._assemble(call, data)
        if end_stream and not call.closed:
            self._half_close(call)

    def _assemble(self, call: Call, data: bytes) -> None:
        """Take part of a message, or several; hand on those of a stream of requests."""
        reader = call._reader
        if reader is None:
            reader = call._reader = FrameReader(self.limits.message_bytes_max)
        before = reader.held
        try:
            messages = reader.feed(data)
            if any(flag for flag, _ in messages):
                encoding = call.header(b"grpc-encoding") or b"identity"
                limit = self.limits.message_bytes_max
                messages = [(0, decompress(m, f, encoding, limit)) for f, m in messages]
        except FrameError as error:
            self._assembled -= before
            reader.held = 0
            call._refuse(error.code, str(error))
            return
        self._assembled += reader.held - before
        if self._assembled > self.limits.assembly_bytes_max:
            call._refuse(Code.RESOURCE_EXHAUSTED, "too many bytes of unfinished messages")
            return
        handler = call._handler
        if handler is None:
            reader.whole.extend(message for _, message in messages)
            if len(reader.whole) > 1:
                call._refuse(Code.INTERNAL, "cardinality violation: more than one request message")
            return
        try:
            for _, message in messages:
                if call.closed:
                    break
                call.method.received += 1
                handler.on_message(message)
        except EtcdError as error:
            call.fail(error.status)

    def _half_close(self, call: Call) -> None:
        call._half_closed = True
        if call.closed:
            return
        reader = call._reader
        if reader is not None and reader.broken_off:
            call._refuse(Code.INTERNAL, "unexpected EOF")
            return
        try:
            if call._handler is not None:
                call._handler.on_half_close()
                return
            if reader is None or not reader.whole:
                call.finish(Code.INTERNAL, "cardinality violation: no request message")
                return
            message = reader.whole.pop()
            call._reader = None
            handler = call.method.message
            assert handler is not None
            call.method.received += 1
            handler(call, message)
        except EtcdError as error:
            call.fail(error.status)

    def _on_other(self, event: Event, now: float) -> None:
        if isinstance(event, StreamClosed):
            self._on_stream_closed(event.stream_id)
        elif isinstance(event, TrailersReceived):
            call = self.calls.get(event.stream_id)
            if call is not None:
                self._half_close(call)
        else:
            self.http2.control(event, now, calls=len(self.calls))

    def _on_stream_closed(self, stream_id: int) -> None:
        call = self.calls.pop(stream_id, None)
        if call is None:
            return
        if call._reader is not None:
            self._assembled -= call._reader.held
            call._reader = None
        if self._blocked:
            self._blocked.pop(stream_id, None)
        if not call.closed:
            call._abandon(Code.CANCELED)

    def _acknowledge(self, stream_id: int, size: int) -> None:
        """Give the window back, unless the peer has too much of ours to read first."""
        if self._unacknowledged is not None:
            self._unacknowledged.append((stream_id, size))
            return
        try:
            self.http2.acknowledge(size, stream_id)
        except Http2Error:
            return  # the connection has ended within this batch

    def send_pieces(self, stream_id: int, message: Payload) -> None:
        """Queue one message; pieces are not joined. Raises Http2Error when the stream is gone."""
        send_data = self.http2.send_data
        if isinstance(message, bytes):
            size = len(message)
            if size <= _JOIN_BYTES_MAX:
                send_data(stream_id, _PREFIX.pack(0, size) + message)
                return
            message = (message,)
        else:
            size = sum(len(piece) for piece in message)
        send_data(stream_id, _PREFIX.pack(0, size))
        for piece in message:
            send_data(stream_id, piece)

    def is_writable(self, call: Call) -> bool:
        """Whether a call's queue is under its bound; False remembers it for on_drain."""
        try:
            queued = self.http2.queued_body_size(call.stream_id)
        except Http2Error:
            return False
        if queued < self.limits.stream_queue_bytes:
            return True
        self._blocked[call.stream_id] = call
        return False

    def trailers(self, code: int, text: str) -> tuple[Header, ...]:
        """Return the trailers of a status; they are few, so they are kept."""
        if code == 0 and not text:
            return _TRAILERS_OK
        found = _STATUSES.get((code, text))
        if found is None:
            if len(_STATUSES) >= _STATUS_CACHE_MAX:
                _STATUSES.clear()
            found = (
                (b"grpc-status", b"%d" % code),
                (b"grpc-message", percent_encode(text)),
            )
            _STATUSES[code, text] = found
        return found

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Take at most about `amount` bytes to send to the peer; empty when there are none."""
        self.dirty = False
        http2 = self.http2
        data = http2.data_to_send(amount)
        if data:
            http2.sent = True
            self._collect()
        if self.answered_early and self._reset_answered():
            data += http2.data_to_send()
            self._collect()
        if self._blocked:
            self._unblock()
        if self.limits.connection_queue_bytes and not http2.closing:
            self._throttle()
        if http2.drained and not self.calls and not http2.closing:
            http2.finish()
        return data

    def _collect(self) -> None:
        """Take the events that sending brought about: streams that are over."""
        for event in self.http2.events():
            if type(event) is StreamClosed:
                self._on_stream_closed(event.stream_id)

    def _reset_answered(self) -> bool:
        """Reset, without an error, streams fully answered before the request was (RFC 9113, 8.1)."""
        waiting = []
        reset = False
        for stream_id in self.answered_early:
            call = self.calls.get(stream_id)
            if call is not None and call._half_closed:
                continue
            try:
                if self.http2.queued_body_size(stream_id):
                    waiting.append(stream_id)
                    continue
                self.http2.reset_stream(stream_id, ErrorCode.NO_ERROR)
                reset = True
            except Http2Error:
                continue
        self.answered_early = waiting
        return reset

    def _unblock(self) -> None:
        low = self.limits.stream_queue_bytes // 2
        for stream_id, call in list(self._blocked.items()):
            try:
                if not call.closed and self.http2.queued_body_size(stream_id) > low:
                    continue
            except Http2Error:
                pass
            del self._blocked[stream_id]
            if call.closed:
                continue
            if call._handler is not None:
                call._handler.on_drain()
            elif call.on_drain is not None:
                call.on_drain(call)

    def _throttle(self) -> None:
        """Hold window back while the peer has too much to read; give it back after."""
        queued = self.http2.queued_body_size()
        waiting = self._unacknowledged
        if waiting is None:
            if queued > self.limits.connection_queue_bytes:
                self._unacknowledged = []
        elif queued <= self.limits.connection_queue_bytes // 2:
            self._unacknowledged = None
            for stream_id, size in waiting:
                self._acknowledge(stream_id, size)
            self.mark()

    def wake(self, now: float) -> None:
        """Do what is due at `now`: deadlines, keep-alive, time-outs."""
        if now >= self._next_deadline:
            earliest = NEVER
            for call in list(self.calls.values()):
                deadline = call.deadline
                if deadline is None or call.closed:
                    continue
                if deadline <= now:
                    call._abandon(Code.DEADLINE_EXCEEDED)
                elif deadline < earliest:
                    earliest = deadline
            self._next_deadline = earliest
        if now >= self.http2.wake_at:
            self.http2.wake(now)
            self.mark()

    def drain(self) -> None:
        """Take no new calls; the connection is `closed` when the open ones are over."""
        self.http2.drain(self._clock())
        self.mark()

    def lost(self) -> None:
        """The peer has gone: every call ends, cancelled."""
        calls = list(self.calls.values())
        self.calls.clear()
        self._blocked.clear()
        self._next_deadline = NEVER
        self.http2.finish()
        for call in calls:
            if not call.closed:
                call._abandon(Code.CANCELED)


_STATUSES: Final[dict[tuple[int, str], tuple[Header, ...]]] = {}


def _refusal(
    router: Mapping[bytes, Method], path: bytes, content_type: bytes, verb: bytes
) -> tuple[bytes, Code, str] | None:
    """Say why a request is no call (HTTP status, code, text); None when it is one after all."""
    if not (content_type == _GRPC or content_type.startswith((_GRPC + b"+", _GRPC + b";"))):
        text = f'invalid gRPC request content-type "{content_type.decode("latin-1")}"'
        return b"415", Code.INVALID_ARGUMENT, text
    if verb != b"POST":
        text = (
            f'Received a HEADERS frame with :method "{verb.decode("latin-1")}" which should be POST'
        )
        return b"405", Code.INTERNAL, text
    if path in router:
        return None
    name = path.decode("latin-1")
    service, slash, method = name[1:].rpartition("/")
    if not name.startswith("/") or not slash:
        return b"200", Code.UNIMPLEMENTED, f'malformed method name: "{name}"'
    prefix = f"/{service}/".encode("latin-1")
    if any(known.startswith(prefix) for known in router):
        text = f"unknown method {method} for service {service}"
    else:
        text = f"unknown service {service}"
    return b"200", Code.UNIMPLEMENTED, text
