"""The sliding window of MsgApps that a follower has not acknowledged yet."""

from __future__ import annotations

from collections import deque

from raft.errors import InvariantError
from raft.size import NO_LIMIT


class Inflights:
    """Messages under way, each by the index of its last entry and its bytes.

    Invariants:
    - count <= max_messages.
    - Indexes ascend.
    - bytes is the sum over the window; a single message may pass max_bytes, none is added after.
    """

    __slots__ = ("_window", "bytes", "max_bytes", "max_messages")

    def __init__(self, max_messages: int, max_bytes: int = NO_LIMIT) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes or NO_LIMIT
        self.bytes = 0
        self._window: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._window)

    def full(self) -> bool:
        """Tell whether nothing more may be sent."""
        return len(self._window) >= self.max_messages or self.bytes >= self.max_bytes

    def add(self, index: int, size: int) -> None:
        """Note a message sent: its last entry is at `index`, it has `size` bytes of data."""
        if self.full():
            raise InvariantError("cannot add into a Full inflights")
        if self._window and self._window[-1][0] > index:
            raise InvariantError(f"inflight {index} is sent after {self._window[-1][0]}")
        self._window.append((index, size))
        self.bytes += size

    def free_le(self, index: int) -> None:
        """Drop all messages up to `index`: they have arrived."""
        window = self._window
        while window and window[0][0] <= index:
            self.bytes -= window.popleft()[1]

    def reset(self) -> None:
        """Forget all."""
        self._window.clear()
        self.bytes = 0

    def clone(self) -> Inflights:
        """Return a copy, for a status."""
        copy = Inflights(self.max_messages, self.max_bytes)
        copy.bytes = self.bytes
        copy._window.extend(self._window)
        return copy
