"""What other members sent and raft did not take: told in the log once a second at most."""

from __future__ import annotations

from typing import Final

from transport.log import Logger

TELL_SECONDS: Final = 1.0


class Refusals:
    """Gathers refusals between two lines."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._count = self._total = 0
        self._last = ""
        self._next = 0.0

    def note(self, sender: int, why: str) -> None:
        """A message of a member was refused."""
        self._count += 1
        self._last = f"member {sender:x}: {why}"

    def tell(self, now: float) -> None:
        """Write a line if there is news and the last one is old enough."""
        if not self._count or now < self._next:
            return
        self._next = now + TELL_SECONDS
        self._total += self._count
        self._log.warning(
            "refused messages of other members",
            count=self._count,
            last=self._last,
            total=self._total,
        )
        self._count = 0
