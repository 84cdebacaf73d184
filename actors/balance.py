"""Which gateway takes new clients: one listening socket is shared, and the kernel is not fair.

A gateway with clearly more connections than the least loaded living one leaves new clients to the
others (RULES B5). The least loaded one that lives always accepts, so nobody waits for long; a
frozen or dead gateway is not counted, so nobody waits for it.

A *standby* takes clients while none of the others lives. Where it has a core to run on it takes its
share of many as well; a few stay together, for what comes at one gateway travels in one batch.
Addresses that serve pages alone are the other way round: the standby has them, so that no scrape
holds up clients, and the others only while no standby lives.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from actors.metrics import GatewayMetric
from transport.counters import Board, Cell, State

SLACK_CONNECTIONS: Final = 4
SLACK_SHARE: Final = 8
TOGETHER_CONNECTIONS: Final = 16  # as many stay at one gateway: smaller batches cost puts more
LIVING_SECONDS: Final = 0.25  # two turns of a gateway's loop and a half
PATIENCE_SECONDS: Final = 2.0  # a standby that starts with the member lets the others come up


class Balance:
    """One gateway's view of the others, by the board. Knows no clock."""

    def __init__(
        self, board: Board, name: str, standbys: Collection[str] = (), *, shares: bool = False
    ) -> None:
        """`standbys` are the names of all gateways that stand by; `shares` says they may share."""
        self._words = board.words
        self._own = board.block(name) + Cell.CONNECTIONS
        self._turns = board.block(name) + Cell.METRICS + GatewayMetric.TURNS
        self._others = {
            board.block(other): (-1, 0.0)  # block -> (turns seen, when they last moved)
            for other in board.names
            if other.startswith("gateway-") and other != name
        }
        self._standbys = {board.block(other) for other in standbys if other != name}
        self._stands_by = name in standbys
        self._shares = shares
        self._patient = self._stands_by and board.get(name, Cell.INCARNATION) <= 1
        self._patient_until: float | None = None
        self._living: list[int] = []
        self._helping: list[int] = []
        self._standby_lives = False
        self._words[self._own] = 0

    def look(self, now: float) -> None:
        """See who else lives, and show that this one does; called ten times a second.

        Loops of an actor won't do: they move too while it waits for something in good order.
        """
        words = self._words
        words[self._turns] += 1
        if self._patient_until is None:
            self._patient_until = now + PATIENCE_SECONDS
        self._patient = self._patient and now < self._patient_until
        living = []
        for block, (turns, moved) in self._others.items():
            turned = words[block + Cell.METRICS + GatewayMetric.TURNS]
            if turned != turns:  # at first sight too: it is believed to live until it stands still
                if turns >= 0 and block not in self._standbys:
                    self._patient = False  # it has come up
                moved = now
                self._others[block] = turned, moved
            up = words[block + Cell.PID] and words[block + Cell.STATE] == State.RUNNING
            if up and now - moved < LIVING_SECONDS:
                living.append(block)
        self._standby_lives = any(block in self._standbys for block in living)
        ready = {block for block in living if words[block + Cell.METRICS + GatewayMetric.READY]}
        self._living = [
            block + Cell.CONNECTIONS
            for block in living
            if block not in self._standbys and (self._stands_by or block in ready)
        ]
        self._helping = [block + Cell.CONNECTIONS for block in ready if block in self._standbys]

    def tell(self, connections: int) -> None:
        """Tell the others how many clients there are here."""
        self._words[self._own] = connections

    def may_accept(self, connections: int) -> bool:
        """Tell the others how many clients there are here, and whether one more is welcome."""
        self.tell(connections)
        others = self._living
        if self._shares and not self._stands_by and connections >= TOGETHER_CONNECTIONS:
            others = others + self._helping
        if not others:
            return not self._patient
        least = min([self._words[place] for place in others])
        if self._stands_by:
            return self._shares and connections <= least >= TOGETHER_CONNECTIONS
        return connections <= least + max(SLACK_CONNECTIONS, least // SLACK_SHARE)

    def may_take_pages(self) -> bool:
        """Whether connections to addresses that serve only pages are welcome here."""
        return self._stands_by or not self._standby_lives
