"""HTTP/2: keep-alive, floods and the two steps of a graceful end."""

from __future__ import annotations

import random
import resource

import pytest

from api.grpc import GrpcConnection, Limits
from api.http2 import DRAIN_NOTICE_TIMEOUT, PREFACE, Bucket, Http2Connection
from tests.api.wire import ECHO, LATER, STREAM, Clock, Wire, http2_frame

ENHANCE_YOUR_CALM = 11


def last_goaway(data: bytes) -> tuple[int, bytes]:
    """Return code and text of the GOAWAY frame that ends these frames."""
    found = None
    while data:
        size = int.from_bytes(data[:3], "big")
        if data[3] == 7:
            found = (int.from_bytes(data[13:17], "big"), data[17 : 9 + size])
        data = data[9 + size :]
    assert found is not None
    return found


def flood(wire: Wire, data: bytes, times: int) -> int:
    """Send `data` again and again until the server has enough; return how often."""
    for sent in range(times):
        wire.raw(data)
        if wire.server.closed:
            return sent
        wire.server.data_to_send()
    return times


def test_clients_get_the_descriptors_that_are_left_after_the_processs_own() -> None:
    limits = Limits(connections_max=1000)

    assert limits.within(310, sixteenths=14).connections_max == 140
    assert limits.within(310, sixteenths=1).connections_max == 10
    assert limits.within(100, sixteenths=14).connections_max == 1
    assert limits.within(1 << 20, sixteenths=14).connections_max == 1000
    assert limits.within(resource.RLIM_INFINITY, sixteenths=14) == limits


def test_settings_carry_the_limits() -> None:
    wire = Wire(limits=Limits(concurrent_streams=7, stream_window=100_000))

    assert wire.client.remote_settings[3] == 7
    assert wire.client.remote_settings[4] == 100_000


def test_streams_are_unlimited_unless_configured() -> None:
    assert Wire().client.remote_settings[3] > 2**31


def test_limits_come_from_etcds_flags() -> None:
    limits = Limits.of(
        {
            "max_request_bytes": 1000,
            "max_concurrent_streams": 5,
            "grpc_keepalive_min_time_seconds": 1.5,
            "grpc_keepalive_interval_seconds": 0,
            "name": "m1",
        }
    )

    assert limits.message_bytes_max == 1000 + 512 * 1024
    assert limits.concurrent_streams == 5
    assert limits.keepalive_min_time == 1.5
    assert limits.keepalive_interval == float("inf")
    assert limits.keepalive_timeout == 20.0


def test_a_stream_above_the_limit_is_refused_and_the_others_go_on() -> None:
    wire = Wire(limits=Limits(concurrent_streams=2))
    client_does_not_know = b"".join(
        http2_frame(1, 4, stream_id, header_block()) for stream_id in (1, 3, 5)
    )

    wire.raw(client_does_not_know)

    assert wire.server.busy == 2
    assert not wire.server.closed


def header_block() -> bytes:
    """Return an HPACK block without indexing: a POST of LATER."""
    block = b"\x83\x86"  # :method POST, :scheme http
    for name, value in (
        (b":path", LATER),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
    ):
        block += b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    return block


def test_a_client_that_sends_nothing_after_the_preface_is_let_go() -> None:
    clock = Clock()
    connection = GrpcConnection({}, Limits(handshake_timeout=5), clock)
    connection.receive(PREFACE)
    connection.data_to_send()

    clock.now += 5
    connection.wake(clock.now)

    assert connection.closed


def test_the_server_pings_an_idle_connection_and_keeps_it_when_answered() -> None:
    wire = Wire(limits=Limits(keepalive_interval=10, keepalive_timeout=2))
    assert wire.server.wake_at == wire.clock.now + 10

    wire.clock.now += 10
    wire.server.wake(wire.clock.now)
    assert wire.server.wake_at == wire.clock.now + 2
    wire.clock.now += 1
    wire.exchange()
    wire.clock.now += 1
    wire.server.wake(wire.clock.now)

    assert not wire.server.closed
    assert wire.server.wake_at == wire.clock.now - 1 + 10


def test_the_server_closes_a_connection_that_answers_no_ping() -> None:
    wire = Wire(limits=Limits(keepalive_interval=10, keepalive_timeout=2))

    wire.clock.now += 10
    wire.server.wake(wire.clock.now)
    wire.server.data_to_send()
    wire.clock.now += 2
    wire.server.wake(wire.clock.now)

    assert wire.server.closed


def test_a_keepalive_that_is_due_is_sent_however_sums_are_rounded() -> None:
    limits = Limits(keepalive_interval=10.1)
    chance = random.Random(1)

    for _ in range(1000):
        connection = Http2Connection(limits, 0.0)
        connection.settled = True
        connection.last_read = chance.uniform(1e3, 1e7)
        connection.wake_at = due = connection.last_read + 10.1
        connection.wake(due)

        assert connection.wake_at > due


