"""Why a request timed out, in etcd's words (parseProposeCtxErr): told from the board.

1. It came while there was no leader, or within two election timeouts before there was one again:
   the leader before has failed.
2. The leader is another member to which there was no connection all the time, or this member
   itself without a connection to a quorum: the connection is lost.
3. Anything else is a plain time-out.

A linearizable read that was retried for as long as it may (raft answers no read index over a
change of leader) is told that the leader has changed.

Streams that require a leader end after NO_LEADER_TIMEOUTS election timeouts without one.
"""

from __future__ import annotations

from typing import Final

from actors.gateway_status import MemberWords
from actors.metrics import PEER_SLOTS, PeerMetric, TransportMetric
from kv.errors import (
    LEADER_CHANGED,
    TIMEOUT,
    TIMEOUT_DUE_TO_CONNECTION_LOST,
    TIMEOUT_DUE_TO_LEADER_FAIL,
    Status,
)
from transport.counters import Board, Cell

NO_LEADER_TIMEOUTS: Final = 3


class Timeouts:
    """Watches the leader and the links. Times are CLOCK_MONOTONIC in seconds."""

    def __init__(self, board: Board, status: MemberWords, election_timeout: float) -> None:
        """`election_timeout` in seconds."""
        self._words = board.words
        self._peers = board.block("transport") + Cell.METRICS + TransportMetric.PEERS
        self._status = status
        self._election_timeout = election_timeout
        self._leader = status.leader
        self._elected_at = 0.0
        self._led_at: float | None = None

    def look(self, now: float) -> bool:
        """Note who leads; to be called often. True if that has changed."""
        leader = self._status.leader
        if leader or self._led_at is None:
            self._led_at = now
        if leader == self._leader:
            return False
        self._leader = leader
        if leader:
            self._elected_at = now
        return True

    def is_leaderless(self, now: float) -> bool:
        """Whether there has been no leader for so long that streams that require one end."""
        patience = NO_LEADER_TIMEOUTS * self._election_timeout
        return self._led_at is not None and now - self._led_at >= patience

    def of_proposal(self, start: float) -> Status:
        """Return what a proposal made at `start` is told when its time is over."""
        lost_at = self._elected_at - 2 * self._election_timeout
        if lost_at < start < self._elected_at:
            return TIMEOUT_DUE_TO_LEADER_FAIL
        if not self._leader or self._is_connected(start):
            return TIMEOUT
        return TIMEOUT_DUE_TO_CONNECTION_LOST

    def of_read(self, start: float) -> Status:
        """Return what a linearizable read asked for at `start` is told when its time is over."""
        return LEADER_CHANGED if start < self._elected_at else TIMEOUT

    def _is_connected(self, start: float) -> bool:
        """Whether the leader's links, or the link to it, have held since `start`."""
        since = self._active_since()
        if self._leader != self._status.member_id:
            return 0 < since.get(self._leader, 0) <= start * 1e9
        held = 1 + sum(0 < began <= start * 1e9 for began in since.values())
        return held > (len(since) + 1) // 2

    def _active_since(self) -> dict[int, int]:
        """Return since when (ns) each other member has answered; 0: it does not."""
        words, size = self._words, len(PeerMetric)
        slots = range(self._peers, self._peers + PEER_SLOTS * size, size)
        return {
            words[slot + PeerMetric.ID]: words[slot + PeerMetric.ACTIVE_SINCE_NS]
            for slot in slots
            if words[slot + PeerMetric.ID]
        }
