"""Protobuf's variable-length integers, for what is encoded by hand."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Encode an integer of up to 64 bits; a negative one as two's complement."""
    if value < 0:
        value += 1 << 64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
