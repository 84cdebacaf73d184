"""gRPC's encodings: length-prefixed messages, time-outs, percent-encoded texts.

Pure functions and one small reader; gRPC's "PROTOCOL-HTTP2" document is the source, grpc-go's
texts are used where a client sees them.
"""

from __future__ import annotations

import zlib
from typing import Final

from kv.errors import Code

_UNITS: Final = {
    ord("H"): 3600.0,
    ord("M"): 60.0,
    ord("S"): 1.0,
    ord("m"): 1e-3,
    ord("u"): 1e-6,
    ord("n"): 1e-9,
}
_PIECE_BYTES_MIN: Final = 1024
"""Smaller parts of a message are copied together: each that is kept costs 300 bytes more."""
_PRINTABLE: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


class FrameError(Exception):
    """A request's bytes are no messages of ours; `code` and the text answer the call."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class FrameReader:
    """Cuts one call's request bytes into messages; a message's bytes are joined once.

    `held` is how many bytes of an unfinished message wait here, `whole` the messages of a unary
    request that waits for the end of its stream.
    """

    __slots__ = ("_chunks", "_flag", "_head", "_length", "_limit", "held", "whole")

    def __init__(self, message_bytes_max: int) -> None:
        self._limit = message_bytes_max
        self._head = b""
        self._flag = 0
        self._length = -1  # of the message under way; -1 while its prefix is
        self._chunks: list[memoryview | bytearray] = []
        self.held = 0
        self.whole: list[bytes] = []

    @property
    def size(self) -> int:
        """Bytes that wait here."""
        return self.held + sum(map(len, self.whole))

    @property
    def broken_off(self) -> bool:
        """Whether part of a message has come without its rest."""
        return bool(self._head) or self._length >= 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the messages that `data` completes, with their compressed-flags.

        FrameError: the message is larger than the limit, or its flag is unknown.
        """
        messages: list[tuple[int, bytes]] = []
        view = memoryview(data)
        offset = 0
        end = len(data)
        while True:
            if self._length < 0:
                offset = self._read_prefix(data, offset)
                if self._length < 0:
                    return messages
            take = min(self._length - self.held, end - offset)
            piece = view[offset : offset + take]
            offset += take
            if self.held + take < self._length:
                if take:
                    self._keep(piece)
                    self.held += take
                return messages
            message = b"".join((*self._chunks, piece)) if self._chunks else bytes(piece)
            messages.append((self._flag, message))
            self._chunks.clear()
            self.held = 0
            self._length = -1
            if offset == end:
                return messages

    def _keep(self, piece: memoryview) -> None:
        chunks = self._chunks
        if len(piece) >= _PIECE_BYTES_MIN:
            chunks.append(piece)
        elif chunks and type(chunks[-1]) is bytearray:
            chunks[-1] += piece
        else:
            chunks.append(bytearray(piece))

    def _read_prefix(self, data: bytes, offset: int) -> int:
        """Read as much of the 5-byte prefix as there is; return where the payload starts."""
        missing = 5 - len(self._head)
        head = self._head + data[offset : offset + missing]
        if len(head) < 5:
            self._head = head
            return len(data)
        self._head = b""
        flag = head[0]
        length = int.from_bytes(head[1:], "big")
        if flag > 1:
            raise FrameError(Code.INTERNAL, f"grpc: received unexpected payload format {flag}")
        if length > self._limit:
            raise FrameError(
                Code.RESOURCE_EXHAUSTED,
                f"grpc: received message larger than max ({length} vs. {self._limit})",
            )
        self._flag = flag
        self._length = length
        return offset + missing


def decompress(message: bytes, flag: int, encoding: bytes, limit: int) -> bytes:
    """Undo a message's compression: none or gzip, up to `limit` bytes.

    FrameError: an encoding we lack (UNIMPLEMENTED), bad data, or more than `limit` bytes.
    """
    if not flag:
        return message
    if encoding == b"identity":
        raise FrameError(Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
    if encoding != b"gzip":
        name = encoding.decode("latin-1")
        raise FrameError(
            Code.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
        )
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(message, limit + 1)
    except zlib.error as error:
        text = f"grpc: failed to decompress the received message: {error}"
        raise FrameError(Code.INTERNAL, text) from error
    if len(plain) > limit:
        raise FrameError(
            Code.RESOURCE_EXHAUSTED,
            f"grpc: received message after decompression larger than max {limit}",
        )
    if not inflater.eof:
        raise FrameError(
            Code.INTERNAL, "grpc: failed to decompress the received message: unexpected EOF"
        )
    return plain


def parse_timeout(value: bytes) -> float | None:
    """Return the seconds of a grpc-timeout such as b"200m"; None when it is malformed."""
    unit = _UNITS.get(value[-1]) if 2 <= len(value) <= 9 else None
    digits = value[:-1]
    if unit is None or not digits.isdigit():
        return None
    return int(digits) * unit


def percent_encode(text: str) -> bytes:
    """Encode a status text for grpc-message: printable ASCII but `%` stays as it is."""
    raw = text.encode()
    if _PRINTABLE.issuperset(raw):
        return raw
    return b"".join(b"%c" % byte if byte in _PRINTABLE else b"%%%02X" % byte for byte in raw)
