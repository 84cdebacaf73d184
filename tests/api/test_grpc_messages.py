"""Messages of a call: their size, their compression, their number."""

from __future__ import annotations

import gzip
import tracemalloc
from itertools import pairwise

import pytest

from api.grpc import Limits
from api.grpc_frames import FrameReader
from tests.api.wire import ECHO, Wire, frame


def test_a_message_over_the_limit_is_refused_with_etcds_text() -> None:
    wire = Wire(limits=Limits(message_bytes_max=1000))

    answer = wire.call(ECHO, b"x" * 1001)

    assert answer.code == 8
    assert answer.text == "grpc: received message larger than max (1001 vs. 1000)"
    assert wire.call(ECHO, b"x" * 1000).code == 0


def test_a_message_over_the_limit_is_refused_before_it_has_come() -> None:
    wire = Wire(limits=Limits(message_bytes_max=1000))
    stream_id = wire.open(ECHO)
    wire.client.send_data(stream_id, b"\0\xff\xff\xff\xff")
    wire.exchange()

    assert wire.answers[stream_id].code == 8
    assert wire.answers[stream_id].reset == 0


def test_unfinished_messages_of_a_connection_are_bounded() -> None:
    wire = Wire(limits=Limits(assembly_bytes_max=2500))
    streams = [wire.open(ECHO) for _ in range(3)]
    for stream_id in streams:
        wire.client.send_data(stream_id, b"\0\0\0\x10\0" + b"x" * 1000)
    wire.exchange()
    refused = [s for s in streams if wire.answers[s].headers]
    assert len(refused) == 1
    assert wire.answers[refused[0]].code == 8

    stream_id = wire.open(ECHO)
    wire.client.send_data(stream_id, b"\0\0\0\x10\0" + b"x" * 100)
    wire.exchange()
    assert not wire.answers[stream_id].headers


def test_a_message_is_the_same_in_whatever_pieces_it_comes() -> None:
    message = bytes(range(256)) * 100
    data = frame(message)

    for size in (1, 7, 1000, 1024, 5000, 30_000):
        reader = FrameReader(100_000)
        cuts = [0, *range(3, len(data), size), len(data)]
        pieces = [data[start:end] for start, end in pairwise(cuts)]
        pieces[1:1] = [b""]
        found = [each for piece in pieces for each in reader.feed(piece)]
        assert found == [(0, message)]


def test_a_message_in_many_small_pieces_takes_little_more_than_its_bytes() -> None:
    reader = FrameReader(1 << 20)
    reader.feed(b"\0\0\x10\0\0")
    tracemalloc.start()

    for _ in range(50_000):
        reader.feed(b"x")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert reader.held == 50_000
    assert taken < 100_000


def test_whole_messages_that_wait_for_the_end_of_their_streams_are_bounded_too() -> None:
    wire = Wire(limits=Limits(assembly_bytes_max=250_000))
    packed = frame(gzip.compress(bytes(100_000)), 1)
    streams = [wire.open(ECHO, (b"grpc-encoding", b"gzip")) for _ in range(4)]
    for stream_id in streams:
        wire.client.send_data(stream_id, packed)
    wire.exchange()
    refused = [s for s in streams if wire.answers[s].headers]
    assert [wire.answers[s].code for s in refused] == [8, 8]

    for stream_id in set(streams) - set(refused):
        wire.client.send_data(stream_id, b"", end_stream=True)
    wire.exchange()
    again = [wire.open(ECHO, (b"grpc-encoding", b"gzip")) for _ in range(2)]
    for stream_id in again:
        wire.client.send_data(stream_id, packed, end_stream=True)
    wire.exchange()
    assert [len(wire.answers[s].messages[0]) for s in again] == [100_000] * 2


def test_gzip_is_understood() -> None:
    wire = Wire()
    stream_id = wire.open(ECHO, (b"grpc-encoding", b"gzip"))
    wire.client.send_data(stream_id, frame(gzip.compress(b"z" * 500), 1), end_stream=True)
    wire.exchange()

    assert wire.answers[stream_id].messages == [b"z" * 500]


@pytest.mark.parametrize(
    ("encoding", "data", "code", "text"),
    [
        (b"snappy", b"x", 12, 'grpc: Decompressor is not installed for grpc-encoding "snappy"'),
        (b"identity", b"x", 13, "grpc: compressed flag set with identity or empty encoding"),
        (b"gzip", b"x", 13, "grpc: failed to decompress the received message"),
        (b"gzip", gzip.compress(b"z" * 99)[:-4], 13, "grpc: failed to decompress"),
        (b"gzip", gzip.compress(b"z" * 5000), 8, "after decompression larger than max 1000"),
    ],
)
def test_bad_compression_is_refused(encoding: bytes, data: bytes, code: int, text: str) -> None:
    wire = Wire(limits=Limits(message_bytes_max=1000))
    stream_id = wire.open(ECHO, (b"grpc-encoding", encoding))
    wire.client.send_data(stream_id, frame(data, 1), end_stream=True)
    wire.exchange()

    assert wire.answers[stream_id].code == code
    assert text in wire.answers[stream_id].text


def test_an_unknown_flag_is_refused() -> None:
    wire = Wire()
    stream_id = wire.open(ECHO)
    wire.client.send_data(stream_id, frame(b"x", 7), end_stream=True)
    wire.exchange()

    assert wire.answers[stream_id].text == "grpc: received unexpected payload format 7"


@pytest.mark.parametrize("data", [b"", frame(b"a") + frame(b"b"), frame(b"abc")[:-1]])
def test_a_unary_request_is_one_whole_message(data: bytes) -> None:
    wire = Wire()
    stream_id = wire.open(ECHO)
    wire.client.send_data(stream_id, data, end_stream=True)
    wire.exchange()

    assert wire.answers[stream_id].code == 13
    assert not wire.answers[stream_id].body
