"""Raft's messages of one turn on their way to the transport, as one message.

News of a commit alone is held back for a moment: most of the time entries follow soon, and they
carry it too, which saves every member a round of messages. It is not held from a member that has
forwarded proposals to us: clients of its own wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from actors import failpoints
from actors.messages import PeerMessages
from actors.peer_codec import encode_peer, lane_of
from raft.messages import MsgApp, MsgHeartbeat, PeerMessage

HOLD_SECONDS: Final = 0.002


class Outbox:
    """Gathers what is for other members.

    Invariant: at most one MsgApp is held for a member, and none behind entries sent later.
    """

    def __init__(
        self, send: Callable[[PeerMessages, int], bool], may_hold: Callable[[int], bool]
    ) -> None:
        """`send(message, items)` sends to the transport; False if that is impossible now.

        `may_hold(member)` tells if the member is known to have all that a MsgApp without entries
        follows, so that it is news of a commit and not a probe.
        """
        self._send = send
        self._may_hold = may_hold
        self._messages: list[PeerMessage] = []
        self._held: dict[int, tuple[MsgApp, float]] = {}
        self._forwarded: dict[int, deque[int]] = {}

    def add(self, message: PeerMessage) -> None:
        """Queue one message for the end of the turn."""
        self._messages.append(message)

    def forwarded(self, member: int, last_index: int) -> None:
        """Proposals of a member are in the log up to an index: tell it at once of their commit."""
        self._forwarded.setdefault(member, deque()).append(last_index)

    def forget(self) -> None:
        """Drop what was held: this member leads no more."""
        self._held.clear()
        self._forwarded.clear()

    def flush(self, now: float) -> tuple[set[int], float | None]:
        """Send what may leave at `now` (CLOCK_MONOTONIC in seconds).

        Returns the members whose messages were dropped, and when to flush again at the latest.
        """
        leaving: list[PeerMessage] = []
        for message in self._messages:
            if type(message) is MsgApp:
                if message.entries:
                    self._held.pop(message.to, None)
                    self._is_waited_for(message.to, message.commit)
                elif self._may_hold(message.to):
                    since = self._held[message.to][1] if message.to in self._held else now
                    self._held[message.to] = message, since
                    continue
            leaving.append(message)
        self._messages = []
        for member, (held, since) in list(self._held.items()):
            if now - since >= HOLD_SECONDS or self._is_waited_for(member, held.commit):
                del self._held[member]
                leaving.append(held)
        oldest = min((since for _, since in self._held.values()), default=None)
        return self._send_all(leaving), None if oldest is None else oldest + HOLD_SECONDS

    def _is_waited_for(self, member: int, commit: int) -> bool:
        """Whether a member's own proposals are among what is committed; it is told only once."""
        indexes = self._forwarded.get(member)
        waited = False
        while indexes and indexes[0] <= commit:
            indexes.popleft()
            waited = True
        return waited

    def _send_all(self, messages: list[PeerMessage]) -> set[int]:
        if not messages:
            return set()
        leads = any(type(message) in (MsgApp, MsgHeartbeat) for message in messages)
        failpoints.hit("raftBeforeLeaderSend" if leads else "raftBeforeFollowerSend")
        to = [message.to for message in messages]
        order = PeerMessages(
            to,
            [int(lane_of(message)) for message in messages],
            [encode_peer(message) for message in messages],
        )
        return set() if self._send(order, len(messages)) else set(to)
