"""Requests as the bytes that go on the wire, built before the clock starts.

A request is `(headers, body)`: the header list of its gRPC method and one length-prefixed message.
Keys have a fixed width, so a message is made once, by protobuf, and the others are that message
with another key in the same place.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

from etcdpb import rpc_pb2

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Request: TypeAlias = tuple[Headers, bytes]

PUT_PATH: Final = "/etcdserverpb.KV/Put"
RANGE_PATH: Final = "/etcdserverpb.KV/Range"
COMPACT_PATH: Final = "/etcdserverpb.KV/Compact"
OPS: Final = ("put", "range", "serializable", "mixed", "fill")
MIXED_RANGES_PER_PUT: Final = 4
_GRPC_PREFIX: Final = struct.Struct(">BI")
_KEY_DIGITS: Final = 10
_KEY_PREFIX: Final = b"/benchmark/"


def headers(path: str, authority: str) -> Headers:
    """Return the request headers of a unary gRPC call, as a gRPC client sends them."""
    return (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )


def frame(message: bytes) -> bytes:
    """Return a gRPC message: not compressed, its length, itself."""
    return _GRPC_PREFIX.pack(0, len(message)) + message


def key(number: int) -> bytes:
    """Return the key of this number; all keys have the same width and sort by their number."""
    return _KEY_PREFIX + b"%0*d" % (_KEY_DIGITS, number)


def value(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def put_body(number: int, value_bytes: int) -> bytes:
    """Return the framed PutRequest of key `number`."""
    message = rpc_pb2.PutRequest(key=key(number), value=value(value_bytes))
    return frame(message.SerializeToString())


def range_body(number: int, *, serializable: bool = False) -> bytes:
    """Return the framed RangeRequest of key `number` alone."""
    message = rpc_pb2.RangeRequest(key=key(number), serializable=serializable)
    return frame(message.SerializeToString())


def _around_key(body: bytes) -> tuple[bytes, bytes]:
    """Split a body built for key 0 at that key; any key of the same width fits between."""
    head, separator, tail = body.partition(key(0))
    if not separator:
        raise AssertionError("the body does not hold the key of number 0")
    return head, tail


def _bodies(template: bytes, keys: int) -> list[bytes]:
    head, tail = _around_key(template)
    return [head + key(number) + tail for number in range(keys)]


def requests(
    op: str, *, authority: str, keys: int, value_bytes: int = 256, seed: int = 1
) -> Iterator[Request]:
    """Return the endless requests of one operation over `keys` keys.

    `fill` puts the keys in ascending order, each once a round; the others take random keys, with
    replacement. `mixed` is MIXED_RANGES_PER_PUT linearizable ranges for each put.
    Raises ValueError for an operation that is not in OPS.
    """
    put_headers = headers(PUT_PATH, authority)
    range_headers = headers(RANGE_PATH, authority)
    if op == "fill":
        head, tail = _around_key(put_body(0, value_bytes))
        return ((put_headers, head + key(number) + tail) for number in itertools.cycle(range(keys)))
    chance = random.Random(seed)
    puts: list[Request] = []
    ranges: list[Request] = []
    if op in ("put", "mixed"):
        puts = [(put_headers, body) for body in _bodies(put_body(0, value_bytes), keys)]
    if op in ("range", "serializable", "mixed"):
        template = range_body(0, serializable=op == "serializable")
        ranges = [(range_headers, body) for body in _bodies(template, keys)]
    if op == "mixed":
        chosen = chance.choices(puts, k=keys) + chance.choices(
            ranges, k=keys * MIXED_RANGES_PER_PUT
        )
        chance.shuffle(chosen)
        return itertools.cycle(chosen)
    if puts or ranges:
        return itertools.cycle(chance.choices(puts or ranges, k=max(keys, 10_000)))
    raise ValueError(f"unknown operation {op!r}")
