"""One gRPC call as its handler sees it, and the methods that calls go to.

Rules a call keeps:
1. A handler is called once; whatever ends the call first wins (reply, finish, fail, the deadline,
   a reset, the end of the connection) and everything after that is ignored. An answer may race
   with a cancellation, so it is no error.
2. A call that ends without its handler's doing tells it once: `on_close()`, or the stream
   handler's `on_cancel()`.
3. A unary handler is called when the peer has half-closed, with one whole message.
4. Nothing per call is allocated that a no-op call does not need: no future, no timer, no log line.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from api.grpc_frames import FrameReader, percent_encode
from api.http2 import Http2Connection, Http2Error
from kv.errors import TIMEOUTS, Code, Status

if TYPE_CHECKING:
    from api.grpc import GrpcConnection

Payload = bytes | Sequence[bytes]
Header = tuple[bytes, bytes]

PREFIX: Final = struct.Struct(">BI")  # of a message: compressed flag, length
CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
RESPONSE_HEADERS: Final = ((b":status", b"200"), CONTENT_TYPE)
_TRAILERS_OK: Final = ((b"grpc-status", b"0"), (b"grpc-message", b""))
_STATUSES: Final[dict[tuple[int, str], tuple[Header, ...]]] = {}
_STATUS_CACHE_MAX: Final = 512
_STATUS_CHARACTERS_MAX: Final = 1024  # of those kept: clients may choose parts of others
# A message's prefix and payload are joined up to this size; above it they are queued one by one.
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
        """Know that the peer sends no more messages; answers may go on."""

    def on_cancel(self) -> None:
        """Know that the call has ended: nothing more comes and nothing can be sent."""

    def on_drain(self) -> None:
        """Know that the call is `writable` again after it was found not to be."""


class Method:
    """What answers a path, and its counters, readable at any time.

    `started` calls, `handled` calls by gRPC code, `received` and `sent` messages, `expired` calls:
    given up because their deadline, or the time the server gives a request, was over. `operation`
    is what observers call it, see kv.operations.
    """

    __slots__ = (
        "expired",
        "handled",
        "is_unary",
        "kind",
        "message",
        "opened",
        "operation",
        "received",
        "sent",
        "started",
    )

    def __init__(
        self,
        kind: Kind,
        *,
        message: Callable[[Call, bytes], None] | None = None,
        opened: Callable[[Call], StreamHandler] | None = None,
    ) -> None:
        assert (message is None) != (opened is None)
        self.kind = kind
        self.is_unary = kind is Kind.UNARY
        self.message = message
        self.opened = opened
        self.operation = 0
        self.started = 0
        self.expired = 0
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

    `context` belongs to the handler. `on_close()` is called once if the call ends without the
    handler's doing (`cancelled` is then set), `on_drain()` whenever it is writable again after
    it was found not to be; both are for methods without a StreamHandler.

    No header is kept but `encoding`, the raw grpc-encoding, and, of streams, whether it
    `needs_leader`: a client may send 64 KiB of headers by references of a few bytes.
    """

    __slots__ = (
        "_connection",
        "_headers_sent",
        "cancelled",
        "closed",
        "context",
        "deadline",
        "encoding",
        "half_closed",
        "handler",
        "method",
        "needs_leader",
        "on_close",
        "on_drain",
        "path",
        "reader",
        "stream_id",
    )

    def __init__(
        self,
        connection: GrpcConnection,
        stream_id: int,
        method: Method,
        path: bytes,
        encoding: bytes | None,
    ) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.method = method
        self.path = path
        self.encoding = encoding
        self.needs_leader = False
        self.deadline: float | None = None
        self.closed = False
        self.cancelled = False
        self.context: object = None
        self.on_close: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        self.half_closed = False
        self._headers_sent = False
        self.handler: StreamHandler | None = None
        self.reader: FrameReader | None = None

    @property
    def peer(self) -> str:
        """The other end of the connection, `host:port` or a socket's path."""
        return self._connection.peer

    @property
    def connection(self) -> GrpcConnection:
        """The connection the call came by."""
        return self._connection

    @property
    def unread_bytes(self) -> int:
        """What waits to be sent to the client, on all of its connection's streams."""
        return self._connection.http2.queued_body_size()

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
        http2.sent = True
        stream_id = self.stream_id
        try:
            http2.send_response(stream_id, RESPONSE_HEADERS)
            if type(message) is bytes and len(message) <= _JOIN_BYTES_MAX:
                http2.send_data(stream_id, PREFIX.pack(0, len(message)) + message)
            else:
                send_pieces(connection.http2, stream_id, message)
            http2.send_trailers(stream_id, _TRAILERS_OK)
        except Http2Error:
            return
        if not self.half_closed:
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
            send_pieces(connection.http2, self.stream_id, message)
        except Http2Error:
            return
        self.method.sent += 1
        connection.http2.sent = True
        if not connection.dirty:
            connection.mark()

    def send_framed(self, data: bytes, messages: int) -> None:
        """Send several messages of a stream, each with its 5-byte prefix, as one piece."""
        if self.closed:
            return
        connection = self._connection
        try:
            self._send_headers()
            connection.http2.send_data(self.stream_id, data)
        except Http2Error:
            return
        self.method.sent += messages
        connection.http2.sent = True
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
            self._connection.http2.sent = True
            self._connection.http2.send_response(self.stream_id, RESPONSE_HEADERS)

    @property
    def writable(self) -> bool:
        """Whether less than `stream_queue_bytes` wait to be sent; False asks for on_drain."""
        if self.closed:
            return False
        return self._connection.is_writable(self)

    def take_room(self, size: int) -> bool:
        """Whether a unary call's answer of `size` bytes may be sent; False asks for on_drain.

        A peer that does not read has only so much of what it asked for kept ready for it.
        """
        return not self.closed and self._connection.take_room(self, size)

    def finish(self, code: int = 0, text: str = "") -> None:
        """End the call with a code and a text; messages sent before still arrive."""
        if self.closed:
            return
        self.closed = True
        self.method.handled[code] += 1
        connection = self._connection
        connection.http2.sent = True
        trailers = status_trailers(code, text)
        stream_id = self.stream_id
        try:
            if self._headers_sent:
                connection.http2.send_trailers(stream_id, trailers)
            else:
                connection.http2.send_response(
                    stream_id, RESPONSE_HEADERS + trailers, end_stream=True
                )
        except Http2Error:
            return
        if not self.half_closed:
            connection.answered_early.append(stream_id)
        if not connection.dirty:
            connection.mark()

    def fail(self, status: Status) -> None:
        """End the call with one of etcd's errors."""
        if status in TIMEOUTS and not self.closed:
            self.method.expired += 1
        self.finish(status.code, status.text)

    def abandon(self, code: Code) -> None:
        """End the call without its handler's doing, and tell it (rule 2)."""
        if code is Code.DEADLINE_EXCEEDED:
            self.method.expired += 1
            self.finish(code, "context deadline exceeded")
        else:
            self.closed = True
            self.method.handled[code] += 1
        self._tell()

    def cut_off(self, status: Status) -> None:
        """End the call with one of etcd's errors without its handler's doing, and tell it."""
        if not self.closed:
            self.fail(status)
            self._tell()

    def _tell(self) -> None:
        self.cancelled = True
        if self.handler is not None:
            self.handler.on_cancel()
        elif self.on_close is not None:
            self.on_close()

    def forget(self) -> None:
        """Drop what may refer to the call in a circle: the garbage collector may be off."""
        self.handler = None
        self.on_close = None
        self.on_drain = None

    def refuse(self, code: Code, text: str) -> None:
        """End the call because its request cannot be read; a stream's handler is told."""
        if self.closed:
            return
        self.finish(code, text)
        if self.handler is not None:
            self.cancelled = True
            self.handler.on_cancel()


def send_pieces(http2: Http2Connection, stream_id: int, message: Payload) -> None:
    """Queue one message; pieces are not joined. Raises Http2Error when the stream is gone."""
    send_data = http2.send_data
    if isinstance(message, bytes):
        size = len(message)
        if size <= _JOIN_BYTES_MAX:
            send_data(stream_id, PREFIX.pack(0, size) + message)
            return
        message = (message,)
    else:
        size = sum(len(piece) for piece in message)
    send_data(stream_id, PREFIX.pack(0, size))
    for piece in message:
        send_data(stream_id, piece)


def status_trailers(code: int, text: str) -> tuple[Header, ...]:
    """Return the trailers of a status; short ones are few, so they are kept."""
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
        if len(text) <= _STATUS_CHARACTERS_MAX:
            _STATUSES[code, text] = found
    return found
