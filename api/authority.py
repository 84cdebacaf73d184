"""Requests whose `:authority` the engine refuses and Go's servers do not, made acceptable.

libnghttp2 holds the field to RFC 3986; grpc-go never looks at it. So clients that put more than a
host there work with etcd: an endpoint with a slash at its end, the path of a Unix socket, the
`#initially=[…]` of clientv3 3.5.0, nothing at all. trouped does not read the field either.

A connection's first request decides, for a client has one authority a connection:

1. The engine takes it, as nearly always: from then on nothing is looked at.
2. It does not: every header block of the connection is decoded, the field percent-encoded, and
   the block encoded anew. Such a client pays some 100 us a request.

What else is wrong with a frame is left to the engine's judgement.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote_from_bytes

from hpack import Decoder, Encoder, HPACKError

__all__ = ["AuthorityScreen", "acceptable"]

AUTHORITY: Final = b":authority"
UNNAMED: Final = b"localhost"  # what a request that names nobody is given
# What libnghttp2 takes besides letters, digits and `_.-~`. Its `%` begins an escape in ours.
DELIMITERS: Final = "!$&'()*+,:;=@[]"
FRAME_BYTES_MAX: Final = 16384  # the server leaves SETTINGS_MAX_FRAME_SIZE as it is
_FRAME: Final = struct.Struct(">BHBBI")  # length (its high byte, the others), type, flags, stream
_HEADERS: Final = 1
_CONTINUATION: Final = 9
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_PRIORITY: Final = 0x20
_BROKEN_BLOCK: Final = b"\x80"  # index 0 of the tables: the engine ends the connection

Field = tuple[bytes, bytes]


class AuthorityScreen:
    """Stands between the bytes of a connection and its engine, until `done`.

    `prelude_bytes` come before the first frame. Holds a frame or a header block at most: of
    `continuations_max` CONTINUATION frames and `header_bytes_max` bytes once decoded.
    """

    __slots__ = (
        "_at",
        "_block",
        "_continuations",
        "_continuations_max",
        "_decoder",
        "_encoder",
        "_flags",
        "_held",
        "_prelude",
        "_stream_id",
        "done",
    )

    def __init__(
        self, *, prelude_bytes: int, header_bytes_max: int, continuations_max: int
    ) -> None:
        self.done = False
        self._prelude = prelude_bytes
        self._continuations_max = continuations_max
        self._decoder = Decoder(max_header_list_size=header_bytes_max)
        self._encoder: Encoder | None = None  # from the first field on that had to be changed
        self._held = bytearray()  # what the engine has not seen
        self._at = 0  # of the next frame in it; the frames before are of an open header block
        self._block = b""
        self._flags = self._stream_id = 0  # of the HEADERS frame that opened the block
        self._continuations = -1  # none: no header block is open

    def screen(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return what the engine is to see now that these bytes have come."""
        held = self._held
        held += data
        seen = bytearray()
        if self._prelude:
            seen += held[: self._prelude]
            del held[: self._prelude]
            self._prelude -= len(seen)
        start = 0
        while not self.done and len(held) >= self._at + _FRAME.size:
            high, low, kind, flags, stream_id = _FRAME.unpack_from(held, self._at)
            payload = self._at + _FRAME.size
            end = payload + (high << 16 | low)
            if end - payload > FRAME_BYTES_MAX:
                seen += self._give_up(held[start:], stream_id)
                start = len(held)
            elif end > len(held):
                break
            elif self._continuations < 0 and kind != _HEADERS:
                self._at = end
                seen += held[start:end]
                start = end
            elif not self._append(kind, flags, stream_id, held[payload:end]):
                seen += self._give_up(held[start:], stream_id)
                start = len(held)
            else:
                self._at = end
                if flags & _END_HEADERS:
                    seen += self._close(held[start:end], stream_id)
                    start = end
        if self.done:
            seen += held[start:]
            start = len(held)
        del held[:start]
        self._at -= start
        return bytes(seen)

    def _append(self, kind: int, flags: int, stream_id: int, payload: bytearray) -> bool:
        """Take a frame as the next part of a header block; False when it can't be one."""
        if self._continuations < 0:
            if flags & _PADDED:
                if not payload or payload[0] >= len(payload):
                    return False
                payload = payload[1 : len(payload) - payload[0]]
            if flags & _PRIORITY:
                if len(payload) < 5:
                    return False
                del payload[:5]
            self._block = bytes(payload)
            self._flags = flags
            self._stream_id = stream_id
        elif (
            kind == _CONTINUATION
            and stream_id == self._stream_id
            and self._continuations < self._continuations_max
        ):
            self._block += payload
        else:
            return False
        self._continuations += 1
        return True

    def _close(self, frames: bytearray, stream_id: int) -> bytes | bytearray:
        """Return the frames of a whole header block, changed or not."""
        block, self._block = self._block, b""
        self._continuations = -1
        try:
            fields: list[Field] = list(self._decoder.decode(block, raw=True))
        except HPACKError:
            return self._give_up(frames, stream_id)
        accepted = acceptable(fields)
        if self._encoder is None:
            if accepted == fields:
                self.done = True
                return frames
            self._encoder = Encoder()
        return _frames(stream_id, self._flags & _END_STREAM, self._encoder.encode(accepted))

    def _give_up(self, frames: bytearray, stream_id: int) -> bytes | bytearray:
        """Let the engine judge what is broken, by the frames if its tables are still the peer's."""
        self.done = True
        return frames if self._encoder is None else _frames(stream_id, 0, _BROKEN_BLOCK)


def acceptable(fields: Sequence[Field]) -> list[Field]:
    """Return a request's fields with an authority that the engine takes; trailers as they are.

    Control characters stay, and are refused as Go's servers refuse them.
    """
    accepted = [
        (name, _quote(value)) if name == AUTHORITY else (name, value) for name, value in fields
    ]
    names = [name for name, _ in fields]
    if b":method" in names and AUTHORITY not in names:
        accepted.insert(0, (AUTHORITY, UNNAMED))
    return accepted


def _quote(value: bytes) -> bytes:
    if not value:
        return UNNAMED
    if min(value) < 0x20 or 0x7F in value:
        return value
    return quote_from_bytes(value, DELIMITERS).encode()


def _frames(stream_id: int, end_stream: int, block: bytes) -> bytes:
    """Return a header block as HEADERS and, where it is too long for one, CONTINUATION."""
    cuts = range(0, max(len(block), 1), FRAME_BYTES_MAX)
    frames = b""
    for at in cuts:
        part = block[at : at + FRAME_BYTES_MAX]
        flags = (0 if at else end_stream) | (_END_HEADERS if at == cuts[-1] else 0)
        kind = _CONTINUATION if at else _HEADERS
        frames += _FRAME.pack(len(part) >> 16, len(part) & 0xFFFF, kind, flags, stream_id) + part
    return frames
