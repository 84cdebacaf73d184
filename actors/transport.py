"""Links to the other members. A single member has none: it takes what raft sends and reports it.

Owns      the connections to peers (none in a cluster of one).
Receives  PeerMessages from the raft node.
Sends     nothing yet: a message for a peer that has no link is counted as dropped.
Crashes   on a message of any other type. Links are rebuilt, raft retries.
"""

from __future__ import annotations

from typing import Any

from actors.base import Actor, handles, run
from actors.messages import PeerMessages
from transport.context import ActorContext


class Transport(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self._unreachable = 0

    @handles(PeerMessages)
    def forward(self, message: PeerMessages) -> None:
        """Forward to the peers named; there is no link to any."""
        self._unreachable += len(message.payloads)

    def stats(self) -> dict[str, Any]:
        """Return the links."""
        return {"peers": [], "unreachable": self._unreachable}


def main(context: ActorContext) -> None:
    """Run the transport of one member."""
    run(Transport, context)
