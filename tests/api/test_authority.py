"""Authorities that only Go's servers take, and bytes of which nothing may be lost on the way."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hpack import Decoder, Encoder

from api.authority import FRAME_BYTES_MAX, AuthorityScreen, acceptable
from api.grpc import Limits
from api.http2 import PREFACE
from tests.api.test_http2 import last_goaway
from tests.api.wire import ECHO, Wire, frame, http2_frame

SETTINGS = http2_frame(4, 0, 0)
ODD = (
    b"10.0.0.1:2379/",
    b"#initially=[http://a:1;http://b:2]",
    b"/run/e.sock",
    b'a"\xc3\xa9',
    b"a%",
    b"",
)


def fields(authority: bytes | None) -> list[tuple[bytes, bytes]]:
    """Return a request's fields."""
    named = [] if authority is None else [(b":authority", authority)]
    head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", ECHO), *named]
    return [*head, (b"content-type", b"application/grpc"), (b"te", b"trailers")]


def call(block: bytes, stream_id: int, *, cut: int = 0, padding: int = 0) -> bytes:
    """Write a unary call: HEADERS, if `cut` a CONTINUATION, DATA."""
    first, rest = (block[:cut], block[cut:]) if cut else (block, b"")
    flags = (0 if rest else 4) | (8 if padding else 0) | 0x20
    first = b"\0\0\0\0\x10" + first + bytes(padding)
    if padding:
        first = bytes([padding]) + first
    body = http2_frame(1, flags, stream_id, first)
    if rest:
        body += http2_frame(9, 4, stream_id, rest)
    return body + http2_frame(0, 1, stream_id, frame(b"%d" % stream_id))


def screen() -> AuthorityScreen:
    limits = Limits()
    return AuthorityScreen(
        prelude_bytes=len(PREFACE),
        header_bytes_max=limits.header_list_bytes_max,
        continuations_max=limits.continuations_max,
    )


def pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def answered(wire: Wire) -> list[bytes]:
    """Return the messages that the server has sent, in order."""
    data, found = wire.server.data_to_send(), []
    while data:
        size = int.from_bytes(data[:3], "big")
        if data[3] == 0 and size:
            found.append(data[14 : 9 + size])
        data = data[9 + size :]
    return found


@pytest.mark.parametrize("authority", [*ODD, None])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_client_is_served_whatever_it_calls_the_server(
    authority: bytes | None, size: int
) -> None:
    encoder = Encoder()  # one for all calls: the second refers to what the first had in its table
    wire = Wire()
    calls = [
        call(encoder.encode(fields(authority)), stream_id, cut=cut, padding=padding)
        for stream_id, cut, padding in ((3, 0, 0), (5, 3, 0), (7, 0, 9), (9, 2, 1))
    ]

    for piece in pieces(b"".join(calls), size):
        wire.raw(piece)

    assert answered(wire) == [b"3", b"5", b"7", b"9"]
    assert not wire.server.closed


def test_a_legal_request_ends_the_screening_and_nothing_is_changed() -> None:
    block = Encoder().encode(fields(b"user@[::1]:2379"))
    data = PREFACE + SETTINGS + call(block, 1, padding=3) + SETTINGS[:5]
    for size in range(1, 80):
        looked = screen()

        assert b"".join(map(looked.screen, pieces(data, size))) == data
        assert looked.done


def test_trailers_get_no_authority() -> None:
    trailers = [(b"grpc-status", b"0")]

    assert acceptable(trailers) == trailers


def test_control_characters_are_refused_as_by_go() -> None:
    wire = Wire()

    wire.raw(call(Encoder().encode(fields(b"a/\nb")), 1))

    assert answered(wire) == []


def test_long_headers_are_cut_into_frames_again() -> None:
    looked = screen()
    long = (b"x", random.Random(1).randbytes(30_000))
    block = Encoder().encode([*fields(b"a/"), long], huffman=False)
    frames = http2_frame(1, 0, 1, block[:FRAME_BYTES_MAX])
    frames += http2_frame(9, 4, 1, block[FRAME_BYTES_MAX:])

    seen = looked.screen(PREFACE + frames)[len(PREFACE) :]

    block, kinds = b"", []
    while seen:
        size = int.from_bytes(seen[:3], "big")
        kinds.append((seen[3], seen[4]))
        block += seen[9 : 9 + size]
        seen = seen[9 + size :]
    assert (kinds[0], kinds[-1]) == ((1, 0), (9, 4))
    assert Decoder().decode(block, raw=True) == [*fields(b"a%2F"), long]


@pytest.mark.parametrize(
    "broken",
    [
        http2_frame(1, 4, 3, b"\x80"),
        http2_frame(1, 4 | 8, 3, b"\x09abc"),
        http2_frame(1, 4 | 0x20, 3, b"abc"),
        http2_frame(1, 0, 3, b"\x83") + SETTINGS,
        http2_frame(1, 0, 3, b"\x83") + http2_frame(9, 4, 5, b"\x83"),
        http2_frame(1, 0, 3, b"\x83") + 20 * http2_frame(9, 0, 3, b"\x83"),
        http2_frame(1, 0, 3, bytes(FRAME_BYTES_MAX + 1)),
    ],
    ids=["block", "padding", "priority", "between", "stream", "continuations", "size"],
)
@pytest.mark.parametrize("authority", [b"a", b"a/"])
def test_what_is_broken_ends_the_connection(authority: bytes, broken: bytes) -> None:
    wire = Wire()
    wire.raw(call(Encoder().encode(fields(authority)), 1))
    assert answered(wire) == [b"1"]

    wire.raw(broken)

    code, _ = last_goaway(wire.server.data_to_send())
    assert code != 0
    assert wire.server.closed


@pytest.mark.parametrize("first", [b"a/", b"a"])
def test_any_bytes_end_alike_however_they_are_cut(first: bytes) -> None:
    chance = random.Random(7)
    encoder = Encoder()
    good = SETTINGS + b"".join(call(encoder.encode(fields(first)), n) for n in (1, 3))
    ended = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        whole, cut = Wire(), Wire()

        whole.raw(bytes(data))
        for piece in pieces(bytes(data), chance.randint(1, 50)):
            cut.raw(piece)

        assert answered(cut) == answered(whole)
        assert cut.server.closed == whole.server.closed
        ended += whole.server.closed
    assert 0 < ended < 300
