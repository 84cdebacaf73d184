"""How large entries count, and how a run of entries is cut to a size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raft.state import Entry

NO_LIMIT: Final = (1 << 64) - 1


def entry_size(entry: Entry) -> int:
    """Bytes of the entry as raftpb would encode it: what limits and windows count."""
    # A number takes a byte for each seven bits, and 0 takes one.
    size = (
        2 + ((entry.term.bit_length() + 6) // 7 or 1) + ((entry.index.bit_length() + 6) // 7 or 1)
    )
    if entry.type:
        size += 2
    if length := len(entry.data):
        size += 1 + (length.bit_length() + 6) // 7 + length
    return size


def entries_size(entries: Sequence[Entry]) -> int:
    """Sum of entry_size."""
    return sum(map(entry_size, entries))


def payload_size(entries: Sequence[Entry]) -> int:
    """Bytes of data only: what the uncommitted tail of the log and flow control count."""
    size = 0
    for entry in entries:
        size += len(entry.data)
    return size


def limit_size(entries: tuple[Entry, ...], max_size: int) -> tuple[Entry, ...]:
    """Return the longest prefix within `max_size` bytes, but at least one entry if there is one."""
    if max_size >= NO_LIMIT or len(entries) <= 1:
        return entries
    size = entry_size(entries[0])
    for count in range(1, len(entries)):
        size += entry_size(entries[count])
        if size > max_size:
            return entries[:count]
    return entries
