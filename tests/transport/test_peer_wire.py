"""Frames between members: what is packed comes out again, and nothing else is taken for one."""

from __future__ import annotations

import random

import pytest

from transport.lanes import Lane
from transport.peer_wire import (
    HEADER,
    PROTOCOL_VERSION,
    Probe,
    Standing,
    decode_header,
    decode_payloads,
    decode_probe,
    encode_frame,
    pack_version,
    unpack_version,
)

ROUTE = (0xC1, 1, 2, (1 << 64) - 1)


@pytest.mark.parametrize("payloads", [[b"a"], [b""], [b"", b"xy", b"z" * 100_000], []])
def test_a_frame_comes_apart_into_what_it_was_made_of(payloads: list[bytes]) -> None:
    frame = encode_frame(Lane.APPEND, ROUTE, 7, payloads)

    header = decode_header(frame)

    assert header is not None
    assert header.version == PROTOCOL_VERSION
    assert header[2:] == (Lane.APPEND, len(payloads), *ROUTE, 7)
    assert decode_payloads(frame, header.payload_count) == payloads


def test_bytes_that_are_no_frame_have_no_header() -> None:
    assert decode_header(b"") is None
    assert decode_header(b"GET / HTTP/1.1\r\n\r\n" * 10) is None
    assert decode_header(encode_frame(0, ROUTE, 1, [])[: HEADER.size - 1]) is None


@pytest.mark.parametrize("payloads", [[b"abc"], [b"abc", b"de"]])
def test_lengths_that_do_not_add_up_give_no_payloads(payloads: list[bytes]) -> None:
    frame = encode_frame(0, ROUTE, 1, payloads)

    assert decode_payloads(frame[:-1], len(payloads)) is None
    assert decode_payloads(frame + b"x", len(payloads)) is None
    assert decode_payloads(frame, 0xFFFF_FFFF) is None


def test_damaged_frames_never_raise() -> None:
    chance = random.Random(1)
    whole = encode_frame(0, ROUTE, 1, [b"abc", b"", b"defg"])
    for _ in range(2000):
        damaged = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        header = decode_header(bytes(damaged))
        if header is not None:
            payloads = decode_payloads(bytes(damaged), header.payload_count)
            assert payloads is None or len(payloads) == header.payload_count


def test_a_newer_peers_longer_probe_is_understood_and_a_short_one_is_not() -> None:
    probe = Probe(1 << 63, 0x030701, 0x030700, Standing.BOOTSTRAPPED)
    body = probe.encode()

    assert decode_probe(body + b"more") == probe
    assert decode_probe(body[:16]) == probe._replace(standing=Standing.UNKNOWN)  # of an older one
    assert decode_probe(body[:15]) is None


def test_packed_versions_sort_as_versions_do() -> None:
    assert unpack_version(pack_version("3.7.1")) == "3.7.1"
    assert unpack_version(0) == ""
    assert pack_version("3.10.0") > pack_version("3.9.200") > pack_version("2.200.0")
