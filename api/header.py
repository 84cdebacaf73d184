"""ResponseHeader as bytes, ready to stand before a response's body.

A serialised protobuf message is the concatenation of its fields, so header (field 1 of every
response) and body are joined without parsing either.
"""

from __future__ import annotations

from typing import Final

from raft.varint import varint

_LOWEST: Final = [bytes((bits | 0x80,)) for bits in range(0x80)]
"""The first byte of a varint that has more than one, by its seven bits."""


class HeaderWriter:
    """Writes the header field for one member."""

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._prefix = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id)
        self._term = -1
        self._upper = -1
        self._before = self._after = b""
        self.term = 0

    def __call__(self, revision: int) -> bytes:
        """Return field 1 of a response: ids, `revision` (0 leaves it out) and `self.term`."""
        # Revisions follow each other: mostly only the lowest seven bits are new.
        upper = revision >> 7
        if upper == self._upper and self.term == self._term:
            return self._before + _LOWEST[revision & 0x7F] + self._after
        suffix = b"\x20" + varint(self.term) if self.term else b""
        if upper <= 0:
            middle = b"\x18" + varint(revision) if revision else b""
            return self._begun(len(middle) + len(suffix)) + middle + suffix
        self._upper, self._term = upper, self.term
        self._after = varint(upper) + suffix
        self._before = self._begun(2 + len(self._after)) + b"\x18"
        return self(revision)

    def _begun(self, size: int) -> bytes:
        """Return the field up to its ids; `size` more bytes follow."""
        size += len(self._prefix)
        assert size < 0x80
        return b"\x0a" + bytes((size,)) + self._prefix
