"""Read indexes that gateways have asked for and raft has not answered.

All gateways' reads of a turn share one read index. Its context is random once per process and then
counted, so that no answer is ever taken for another's (etcd #20418).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

READS_ASKED_MAX: Final = 1000


class ReadsAsked:
    """See the module docstring. Invariant: at most READS_ASKED_MAX rounds are remembered."""

    def __init__(self) -> None:
        self._prefix = random.SystemRandom().randbytes(8)
        self._counter = 0
        self.new: dict[str, int] = {}
        """Reads that have no round yet: gateway and its newest id."""
        self._asked: dict[bytes, dict[str, int]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def note(self, gateway: str, read_id: int) -> None:
        """Note one gateway's reads; its newest id of a turn stands for all before it."""
        self.new[gateway] = read_id

    def round(self) -> bytes | None:
        """Return the context of one read index for all that is new; None if nothing is.

        Without a leader nobody answers: the oldest round is forgotten in the end, as its gateway
        asks again.
        """
        if not self.new:
            return None
        self._counter += 1
        context = self._prefix + self._counter.to_bytes(8, "big")
        self._asked[context], self.new = self.new, {}
        if len(self._asked) > READS_ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        return context

    def answered(self, context: bytes) -> Mapping[str, int]:
        """Return who waits for a context: gateway and read id.

        An index confirmed for it is as good for all that was asked before it, whose answers may
        have been lost with a leader.
        """
        asked: dict[str, int] = {}
        if context in self._asked:
            for older in list(self._asked):
                asked |= self._asked.pop(older)
                if older == context:
                    break
        return asked
