"""Whether this member has clients: then it is kept up to date at once, and asks its leader for it.

A follower that nobody asks may be told of entries and carry them out a little later, many at a
time (raft_outbox.py, raft_feed.py). Clients count that have a connection, watchers for instance,
and those that proposed or read a moment ago.
"""

from __future__ import annotations

from typing import Any, Final

from transport.counters import Cell

PRESENT_SECONDS: Final = 1.0
ASK_SECONDS: Final = 0.5  # half of what a leader remembers (raft_outbox.CLIENTS_SECONDS)
CONTEXT: Final = b"clients"  # of a read index nobody waits for


class Clients:
    """See the module docstring. Knows no clock."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._until = self._asked = 0.0

    def note(self, now: float) -> None:
        """A gateway asks for a client."""
        self._until = now + PRESENT_SECONDS

    def look(self, now: float) -> None:
        """See if somebody is connected; for every heartbeat interval."""
        for name in self._board.names:
            if name.startswith("gateway-") and self._board.get(name, Cell.CONNECTIONS):
                self.note(now)

    def present(self, now: float) -> bool:
        """Whether clients may wait for what is applied here."""
        return now < self._until

    def ask_due(self, now: float) -> bool:
        """Whether the leader is to be told that there are clients; True only now and then."""
        due = self.present(now) and now >= self._asked + ASK_SECONDS
        if due:
            self._asked = now
        return due
