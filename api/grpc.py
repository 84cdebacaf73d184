"""gRPC over HTTP/2 without sockets: bytes in, calls to methods, bytes out.

What gRPC adds to HTTP/2 and no more: paths, 5-byte frames, timeouts, metadata, status trailers,
cancellation and limits, with grpc-go's texts where a client can see them. Everything is a plain
call in one thread: a method's handler gets a `Call` and answers it now or at any later time.

Deadlines: a connection knows only the earliest one (`wake_at`) and looks through its calls when
that has passed. Since deadlines mostly grow, a connection full of calls with a five-second
time-out is looked through every five seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from api.grpc_call import (
    CONTENT_TYPE,
    PREFIX,
    Call,
    Kind,
    Method,
    Payload,
    StreamHandler,
    status_trailers,
)
from api.grpc_frames import FrameError, FrameReader, decompress, parse_timeout
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
from api.interceptors import HAS_LEADER, requires_leader
from kv.errors import NO_LEADER, Code, EtcdError, Status

__all__ = ["Call", "GrpcConnection", "Kind", "Limits", "Method", "Payload", "StreamHandler"]

_GRPC: Final = b"application/grpc"
_ENCODING_BYTES_MAX: Final = 64
DEADLINE_SLACK: Final = 0.05
"""A call that is cancelled this many seconds before its deadline, or later, counts as expired."""
PACED_QUEUES_MAX: Final = 4
"""Streams that heed `writable` may have so many times connection_queue_bytes queued together."""
Intercept = Callable[[bytes, Mapping[bytes, bytes]], Status | None]
"""Path and headers of a new call -> why it is refused, None if it is not."""


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
        "_overtaken",
        "_paced",
        "_paced_bytes",
        "_router",
        "_statuses",
        "_unacknowledged",
        "_without_room",
        "answered_early",
        "calls",
        "dirty",
        "http2",
        "intercept",
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
        intercept: Intercept | None = None,
    ) -> None:
        self._router = router
        self.intercept = intercept
        self._clock = clock
        self.limits = limits
        self.peer = peer
        self.on_dirty = on_dirty
        self.http2 = Http2Connection(limits, clock())
        self.calls: dict[int, Call] = {}  # by stream, until the stream is closed
        self.dirty = False
        self.answered_early: list[int] = []  # answered before the peer had half-closed
        self._paced: dict[int, Call] = {}  # that ask whether they are writable
        self._paced_bytes = 0  # what these had queued when data was last taken, if it matters
        self._blocked: dict[int, Call] = {}  # of these, found not writable
        self._without_room: dict[int, Call] = {}  # their answers wait until the peer has read
        self._overtaken = 0  # bytes of answers queued while there was too much already
        # Bytes received by stream while too much waits to be sent; None while all is well.
        self._unacknowledged: dict[int, int] | None = None
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
        fields = dict(event.headers)
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
        encoding = fields.get(b"grpc-encoding")
        call = Call(self, stream_id, method, path, encoding and encoding[:_ENCODING_BYTES_MAX])
        self.calls[stream_id] = call
        method.started += 1
        if self.intercept is not None:
            refused = self.intercept(path, fields)
            if refused is not None:
                call.fail(refused)
                return
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
                call.abandon(Code.DEADLINE_EXCEEDED)
                return
        if not method.is_unary:
            call.needs_leader = requires_leader(fields.get(HAS_LEADER))
            if method.opened is not None and not self._open(call, method.opened):
                return
        if event.end_stream:
            self._half_close(call)

    def _open(self, call: Call, opened: Callable[[Call], StreamHandler]) -> bool:
        """Give a stream its handler; False when it is refused."""
        try:
            call.handler = opened(call)
        except EtcdError as error:
            call.fail(error.status)
            return False
        return True

    def _refuse_request(
        self, stream_id: int, refusal: tuple[bytes, Code, str], *, end_stream: bool
    ) -> None:
        """Answer what is no call of ours with an HTTP status, a code and a text."""
        http_status, code, text = refusal
        headers = ((b":status", http_status), CONTENT_TYPE, *status_trailers(code, text))
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
        if end_stream and call.reader is None and handler is not None and len(data) >= 5:
            # The hot path: one whole message in one frame that is also the last one.
            flag, length = PREFIX.unpack_from(data)
            if flag == 0 and length == len(data) - 5 and length <= self.limits.message_bytes_max:
                call.half_closed = True
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
        reader = call.reader
        if reader is None:
            reader = call.reader = FrameReader(self.limits.message_bytes_max)
        before = reader.size
        try:
            messages = reader.feed(data)
            if any(flag for flag, _ in messages):
                encoding = call.encoding or b"identity"
                limit = self.limits.message_bytes_max
                messages = [(0, decompress(m, f, encoding, limit)) for f, m in messages]
        except FrameError as error:
            self._assembled -= before
            call.reader = None
            call.refuse(error.code, str(error))
            return
        handler = call.handler
        if handler is None:
            reader.whole.extend(message for _, message in messages)
        self._assembled += reader.size - before
        if self._assembled > self.limits.assembly_bytes_max:
            self._assembled -= reader.size
            call.reader = None
            call.refuse(Code.RESOURCE_EXHAUSTED, "too many bytes of unfinished messages")
            return
        if handler is None:
            if len(reader.whole) > 1:
                call.refuse(Code.INTERNAL, "cardinality violation: more than one request message")
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
        call.half_closed = True
        if call.closed:
            return
        reader = call.reader
        if reader is not None and reader.broken_off:
            call.refuse(Code.INTERNAL, "unexpected EOF")
            return
        try:
            if call.handler is not None:
                call.handler.on_half_close()
                return
            if reader is None or not reader.whole:
                call.finish(Code.INTERNAL, "cardinality violation: no request message")
                return
            self._assembled -= reader.size
            message = reader.whole.pop()
            call.reader = None
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
        if call.reader is not None:
            self._assembled -= call.reader.size
            call.reader = None
        if self._paced:
            self._paced.pop(stream_id, None)
            self._blocked.pop(stream_id, None)
        if self._without_room:
            self._without_room.pop(stream_id, None)
        if not call.closed:
            deadline = call.deadline  # a client gives up at it too, and mostly a moment before us
            if deadline is not None and deadline - self._clock() <= DEADLINE_SLACK:
                call.method.expired += 1
            call.abandon(Code.CANCELED)
        call.forget()

    def _acknowledge(self, stream_id: int, size: int) -> None:
        """Give the window back, unless the peer has too much of ours to read first."""
        waiting = self._unacknowledged
        if waiting is not None:
            waiting[stream_id] = waiting.get(stream_id, 0) + size
            return
        try:
            self.http2.acknowledge(size, stream_id)
        except Http2Error:
            return  # the connection has ended within this batch

    def is_writable(self, call: Call) -> bool:
        """Whether a call's queue is under its bound; False remembers it for on_drain.

        While the whole connection has too much queued, the bound of each stream is 1 byte.
        """
        self._paced[call.stream_id] = call
        try:
            queued = self.http2.queued_body_size(call.stream_id)
        except Http2Error:
            return False
        if not queued or (queued < self._stream_bound() and not self._is_crowded()):
            return True
        self._blocked[call.stream_id] = call
        return False

    def _stream_bound(self) -> int:
        """Return the bytes a stream may queue: many streams share half the connection's bound."""
        limits = self.limits
        if not limits.connection_queue_bytes:
            return limits.stream_queue_bytes
        share = limits.connection_queue_bytes // (2 * max(1, len(self._paced)))
        return max(1, min(limits.stream_queue_bytes, share))

    def take_room(self, call: Call, size: int) -> bool:
        """Whether a whole answer of `size` bytes may be queued; False remembers it for on_drain.

        Behind a big answer that the peer is still reading, others may queue up to as much again as
        the connection's bound: they needn't wait for it.
        """
        if not self._is_crowded():
            self._overtaken = 0
            return True
        if self._overtaken < self.limits.connection_queue_bytes:
            self._overtaken += size
            return True
        self._without_room[call.stream_id] = call
        return False

    def _is_crowded(self) -> bool:
        bound = self.limits.connection_queue_bytes
        return bool(bound) and self._unread() > bound

    def _unread(self) -> int:
        """Return the bytes queued, but for those of open streams that heed `writable`.

        Applications pause streams for as long as they like, and their other calls go on.
        """
        return self.http2.queued_body_size() - self._paced_bytes

    def _count_paced(self) -> int:
        """Return the bytes that open streams have queued, as far as they heed `writable`.

        Half as much again as a stream's bound may come of the last piece; more has not asked.
        """
        bound = self.limits.connection_queue_bytes
        queued_body_size = self.http2.queued_body_size
        if queued_body_size() <= bound // 2:
            return 0  # so little that it decides nothing
        most = self.limits.stream_queue_bytes * 3 // 2
        counted = 0
        for stream_id, call in self._paced.items():
            try:
                if not call.closed:
                    counted += min(most, queued_body_size(stream_id))
            except Http2Error:
                continue
        return min(counted, PACED_QUEUES_MAX * bound)

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Take at most about `amount` bytes to send to the peer; empty when there are none."""
        self.dirty = False
        http2 = self.http2
        data = http2.data_to_send(amount)
        if data:
            self._collect()
        if self.answered_early and self._reset_answered():
            data += http2.data_to_send()
            self._collect()
        if self._paced:
            self._paced_bytes = self._count_paced()
        if self._blocked:
            self._unblock()
        if self._without_room:
            self._give_room()
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
        """Reset, without an error, streams answered before their request was whole (RFC 9113)."""
        waiting = []
        reset = False
        for stream_id in self.answered_early:
            call = self.calls.get(stream_id)
            if call is not None and call.half_closed:
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
        low = 0 if self._is_crowded() else self._stream_bound() // 2
        for stream_id, call in list(self._blocked.items()):
            try:
                if not call.closed and self.http2.queued_body_size(stream_id) > low:
                    continue
            except Http2Error:
                pass
            del self._blocked[stream_id]
            if call.closed:
                continue
            if call.handler is not None:
                call.handler.on_drain()
            elif call.on_drain is not None:
                call.on_drain()

    def _give_room(self) -> None:
        if self._unread() > self.limits.connection_queue_bytes // 2:
            return
        waiting, self._without_room = self._without_room, {}
        for call in waiting.values():
            if not call.closed and call.on_drain is not None:
                call.on_drain()

    def _throttle(self) -> None:
        """Hold window back while the peer has too much to read; give it back after."""
        unread = self._unread()
        waiting = self._unacknowledged
        if waiting is None:
            if unread > self.limits.connection_queue_bytes:
                self._unacknowledged = {}
        elif unread <= self.limits.connection_queue_bytes // 2:
            self._unacknowledged = None
            for stream_id, size in waiting.items():
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
                    call.abandon(Code.DEADLINE_EXCEEDED)
                elif deadline < earliest:
                    earliest = deadline
            self._next_deadline = earliest
        if now >= self.http2.wake_at:
            self.http2.wake(now)
            self.mark()

    def end_leaderless(self) -> None:
        """End the streams that require a leader: there is none (api/interceptors.py)."""
        for call in list(self.calls.values()):
            if call.needs_leader:
                call.cut_off(NO_LEADER)

    def drain(self) -> None:
        """Take no new calls; the connection is `closed` when the open ones are over."""
        self.http2.drain(self._clock())
        self.mark()

    def lost(self) -> None:
        """End every call, cancelled: the peer has gone."""
        calls = list(self.calls.values())
        self.calls.clear()
        self._paced.clear()
        self._paced_bytes = 0
        self._blocked.clear()
        self._without_room.clear()
        self._next_deadline = NEVER
        self.http2.finish()
        self.on_dirty = None
        for call in calls:
            if not call.closed:
                call.abandon(Code.CANCELED)
            call.forget()


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
