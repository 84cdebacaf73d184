"""How large a response may become, counted alike by every member.

A message of protobuf ends at 2 GiB, and memory mostly before. What all members carry out must not
fail on one of them: so the size that is refused is counted from what was found, which is the same
everywhere. What the request writes is written all the same, as by etcd, where sending the response
fails. The large responses of an entry together are bounded likewise (machine.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kv.store import KV

RESPONSE_BYTES_MAX: Final = 512 << 20
ROW_BYTES: Final = 64
"""What a KeyValue takes at most besides its key and its value."""


class Tally:
    """Of one response: what may still be added to it."""

    __slots__ = ("_left",)

    def __init__(self, limit: int | None = None) -> None:
        """`limit` is in bytes, RESPONSE_BYTES_MAX without one."""
        self._left = RESPONSE_BYTES_MAX if limit is None else limit

    @property
    def is_over(self) -> bool:
        """Whether it has become too large: nothing more is to be collected for it."""
        return self._left < 0

    def takes(self, rows: Sequence[KV], *, keys_only: bool = False) -> bool:
        """Count rows; False if the response is too large with them."""
        values = 0 if keys_only else sum([len(row[1]) for row in rows])
        self._left -= sum([len(row[0]) for row in rows]) + values + ROW_BYTES * len(rows)
        return self._left >= 0
