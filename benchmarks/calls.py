"""gRPC calls of any kind on one HTTP/2 connection, an answer at a time: for clients that take part.

Slower than the load generator's connection, which only counts. A call has a function that is
called with each message that comes for it and the time of the read it came with.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from google.protobuf.message import Message
from ngh2 import Configuration, Connection, Role
from ngh2.enums import Setting
from ngh2.events import DataReceived, ResponseReceived, StreamClosed, TrailersReceived

from benchmarks.payloads import frame, headers

Answered: TypeAlias = Callable[[bytes, float], None]
_PREFIX: Final = struct.Struct(">BI")
_STATUS: Final = b"grpc-status"


class CallsError(Exception):
    """A call ended with another status than OK, or the connection was lost."""


class Calls(asyncio.Protocol):
    """One connection. `error` is why it is of no more use, None as long as all went well."""

    def __init__(self, authority: str) -> None:
        self.error: CallsError | None = None
        self.closing = False
        engine = Connection(Role.CLIENT, Configuration(peer_max_concurrent_streams=4096))
        engine.initiate_connection({Setting.INITIAL_WINDOW_SIZE: 4 << 20, Setting.ENABLE_PUSH: 0})
        engine.set_local_window_size(16 << 20)
        self._engine = engine
        self._authority = authority
        self._answered: dict[int, Answered] = {}
        self._rest: dict[int, bytes] = {}
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the loss, unless it was us who closed it."""
        if not self.closing:
            self.error = self.error or CallsError(f"connection lost: {exc}")

    def close(self) -> None:
        """Close the connection."""
        self.closing = True
        if self._transport is not None:
            self._transport.close()

    def open(self, path: str, answered: Answered) -> int:
        """Begin a call and return its stream; `flush` sends it."""
        stream: int = self._engine.send_request(headers(path, self._authority))
        self._answered[stream] = answered
        self._rest[stream] = b""
        return stream

    def send(self, stream: int, message: Message, *, end: bool = False) -> None:
        """Queue a message of a call; `flush` sends it."""
        self._engine.send_data(stream, frame(message.SerializeToString()), end_stream=end)

    def unary(self, path: str, message: Message, answered: Answered) -> None:
        """Queue a whole call with one message."""
        self.send(self.open(path, answered), message, end=True)

    def flush(self) -> None:
        """Write what the engine has to say."""
        data = self._engine.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Hand out the messages that have come, and forget calls that ended."""
        self._engine.receive_data(data)
        now = time.monotonic()
        for event in self._engine.events():
            if isinstance(event, DataReceived):
                self._take(event.stream_id, event.data, now)
            elif isinstance(event, ResponseReceived | TrailersReceived):
                self._look(dict(event.headers))
            elif isinstance(event, StreamClosed):
                self._answered.pop(event.stream_id, None)
                self._rest.pop(event.stream_id, None)
                if event.error_code:
                    self.error = CallsError(f"stream ended with HTTP/2 error {event.error_code}")
        self.flush()

    def _take(self, stream: int, data: bytes, now: float) -> None:
        whole = self._rest[stream] + data
        answered = self._answered[stream]
        place = 0
        while len(whole) - place >= _PREFIX.size:
            begin = place + _PREFIX.size
            end = begin + _PREFIX.unpack_from(whole, place)[1]
            if end > len(whole):
                break
            answered(whole[begin:end], now)
            place = end
        self._rest[stream] = whole[place:]

    def _look(self, fields: dict[bytes, bytes]) -> None:
        status = fields.get(_STATUS, b"0")
        if status != b"0":
            text = fields.get(b"grpc-message", b"").decode()
            self.error = CallsError(f"{status.decode()} {text}".strip())


async def connect(endpoint: str, count: int) -> list[Calls]:
    """Open connections."""
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, calls = await loop.create_connection(lambda: Calls(endpoint), host, int(port))
        made.append(calls)
    return made


def check(connections: list[Calls]) -> None:
    """Raise the CallsError of the first connection that has one."""
    for each in connections:
        if each.error is not None:
            raise each.error