def test_a_keepalive_that_is_due_ends_a_connection_whose_peer_has_said_goodbye() -> None:
    wire = Wire(limits=Limits(keepalive_interval=10))
    wire.raw(http2_frame(7, 0, 0, bytes(8)))

    wire.clock.now += 10
    wire.server.wake(wire.clock.now)

    assert wire.server.closed


def test_traffic_puts_the_keepalive_off() -> None:
    wire = Wire(limits=Limits(keepalive_interval=10))

    wire.clock.now += 9
    wire.call(ECHO, b"")
    wire.clock.now += 1
    wire.server.wake(wire.clock.now)

    assert not wire.server.data_to_send()
    assert wire.server.wake_at == wire.clock.now + 9


def test_too_many_pings_end_the_connection_as_grpc_go_does() -> None:
    wire = Wire()
    wire.open(STREAM)
    wire.exchange()
    ping = http2_frame(6, 0, 0, b"12345678")

    wire.raw(ping)
    wire.server.data_to_send()
    for _ in range(3):
        assert not wire.server.closed
        wire.clock.now += 1
        wire.raw(ping)

    assert wire.server.closed
    assert last_goaway(wire.server.data_to_send()) == (ENHANCE_YOUR_CALM, b"too_many_pings")


def test_pings_at_the_allowed_pace_are_answered_for_ever() -> None:
    wire = Wire()
    wire.open(STREAM)
    wire.exchange()

    for _ in range(50):
        wire.clock.now += 5
        wire.client.ping(b"12345678")
        wire.exchange()

    assert not wire.server.closed


def test_pings_between_the_parts_of_a_big_answer_are_forgiven() -> None:
    wire = Wire()
    wire.send(wire.open(ECHO), bytes(500_000), end=True)

    parts = 0
    while up := wire.client.data_to_send():
        wire.server.receive(up)
        while down := wire.server.data_to_send():
            wire.client.receive_data(down)
            wire.client.events()
            if len(down) > 10_000:
                wire.client.ping(b"12345678")
                parts += 1

    assert parts > 5
    assert not wire.server.closed


def test_pings_between_answers_are_forgiven() -> None:
    wire = Wire()

    for _ in range(50):
        wire.call(ECHO, b"")
        wire.client.ping(b"12345678")
        wire.exchange()

    assert not wire.server.closed


def test_pings_without_a_call_are_not_permitted() -> None:
    wire = Wire()

    for _ in range(5):
        wire.clock.now += 10
        wire.client.ping(b"12345678")
        wire.server.receive(wire.client.data_to_send())

    assert wire.server.closed


def test_clients_that_cancel_every_call_are_served() -> None:
    wire = Wire()

    for _ in range(5000):
        stream_id = wire.open(LATER)
        wire.send(stream_id, b"x", end=True)
        data = wire.client.data_to_send()
        wire.client.reset_stream(stream_id)
        wire.raw(data + wire.client.data_to_send())
    wire.exchange()

    assert not wire.server.closed
    assert wire.server.busy == 0
    assert wire.call(ECHO, b"ok").messages == [b"ok"]


def test_rapid_reset_ends_the_connection() -> None:
    wire = Wire(limits=Limits(resets=(100, 1)))
    sent = b""

    for _ in range(300):
        stream_id = wire.open(LATER)
        data = wire.client.data_to_send()
        wire.client.reset_stream(stream_id)
        wire.raw(data + wire.client.data_to_send())
        sent += wire.server.data_to_send()
        if wire.server.closed:
            break
    else:
        pytest.fail("300 resets were taken")

    assert last_goaway(sent)[0] != 0


def test_a_settings_flood_ends_the_connection() -> None:
    wire = Wire()

    assert flood(wire, http2_frame(4, 0, 0), 1000) < 200
    assert last_goaway(wire.server.data_to_send()) == (ENHANCE_YOUR_CALM, b"too_many_settings")


def test_a_settings_flood_in_one_read_ends_the_connection() -> None:
    wire = Wire()

    wire.raw(http2_frame(4, 0, 0) * 10_000)

    assert wire.server.closed


def test_a_ping_flood_ends_the_connection() -> None:
    wire = Wire()

    wire.call(ECHO, b"")  # an answer forgives one ping, not all that follow

    assert flood(wire, http2_frame(6, 0, 0, b"12345678"), 1000) < 10


def test_a_flood_of_empty_frames_ends_the_connection() -> None:
    wire = Wire()
    stream_id = wire.open(STREAM)
    wire.exchange()

    assert flood(wire, http2_frame(0, 0, stream_id), 5000) < 1100
    assert last_goaway(wire.server.data_to_send()) == (
        ENHANCE_YOUR_CALM,
        b"too_many_empty_frames",
    )


