"""Raft's messages of one turn on their way to the transport, as one message."""

from __future__ import annotations

from collections.abc import Callable

from actors.messages import PeerMessages
from actors.peer_codec import encode_peer, lane_of
from raft.messages import PeerMessage


class Outbox:
    """Gathers what is for other members."""

    def __init__(self, send: Callable[[PeerMessages, int], bool]) -> None:
        """`send(message, items)` sends to the transport; False if that is impossible now."""
        self._send = send
        self._messages: list[PeerMessage] = []

    def add(self, message: PeerMessage) -> None:
        """Queue one message for the end of the turn."""
        self._messages.append(message)

    def flush(self) -> set[int]:
        """Send all; return the members whose messages were dropped."""
        if not self._messages:
            return set()
        messages, self._messages = self._messages, []
        to = [message.to for message in messages]
        order = PeerMessages(
            to,
            [int(lane_of(message)) for message in messages],
            [encode_peer(message) for message in messages],
        )
        return set() if self._send(order, len(messages)) else set(to)
