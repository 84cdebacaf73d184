"""What one connection may have queued, however many streams it has."""

from __future__ import annotations

from api.http2 import Limits
from tests.api.wire import STREAM, Wire

PIECE = 50_000


def test_a_crowded_connection_lets_each_stream_queue_one_message_more() -> None:
    limits = Limits(stream_queue_bytes=4 * PIECE, connection_queue_bytes=20 * PIECE)
    wire = Wire(limits=limits, reads=False)
    streams = [wire.open(STREAM) for _ in range(30)]
    wire.exchange()
    calls = [handler.call for handler in wire.service.streams]

    for _ in range(10):
        for call in calls:
            if call.writable:
                call.send(b"x" * PIECE)
        wire.exchange()

    assert len(streams) == len(calls)
    assert wire.server.http2.queued_body_size() < (20 + 30 + 1) * (PIECE + 5)
    assert not any(call.writable for call in calls)


def test_it_goes_on_when_the_client_has_read() -> None:
    limits = Limits(stream_queue_bytes=4 * PIECE, connection_queue_bytes=2 * PIECE)
    wire = Wire(limits=limits)
    stream_id = wire.open(STREAM)
    wire.exchange()
    (handler,) = wire.service.streams
    while handler.call.writable:
        handler.call.send(b"x" * PIECE)
    wire.send(stream_id)

    wire.exchange()

    assert handler.told[-1] == "drain"
    assert handler.call.writable
