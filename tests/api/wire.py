"""A gRPC client without sockets, wired straight to a GrpcConnection, and a clock set by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ngh2 import Configuration, Connection, Role, events

from api.grpc import Call, GrpcConnection, Limits, Method

ECHO = b"/test.Echo/Echo"
LATER = b"/test.Echo/Later"
STREAM = b"/test.Echo/Stream"
LIST = b"/test.Echo/List"


class Clock:
    """Seconds, moved by tests."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A stream's handler that notes what it is told, and echoes messages."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.told: list[str | bytes] = []

    def on_message(self, message: bytes) -> None:
        self.told.append(message)
        self.call.send(message)

    def on_half_close(self) -> None:
        self.told.append("half-close")
        self.call.finish()

    def on_cancel(self) -> None:
        self.told.append("cancel")

    def on_drain(self) -> None:
        self.told.append("drain")


@dataclass
class Service:
    """An echo service: at once, later (calls wait in `waiting`), as a stream, as a list."""

    waiting: list[tuple[Call, bytes]] = field(default_factory=list)
    streams: list[Recorder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.methods: dict[bytes, Method] = {
            ECHO: Method.unary(lambda call, message: call.reply(message)),
            LATER: Method.unary(lambda call, message: self.waiting.append((call, message))),
            STREAM: Method.stream(self._opened),
            LIST: Method.server_stream(self._list),
        }

    def _opened(self, call: Call) -> Recorder:
        handler = Recorder(call)
        self.streams.append(handler)
        return handler

    def _list(self, call: Call, message: bytes) -> None:
        for byte in message:
            call.send(bytes([byte]))
        call.finish()


@dataclass
class Answer:
    """What a client has seen of one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None
    closed: bool = False

    @property
    def code(self) -> int:
        return int((self.trailers or self.headers)[b"grpc-status"])

    @property
    def text(self) -> str:
        return (self.trailers or self.headers)[b"grpc-message"].decode()

    @property
    def messages(self) -> list[bytes]:
        found = []
        rest = self.body
        while rest:
            assert rest[0] == 0
            size = int.from_bytes(rest[1:5], "big")
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


class Wire:
    """A client and a server connection back to back; `exchange` moves bytes until all is still."""

    def __init__(
        self,
        methods: Mapping[bytes, Method] | None = None,
        *,
        limits: Limits | None = None,
        reads: bool = True,
    ) -> None:
        self.clock = Clock()
        self.service = Service()
        self.server = GrpcConnection(
            self.service.methods if methods is None else methods,
            limits or Limits(),
            self.clock,
            peer="client:1",
        )
        self.client = Connection(
            Role.CLIENT,
            Configuration(peer_max_concurrent_streams=100_000, auto_window_update=reads),
        )
        self.answers: dict[int, Answer] = {}
        self.goaways: list[tuple[int, int, bytes]] = []
        self.client.initiate_connection()
        self.exchange()

    def exchange(self) -> None:
        """Move bytes both ways until there are none."""
        while True:
            up = self.client.data_to_send()
            if up:
                self.server.receive(up)
            down = self.server.data_to_send()
            if down and self.client.want_read:
                self.client.receive_data(down)
                self._see()
            if not up and not down:
                return

    def down(self) -> None:
        """Let the client see what the server has to send, and answer nothing."""
        self.client.receive_data(self.server.data_to_send())
        self._see()

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.server.receive(data)

    def _see(self) -> None:
        for event in self.client.events():
            if isinstance(event, events.ResponseReceived):
                self.answers[event.stream_id].headers = dict(event.headers)
            elif isinstance(event, events.DataReceived):
                self.answers[event.stream_id].body += event.data
            elif isinstance(event, events.TrailersReceived):
                self.answers[event.stream_id].trailers = dict(event.headers)
            elif isinstance(event, events.StreamReset):
                self.answers[event.stream_id].reset = event.error_code
            elif isinstance(event, events.StreamClosed):
                self.answers[event.stream_id].closed = True
            elif isinstance(event, events.GoAwayReceived):
                goaway = (event.last_stream_id, event.error_code, event.debug_data)
                self.goaways.append(goaway)

    def open(self, path: bytes, *extra: tuple[bytes, bytes], **replaced: bytes) -> int:
        """Start a request; keyword arguments replace :method, :path and content_type."""
        stream_id = self.client.send_request(
            (
                (b":method", replaced.get("method", b"POST")),
                (b":scheme", b"http"),
                (b":path", path),
                (b":authority", b"localhost"),
                (b"content-type", replaced.get("content_type", b"application/grpc")),
                (b"te", b"trailers"),
                *extra,
            )
        )
        self.answers[stream_id] = Answer()
        return stream_id

    def send(self, stream_id: int, *messages: bytes, end: bool = False) -> None:
        """Send messages on a stream, each in its frame."""
        self.client.send_data(stream_id, b"".join(map(frame, messages)), end_stream=end)

    def call(self, path: bytes, message: bytes, *extra: tuple[bytes, bytes]) -> Answer:
        """Make a unary call and exchange until all is still."""
        stream_id = self.open(path, *extra)
        self.send(stream_id, message, end=True)
        self.exchange()
        return self.answers[stream_id]


def frame(message: bytes, flag: int = 0) -> bytes:
    """Put gRPC's prefix before a message."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def http2_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Write one HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big")
    return head + payload
