"""When a member campaigns, or gives leadership away, beyond raft's own timeouts.

1. The only voter campaigns at once: nobody else could lead.
2. A raft node that led a moment ago campaigns once with force (its licence: raft_roles.py).
3. A member that starts, sees others and no leader, leaves only two ticks to a first election, as it
   need not wait for a leader that died long ago (etcd's adjustTicks).
4. A follower whose leader's process is gone forgets it and asks for pre-votes after a short random
   pause, and again about every heartbeat for an election timeout: others may notice later, or may
   have asked at the same moment. Whoever still hears that leader refuses: a cut link harms nobody.
   Where members are far from each other or disks are slow all this takes longer: who asks again
   before the votes can be here gives up the ones on their way, and a term with them. Without
   pre-votes nothing of this: every try would be a new term, and a healthy leader's end.
5. A member that is stopped hands leadership to the voter connected longest.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from actors.metrics import PEER_SLOTS, PeerMetric, TransportMetric
from raft.raw_node import RawNode
from transport.counters import Board, Cell

LOST_LEADER_SECONDS: Final = 0.03
TRANSFER_SECONDS_MAX: Final = 0.5
LEAVE_POLL_SECONDS: Final = 0.005


class Elections:
    """See the module docstring. Times are CLOCK_MONOTONIC in seconds."""

    def __init__(
        self,
        node: RawNode,
        *,
        licence_seconds: float,
        fast_forward: bool,
        heartbeat_interval: float,
        election_timeout: float,
        round_trip: Callable[[], float],
    ) -> None:
        """`licence_seconds` (0: none) and `fast_forward` are rules 2 and 3; times in seconds.

        `round_trip` tells how long the answer to a vote takes, a sync included.
        """
        self._node = node
        self._licensed_until = time.monotonic() + licence_seconds if licence_seconds else 0.0
        self._licensed_term = node.raft.term
        self._fast_forward = fast_forward
        self._heartbeat_interval = heartbeat_interval
        self._election_timeout = election_timeout
        self._round_trip = round_trip
        self._campaign_at: float | None = None
        self._campaign_until = 0.0
        self._leave_by: float | None = None
        self._chance = random.SystemRandom()

    def alone(self, voters: Sequence[int]) -> None:
        """Rule 1."""
        if voters == (self._node.raft.id,) and not self._node.is_leader:
            self._node.campaign()

    def connected(self) -> bool:
        """The transport takes messages now: use the licence. True if there was one."""
        raft = self._node.raft
        in_time = 0.0 < time.monotonic() < self._licensed_until
        # In a later term somebody else may have been elected already.
        licensed = in_time and not raft.lead and raft.term == self._licensed_term
        self._licensed_until = 0.0
        if licensed:
            self._node.campaign(force=True)
        return licensed

    def lost(self, members: Sequence[int]) -> float | None:
        """Processes of members are gone; return when `tick` is wanted, if one of them led."""
        lead = self._node.raft.lead
        if not lead or lead not in members or not self._node.raft.pre_vote:
            return None
        self._node.forget_leader()
        now = time.monotonic()
        self._campaign_until = now + self._election_timeout
        spread = max(LOST_LEADER_SECONDS, 2 * self._round_trip())
        self._campaign_at = now + self._chance.random() * spread
        return self._campaign_at

    def tick(self, now: float) -> float | None:
        """Campaign if rule 4 says so; return when to be called for it again."""
        if self._campaign_at is None or now < self._campaign_at:
            return self._campaign_at
        self._campaign_at = None
        if not self._node.raft.lead:
            self._node.campaign()
            pause = max(self._heartbeat_interval, 2 * self._round_trip())  # pre-votes, then votes
            again = now + pause * (1 + self._chance.random())
            if again < self._campaign_until:
                self._campaign_at = again
        return self._campaign_at

    def raft_ticked(self, active_peers: int) -> None:
        """Raft's clock has ticked: rule 3."""
        raft = self._node.raft
        if not self._fast_forward:
            return
        if raft.lead:
            self._fast_forward = False
        elif active_peers:
            self._fast_forward = False
            for _ in range(raft.election_timeout - 2 - raft.election_elapsed):
                self._node.tick_quiesced()

    def leave(self, voters: Sequence[int], longest_connected: int) -> int:
        """Begin to stop; return the member that leadership goes to, 0 if to nobody."""
        others = [voter for voter in voters if voter != self._node.raft.id]
        self._leave_by = time.monotonic()
        if not (self._node.is_leader and others):
            return 0
        to = longest_connected if longest_connected in others else others[0]
        self._node.transfer_leader(to)
        self._leave_by += min(TRANSFER_SECONDS_MAX, self._election_timeout)
        return to

    def may_stop(self, now: float) -> float | None:
        """Return 0.0 when a stop that has begun may end, else when to ask again; None if none."""
        if self._leave_by is None:
            return None
        if now >= self._leave_by or not self._node.is_leader:
            return 0.0
        return now + LEAVE_POLL_SECONDS


def longest_round_trip(board: Board) -> float:
    """Return the seconds to the farthest peer and back, as its transport has measured it."""
    first = board.block("transport") + Cell.METRICS + TransportMetric.PEERS
    slots = range(first, first + PEER_SLOTS * len(PeerMetric), len(PeerMetric))
    words = board.words
    trips = [words[slot + PeerMetric.ROUND_TRIP_NS] for slot in slots if words[slot]]
    return max(trips, default=0) / 1e9
