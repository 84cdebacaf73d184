"""One frame between two members: a header that says who speaks to whom, then payloads unread.

    magic(2) version(1) lane(1) count(4) cluster(8) from(8) to(8) session(8) counter(8)
    count lengths of 4 bytes, then the payloads one after another

All numbers are little-endian. `session` is drawn at random by each process that sends, `counter`
grows by one with every frame of a connection: so a receiver tells frames of a dead process or an
abandoned connection from new ones, and sees what was lost. A frame is one ZeroMQ message of one
part: MAXMSGSIZE bounds a part, and nothing bounds the number of parts.

The lanes of transport.lanes carry payloads of actors; PING and PONG carry a Probe of the transport
itself, on the connection of heartbeats. A PONG also tells how who has asked stands.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

MAGIC: Final = b"tp"
PROTOCOL_VERSION: Final = 1
HEADER: Final = struct.Struct("<2sBBIQQQQQ")
PING: Final = 254
PONG: Final = 255
CONNECTION_OF_LANE: Final = {0: 0, 1: 1, 2: 2, 3: 0, PING: 0, PONG: 0}
"""Which of a link's connections carries a lane; see transport.lanes.Lane."""
_LENGTH_BYTES: Final = 4
_PROBE: Final = struct.Struct("<QIII")
_PROBE_BYTES_MIN: Final = 16  # without the standing


class Reason(IntEnum):
    """Why something that came in at the peer port was rejected. Append-only: words of the board."""

    MALFORMED = 0
    VERSION = 1
    CLUSTER = 2
    RECEIVER = 3
    SENDER = 4
    KEY = 5
    STALE = 6
    HANDSHAKE = 7
    KEY_UNKNOWN = 8


class Standing(IntEnum):
    """How a member stands with a peer: BOOTSTRAPPED has told its client URLs once."""

    UNKNOWN = 0
    NEW = 1
    BOOTSTRAPPED = 2


class Header(NamedTuple):
    """What a frame says of itself, see the module docstring."""

    magic: bytes
    version: int
    lane: int
    payload_count: int
    cluster_id: int
    sender: int
    receiver: int
    session: int
    counter: int


class Probe(NamedTuple):
    """Body of PING and PONG. `sent_ns` is the asking member's clock; versions are packed.

    `standing` is that of whom it is sent to.
    """

    sent_ns: int
    version: int
    cluster_version: int
    standing: int = Standing.UNKNOWN

    def encode(self) -> bytes:
        """Return the body."""
        return _PROBE.pack(*self)


def decode_probe(body: bytes) -> Probe | None:
    """Return a Probe; None if it is too short. What a newer peer adds is ignored."""
    if len(body) < _PROBE_BYTES_MIN:
        return None
    return Probe(*_PROBE.unpack_from(body.ljust(_PROBE.size, b"\0")))


def encode_frame(
    lane: int, route: tuple[int, int, int, int], counter: int, payloads: Sequence[bytes]
) -> bytes:
    """Return a frame; `route` is (cluster id, from, to, session)."""
    count = len(payloads)
    header = HEADER.pack(MAGIC, PROTOCOL_VERSION, lane, count, *route, counter)
    table = struct.pack(f"<{count}I", *map(len, payloads))
    return b"".join((header, table, *payloads))


def frame_bytes(payload_bytes: int, count: int) -> int:
    """Return the size of a frame of `count` payloads that are `payload_bytes` together."""
    return HEADER.size + count * _LENGTH_BYTES + payload_bytes


def decode_header(frame: bytes) -> Header | None:
    """Return the header; None if these bytes are no frame of any version."""
    if len(frame) < HEADER.size or frame[:2] != MAGIC:
        return None
    return Header(*HEADER.unpack_from(frame))


def decode_payloads(frame: bytes, count: int) -> list[bytes] | None:
    """Return the payloads; None if lengths and frame don't agree."""
    start = HEADER.size + count * _LENGTH_BYTES
    if start > len(frame):
        return None
    if count == 1:
        return [frame[start:]] if frame[HEADER.size : start] == _length(frame, start) else None
    lengths = struct.unpack_from(f"<{count}I", frame, HEADER.size)
    if start + sum(lengths) != len(frame):
        return None
    payloads = []
    for length in lengths:
        payloads.append(frame[start : start + length])
        start += length
    return payloads


def _length(frame: bytes, start: int) -> bytes:
    return (len(frame) - start).to_bytes(_LENGTH_BYTES, "little")


def pack_version(text: str) -> int:
    """Return "3.7.1" as major << 16 | minor << 8 | patch."""
    major, minor, patch = (int(part) for part in text.split("."))
    return major << 16 | minor << 8 | patch


def unpack_version(packed: int) -> str:
    """Return a packed version as text; "" for 0, which is unknown."""
    if not packed:
        return ""
    return f"{packed >> 16}.{packed >> 8 & 0xFF}.{packed & 0xFF}"
