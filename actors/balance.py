"""Which gateway takes new clients: one listening socket is shared, and the kernel is not fair.

A gateway with clearly more connections than the least loaded living one leaves new clients to the
others (RULES B5). The least loaded one that lives always accepts, so nobody waits for long; a
frozen or dead gateway is not counted, so nobody waits for it.
"""

from __future__ import annotations

from typing import Final

from actors.metrics import GatewayMetric
from transport.counters import Board, Cell, State

SLACK_CONNECTIONS: Final = 4
SLACK_SHARE: Final = 8
LIVING_SECONDS: Final = 0.25  # five turns of a gateway's loop


class Balance:
    """One gateway's view of the others, by the board. Knows no clock."""

    def __init__(self, board: Board, name: str) -> None:
        self._words = board.words
        self._own = board.block(name) + Cell.CONNECTIONS
        self._others = {
            board.block(other): (-1, 0.0)  # block -> (loops seen, when they last moved)
            for other in board.names
            if other.startswith("gateway-") and other != name
        }
        self._living: list[int] = []
        self._words[self._own] = 0

    def look(self, now: float) -> None:
        """See who else lives; to be called every few dozen milliseconds."""
        words = self._words
        living = []
        for block, (loops, moved) in self._others.items():
            turned = words[block + Cell.LOOPS]
            if turned != loops:  # at first sight too: it is believed to live until it stands still
                moved = now
                self._others[block] = turned, moved
            serves = words[block + Cell.METRICS + GatewayMetric.READY]
            up = words[block + Cell.PID] and words[block + Cell.STATE] == State.RUNNING
            if up and serves and now - moved < LIVING_SECONDS:
                living.append(block + Cell.CONNECTIONS)
        self._living = living

    def may_accept(self, connections: int) -> bool:
        """Tell the others how many clients there are here, and whether one more is welcome."""
        words = self._words
        words[self._own] = connections
        if not self._living:
            return True
        least = min([words[place] for place in self._living])
        return connections <= least + max(SLACK_CONNECTIONS, least // SLACK_SHARE)
