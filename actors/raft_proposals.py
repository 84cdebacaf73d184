"""Batches that wait to be proposed: until the end of the turn, or while nobody leads."""

from __future__ import annotations

from typing import Final, Protocol

from actors.raft_copies import Copies
from raft.errors import ProposalDroppedError

WAITING_BYTES_MAX: Final = 64 << 20
PORTION_BYTES_MAX: Final = 4 << 20


class Proposer(Protocol):
    """What is asked of raft.raw_node.RawNode."""

    def propose(self, datas: list[bytes], /) -> None:
        """Append one entry for each, all or none. Raises ProposalDroppedError."""


class Proposals:
    """Batches in the order they came.

    They are proposed in portions: a follower forwards each as one message, and a transport drops
    what is longer than a frame.
    """

    def __init__(self) -> None:
        self._batches: list[bytes] = []

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def size(self) -> int:
        """Bytes of all batches."""
        return sum(map(len, self._batches))

    def add(self, batch: bytes, *, urgent: bool = False) -> None:
        """Take one batch; an urgent one goes before all others."""
        self._batches.insert(0 if urgent else len(self._batches), batch)

    def leave_out(self, copies: Copies) -> None:
        """Forget what the leader's log holds already."""
        self._batches = copies.left_out(self._batches)

    def propose(self, proposer: Proposer) -> int:
        """Propose all; what can't be proposed now waits as far as there is room.

        Returns how many were dropped for lack of it.
        """
        while self._batches:
            portion = self._portion()
            try:
                proposer.propose(portion)
            except ProposalDroppedError:
                if self.size <= WAITING_BYTES_MAX:
                    return 0
                dropped, self._batches = len(self._batches), []
                return dropped
            del self._batches[: len(portion)]
        return 0

    def _portion(self) -> list[bytes]:
        """Return the first batches, one at least."""
        size = 0
        for place, batch in enumerate(self._batches):
            size += len(batch)
            if size > PORTION_BYTES_MAX and place:
                return self._batches[:place]
        return self._batches[:]
