"""Lease clocks. Idle until leases exist: it keeps the latest leadership grant, nothing more.

Owns      the grant under which it may act.
Receives  Grant from the raft node; Applied from nobody yet.
Sends     nothing yet.
Crashes   on a message of any other type. State is rebuilt from the database.
"""

from __future__ import annotations

from typing import Any

from actors.base import Actor, handles, run
from actors.messages import Grant
from transport.context import ActorContext


class Lessor(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self._grant = Grant(term=0, first_index=0, deadline_ns=0)

    @handles(Grant)
    def granted(self, message: Grant) -> None:
        """Take the newest grant; its deadline is absolute, so a late one is harmless."""
        if (message.term, message.deadline_ns) > (self._grant.term, self._grant.deadline_ns):
            self._grant = message

    def stats(self) -> dict[str, Any]:
        """Return the grant."""
        return {"term": self._grant.term, "deadline_ns": self._grant.deadline_ns}


def main(context: ActorContext) -> None:
    """Run the lessor of one member."""
    run(Lessor, context)
