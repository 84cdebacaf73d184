"""What one connection may have queued, however many streams it has."""

from __future__ import annotations

from api.http2 import Limits
from tests.api.wire import LATER, STREAM, Wire

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


def unread_streams(count: int) -> Wire:
    """Return a client with streams that it does not read, each as full as it may be."""
    wire = Wire(reads=False)
    for _ in range(count):
        wire.open(STREAM)
    wire.exchange()
    for _ in range(10):
        for handler in wire.service.streams:
            while handler.call.writable:
                handler.call.send(b"x" * PIECE)
        wire.exchange()
    return wire


def upload(wire: Wire, messages: int) -> list[int]:
    """Send unary requests of 100 kB; return the bytes that the client could not send."""
    streams = [wire.open(LATER) for _ in range(messages)]
    for stream_id in streams:
        wire.send(stream_id, b"x" * 100_000, end=True)
        wire.exchange()
    return [left for each in streams if (left := wire.client.queued_body_size(each))]


def test_streams_that_are_not_read_hold_up_no_other_call_of_their_connection() -> None:
    wire = unread_streams(100)

    stuck = upload(wire, 60)
    room = [call.take_room(PIECE) for call, _ in wire.service.waiting for _ in range(10)]

    assert wire.server.http2.queued_body_size() > Limits().connection_queue_bytes
    assert not stuck
    assert room == [True] * 600


def test_streams_of_one_connection_share_what_may_be_queued() -> None:
    wire = unread_streams(1000)

    limits = Limits()
    pieces = 1000 * (PIECE + 5)  # a piece goes to whoever has nothing queued
    assert wire.server.http2.queued_body_size() < pieces + 2 * limits.connection_queue_bytes


def test_streams_that_have_ended_unread_hold_their_connection_up() -> None:
    wire = unread_streams(100)
    for handler in wire.service.streams:
        handler.call.finish()
    wire.exchange()

    assert upload(wire, 60)


def test_answers_that_ask_for_no_room_hold_their_connection_up() -> None:
    wire = unread_streams(10)
    for handler in wire.service.streams:
        handler.call.send(b"x" * 100 * PIECE)
    wire.exchange()

    assert upload(wire, 60)


def unread(wire: Wire, answers: int) -> int:
    """Make unary calls that are answered as far as there is room; return how many were."""
    for _ in range(answers):
        wire.call(LATER, b"")
    sent = 0
    for call, _ in wire.service.waiting:
        if call.take_room(PIECE):
            call.reply(b"x" * PIECE)
            sent += 1
            wire.exchange()
    return sent


def test_a_client_that_reads_nothing_has_a_bounded_number_of_answers_queued() -> None:
    wire = Wire(limits=Limits(connection_queue_bytes=10 * PIECE), reads=False)

    sent = unread(wire, 100)

    assert 10 < sent <= 24  # the bound twice, and what fits in the windows
    assert wire.server.http2.queued_body_size() < 22 * PIECE


def test_calls_without_room_are_told_when_the_client_has_read() -> None:
    wire = Wire(limits=Limits(connection_queue_bytes=10 * PIECE), reads=False)
    unread(wire, 100)
    (refused, *_) = (call for call, _ in wire.service.waiting if not call.closed)
    told: list[int] = []
    refused.on_drain = lambda: told.append(wire.server.http2.queued_body_size())

    for _ in range(100):
        for stream_id, answer in wire.answers.items():
            if answer.body:
                wire.client.acknowledge_received_data(len(answer.body), stream_id)
                answer.body = b""
        wire.exchange()

    assert len(told) == 1
    assert told[0] <= 5 * PIECE
    assert refused.take_room(PIECE)


def test_small_answers_need_not_wait_for_one_big_one() -> None:
    wire = Wire(limits=Limits(connection_queue_bytes=10 * PIECE), reads=False)
    for _ in range(2):
        wire.call(LATER, b"")
    (big, _), (small, _) = wire.service.waiting
    assert big.take_room(100 * PIECE)
    big.reply(b"x" * 100 * PIECE)

    assert small.take_room(PIECE)
