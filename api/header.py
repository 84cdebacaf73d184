"""ResponseHeader as bytes, ready to stand before a response's body.

A serialised protobuf message is the concatenation of its fields, so header (field 1 of every
response) and body are joined without parsing either.
"""

from __future__ import annotations

from raft.varint import varint


class HeaderWriter:
    """Writes the header field for one member."""

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._prefix = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id)
        self._term = 0
        self._suffix = b""
        self._revision = -1
        self._cached = b""
        self.term = 0

    def __call__(self, revision: int) -> bytes:
        """Return field 1 of a response: ids, `revision` (0 leaves it out) and `self.term`."""
        if revision == self._revision and self.term == self._term:
            return self._cached
        if self.term != self._term:
            self._term = self.term
            self._suffix = b"\x20" + varint(self.term) if self.term else b""
        middle = b"\x18" + varint(revision) if revision else b""
        size = len(self._prefix) + len(middle) + len(self._suffix)
        assert size < 0x80
        self._revision = revision
        self._cached = b"\x0a" + bytes((size,)) + self._prefix + middle + self._suffix
        return self._cached
