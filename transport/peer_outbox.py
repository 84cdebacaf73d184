"""What waits for a connection to a peer: bounded in bytes and in time, the oldest is dropped.

A message that is older than an election timeout is of no use to raft and may harm: what it asks
for has been asked again. So nothing waits longer, neither for a connection nor for room in it.

Invariants: `waiting_bytes` is the sum of what waits and never above `bytes_max`, but for one that
waits alone; entries leave in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

ENTRY_BYTES: Final = 128
"""What an entry costs beside its payload, so that empty payloads are bounded too."""


class Outbox:
    """Payloads of one connection, oldest first. `seconds_max` is how long one may wait."""

    def __init__(self, bytes_max: int, seconds_max: float) -> None:
        self._entries: deque[tuple[float, int, bytes]] = deque()
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, at: float, lane: int, payload: bytes) -> list[int]:
        """Add a payload that may leave from `at` (monotonic seconds) on.

        Returns the lanes of what was dropped for it. One that is bigger than all room is taken
        alone: a leader whose log holds it could send nothing else ever.
        """
        size = len(payload) + ENTRY_BYTES
        self._entries.append((at, lane, payload))
        self.waiting_bytes += size
        dropped: list[int] = []
        while self.waiting_bytes > self._bytes_max and len(self._entries) > 1:
            dropped.append(self._drop())
        return dropped

    def expire(self, now: float) -> list[int]:
        """Drop what has waited too long; return the lanes of it."""
        dropped: list[int] = []
        entries = self._entries
        while entries and entries[0][0] + self._seconds_max < now:
            dropped.append(self._drop())
        return dropped

    def clear(self) -> list[int]:
        """Drop everything; return the lanes of it."""
        dropped = [lane for _, lane, _ in self._entries]
        self._entries.clear()
        self.waiting_bytes = 0
        return dropped

    def head(self, now: float, bytes_max: int) -> tuple[int, list[bytes]]:
        """Return (lane, payloads) of what may leave next in one frame; no payloads if nothing.

        All are of one lane and together at most `bytes_max`, unless the first alone is more.
        """
        payloads: list[bytes] = []
        first_lane, size = 0, 0
        for at, lane, payload in self._entries:
            if not payloads:
                first_lane = lane
            size += len(payload)
            if at > now or lane != first_lane or (payloads and size > bytes_max):
                break
            payloads.append(payload)
        return first_lane, payloads

    def remove(self, payloads: Iterable[bytes]) -> None:
        """Take away what `head` returned: it has left."""
        for payload in payloads:
            _, _, gone = self._entries.popleft()
            assert gone is payload, "the outbox changed while a frame of it was sent"
            self.waiting_bytes -= len(gone) + ENTRY_BYTES
        assert self.waiting_bytes >= 0

    def next_due(self) -> float | None:
        """When the oldest entry may leave; None if there is none."""
        return self._entries[0][0] if self._entries else None

    def _drop(self) -> int:
        _, lane, payload = self._entries.popleft()
        self.waiting_bytes -= len(payload) + ENTRY_BYTES
        return lane