def test_a_continuation_flood_ends_the_connection() -> None:
    wire = Wire()

    wire.raw(http2_frame(1, 0, 1, header_block()) + http2_frame(9, 0, 1, b"") * 100)

    assert wire.server.closed
    code, text = last_goaway(wire.server.data_to_send())
    assert code == ENHANCE_YOUR_CALM
    assert b"CONTINUATION" in text


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x%d" % i, b"v") for i in range(2000)],
        [(b"x%d" % i, b"v" * 4000) for i in range(12)],
    ],
)
def test_a_header_bomb_ends_the_connection(headers: list[tuple[bytes, bytes]]) -> None:
    wire = Wire(limits=Limits(continuations_max=1000, header_list_bytes_max=40_000))

    wire.open(ECHO, *headers)
    wire.raw(wire.client.data_to_send())

    assert wire.server.closed
    assert last_goaway(wire.server.data_to_send())[0] == ENHANCE_YOUR_CALM


def test_a_header_bomb_by_hpack_references_ends_the_connection() -> None:
    wire = Wire()
    entry = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"v" * 4000  # indexed: 4,000 bytes for one byte
    block = header_block() + entry + b"\xbe" * 8000

    wire.raw(http2_frame(1, 4, 1, block))

    assert wire.server.closed


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 100,
        http2_frame(4, 0, 0, b"abcd"),
        http2_frame(0, 0, 1, b"x"),
        http2_frame(1, 4, 2, b""),
        http2_frame(1, 4, 1, b"\xff\xff\xff\xff\xff"),
        http2_frame(6, 0, 0, b"short"),
        http2_frame(8, 0, 0, b"\0\0\0\0"),
        PREFACE,
    ],
)
def test_garbage_ends_the_connection_with_a_goaway(data: bytes) -> None:
    wire = Wire()

    wire.raw(data)

    assert last_goaway(wire.server.data_to_send())[0] != 0
    assert not wire.server.data_to_send()
    assert wire.server.closed
    wire.raw(data)  # what still arrives is not looked at
    assert not wire.server.data_to_send()


def test_calls_of_a_failed_connection_are_cancelled_when_it_is_lost() -> None:
    wire = Wire()
    wire.call(LATER, b"")
    call = wire.service.waiting[0][0]

    wire.raw(b"\xff" * 100)
    call.reply(b"x")  # the stream has gone with its connection
    wire.server.data_to_send()
    wire.server.lost()

    assert wire.server.closed
    assert call.closed


def test_a_drain_lets_open_calls_end_and_then_closes() -> None:
    wire = Wire()
    answer = wire.call(LATER, b"x")

    wire.server.drain()
    wire.exchange()

    assert [goaway[:2] for goaway in wire.goaways] == [(2**31 - 1, 0), (1, 0)]
    assert not wire.server.closed
    call, message = wire.service.waiting[0]
    call.reply(message)
    wire.exchange()
    assert answer.messages == [b"x"]
    assert wire.server.closed


def test_a_request_sent_before_the_notice_arrived_is_served() -> None:
    wire = Wire()
    wire.server.drain()

    answer = wire.call(ECHO, b"just in time")

    assert answer.messages == [b"just in time"]
    assert wire.server.closed


def test_a_drain_does_not_wait_for_a_client_that_is_silent() -> None:
    wire = Wire()

    wire.server.drain()
    wire.server.data_to_send()
    assert not wire.server.closed
    wire.clock.now += DRAIN_NOTICE_TIMEOUT
    wire.server.wake(wire.clock.now)
    wire.server.data_to_send()

    assert wire.server.closed


@pytest.mark.parametrize("seed", range(20))
def test_any_damage_to_a_clients_bytes_ends_in_order(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        wire = Wire()
        for _ in range(8):
            path = chance.choice((ECHO, LATER, STREAM))
            stream_id = wire.open(path, (b"grpc-timeout", b"1S"))
            wire.send(stream_id, b"x" * chance.randrange(300), end=chance.random() < 0.7)
        data = bytearray(wire.client.data_to_send())
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)

        offset = 0
        while offset < len(data) and not wire.server.closed:
            size = chance.randrange(1, 500)
            wire.raw(bytes(data[offset : offset + size]))
            wire.server.data_to_send()
            offset += size
        for call, message in wire.service.waiting:
            call.reply(message)
        wire.clock.now += 30
        wire.server.wake(wire.clock.now)
        wire.server.data_to_send()
        wire.server.lost()

        assert wire.server.busy == 0
        assert all(call.closed for call, _ in wire.service.waiting)
        assert all(stream.call.closed for stream in wire.service.streams)


def test_a_bucket_refills_at_its_rate() -> None:
    bucket = Bucket((3, 2))

    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
