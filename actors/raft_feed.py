"""What the raft node gives its applier: entries, pulled, from wherever the applier stands.

Invariants: entries are sent in order, each once per stream; those beyond what may be applied only
ahead of an only voter's own fdatasync; bytes outstanding stay below APPLY_BYTES_MAX and one batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from actors.messages import Apply, CommittedTo, InstallSnapshot
from raft.messages import MsgStorageApply, MsgStorageApplyResp
from raft.state import Entry
from raft.storage import MemoryStorage

APPLY_BYTES_MAX: Final = 16 << 20
TELL_SECONDS: Final = 0.02  # a sync that took too long for it was told of at once
UNHURRIED_SECONDS: Final = 0.02
UNHURRIED_ENTRIES_MAX: Final = 1000


class Feed:
    """See the module docstring."""

    def __init__(
        self,
        storage: MemoryStorage,
        send: Callable[[object, int], bool],
        is_open: Callable[[], bool],
    ) -> None:
        """`send(message, items)` sends to the applier; `is_open()` tells if its stream is."""
        self._storage = storage
        self._send = send
        self._is_open = is_open
        self.may_apply = 0
        """Everything up to here is committed and durable."""
        self.sent_index = 0
        self.outstanding_bytes = 0
        self._outstanding: deque[tuple[int, int]] = deque()
        self._responses: deque[tuple[int, MsgStorageApplyResp]] = deque()
        self._told = 0
        self._tell_at: float | None = None
        self._pulled_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether the applier has nothing to do."""
        return not self._outstanding

    def start(self, have: int) -> None:
        """A stream opens: the applier has everything up to `have`."""
        self._outstanding.clear()
        self.outstanding_bytes = 0
        self.sent_index = self._told = have

    def _install(self) -> None:
        """The log begins behind the applier: have it switch to the snapshot's file."""
        metadata = self._storage.snapshot().metadata
        self.may_apply = max(self.may_apply, metadata.index)
        self.start(metadata.index)
        self._send(InstallSnapshot(metadata.index, metadata.term), 0)

    def allow(self, order: MsgStorageApply) -> None:
        """More is committed and durable; the order is answered when it is applied."""
        self.may_apply = max(self.may_apply, order.entries[-1].index)
        (response,) = order.responses
        self._responses.append((order.entries[-1].index, response))

    def applied(self, index: int) -> list[MsgStorageApplyResp]:
        """The database holds everything up to `index`: return the answers that are due."""
        while self._outstanding and self._outstanding[0][0] <= index:
            self.outstanding_bytes -= self._outstanding.popleft()[1]
        due = []
        while self._responses and self._responses[0][0] <= index:
            due.append(self._responses.popleft()[1])
        return due

    def pull(self, now: float, *, hurry: bool) -> float:
        """Send what may be applied, as far as the applier's credit goes.

        Where nobody waits for it (`hurry`), many batches may go as one; returns when to call again.
        """
        if not self._is_open():
            return inf
        if self.sent_index < self._storage.first_index() - 1:
            self._install()
        may_apply = self.may_apply
        if self.sent_index >= may_apply:
            return inf
        due = self._pulled_at + UNHURRIED_SECONDS
        if not hurry and now < due and may_apply - self.sent_index <= UNHURRIED_ENTRIES_MAX:
            return due
        self._pulled_at = now
        while self.sent_index < may_apply and self.outstanding_bytes < APPLY_BYTES_MAX:
            first = self.sent_index + 1
            self.send_entries(self._storage.entries(first, may_apply + 1, APPLY_BYTES_MAX))
        return inf

    def send_entries(self, entries: Sequence[Entry]) -> None:
        """Send entries that follow those sent before."""
        datas = [entry.data for entry in entries]
        size = sum(map(len, datas))
        terms = [entry.term for entry in entries]
        kinds = [int(entry.type) for entry in entries]
        apply = Apply(self.may_apply, entries[0].index, terms, kinds, datas)
        sent = self._send(apply, len(entries))
        assert sent, "the edge to the applier is full, though its bytes are bounded"
        self.sent_index = entries[-1].index
        self._told = min(self.may_apply, self.sent_index)
        self._outstanding.append((self.sent_index, size))
        self.outstanding_bytes += size

    # --- what was sent ahead of its commit -------------------------------------------------------

    def tell_committed(self, *, watched: bool) -> float | None:
        """Tell the applier that what it holds is durable; return when to call `tell_late`.

        `watched` says that the applier looks at the board for it, so that a message is sent only
        if that was in vain.
        """
        if self._told >= min(self.may_apply, self.sent_index):
            return None
        if watched:
            if self._tell_at is None:
                self._tell_at = time.monotonic() + TELL_SECONDS
            return self._tell_at
        self._tell(self._told)
        return None

    def tell_late(self, now: float, applied: int) -> None:
        """Tell what the applier has not seen by itself."""
        if self._tell_at is not None and now >= self._tell_at:
            self._tell(applied)

    def remind(self) -> None:
        """Somebody asks again for what the applier was sent: a message lost on the way is a gap.

        Only what comes after the last message shows a gap, and nothing else may come.
        """
        if self._outstanding:
            self._send(CommittedTo(min(self.may_apply, self.sent_index)), 0)

    def _tell(self, applied: int) -> None:
        self._tell_at = None
        self._told = min(self.may_apply, self.sent_index)
        if applied < self._told:
            self._send(CommittedTo(self._told), 0)
