"""What the raft node's board words say of its role, and the licence they leave to a successor.

A raft node that comes back after it led a moment ago may campaign with force, once (RULES A10): it
wrote everything it sent, so nobody's log is longer than its own. The conditions: its block says
that it led term T, the log's term is still T, and the last stamp is younger than two election
timeouts. Taking the licence uses it up.

It deposes nobody. There was no leader of term T but itself, and the campaign is for T+1: whoever
leads by then has that term or a later one, and who voted for it refuses. So the limit is no matter
of safety: after two timeouts the others have elected somebody, or it can't reach them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from actors.metrics import RaftMetric
from actors.raft_grant import boottime_ns
from raft.raw_node import RawNode
from transport.counters import Cell
from transport.log import Logger

LICENCE_TIMEOUTS: Final = 2
LATE_HEARTBEATS: Final = 2  # etcd counts one as failed that is later than that


class RoleWords:
    """Writes the words of one raft node."""

    def __init__(
        self,
        read: Callable[[int], int],
        write: Callable[[RaftMetric, int], None],
        log: Logger,
        heartbeat: float,
        election_timeout: float,
    ) -> None:
        """`heartbeat` and `election_timeout` in seconds."""
        self._read = read
        self._write = write
        self._log = log
        self._leader = 0
        self._stamped = 0
        self._late_ns = int(LATE_HEARTBEATS * heartbeat * 1e9)
        self._licence_ns = int(LICENCE_TIMEOUTS * election_timeout * 1e9)

    def take_licence(self, term: int) -> float:
        """Return for how many seconds it may campaign with force in the successor of `term`.

        0.0 is no licence; more is returned once.
        """
        led_term, led_at = (
            self._read(Cell.METRICS + word) for word in (RaftMetric.LED_TERM, RaftMetric.LED_AT)
        )
        self._write(RaftMetric.LED_TERM, 0)
        self._write(RaftMetric.IS_LEADER, 0)
        self._write(RaftMetric.LEADER, 0)
        left_ns = led_at + self._licence_ns - boottime_ns()
        return left_ns / 1e9 if led_term == term > 0 and left_ns > 0 else 0.0

    def stamp(self, node: RawNode) -> None:
        """Say that the leader lives; called on every tick, which sends heartbeats."""
        if not node.is_leader:
            self._stamped = 0
            return
        now = boottime_ns()
        if 0 < self._stamped < now - self._late_ns and len(node.status().progress) > 1:
            failed = self._read(Cell.METRICS + RaftMetric.HEARTBEATS_LATE)
            self._write(RaftMetric.HEARTBEATS_LATE, failed + 1)
        self._stamped = now
        self._write(RaftMetric.LED_AT, now)

    def tell(self, node: RawNode) -> None:
        """Tell who leads, and whether this member does."""
        leads = node.is_leader
        self._log_leader(node.raft.id, node.raft.lead, node.raft.term)
        self._write(RaftMetric.LEADER, node.raft.lead)
        self._write(RaftMetric.IS_LEADER, leads)
        self._write(RaftMetric.LED_TERM, node.raft.term if leads else 0)
        self.stamp(node)

    def _log_leader(self, member: int, leader: int, term: int) -> None:
        """In etcd's words, which tools wait for."""
        before, self._leader = self._leader, leader
        if leader == before:
            return
        if not before:
            text = f"elected leader {leader:x}"
        elif leader:
            text = f"changed leader from {before:x} to {leader:x}"
        else:
            text = f"lost leader {before:x}"
        self._log.info(f"raft.node: {member:x} {text} at term {term}")


def describe(node: RawNode, member_id: int) -> dict[str, Any]:
    """Return for people: id, term, leader, role and, on a leader, the progress of the others.

    `status` is etcd-io/raft's own form of it.
    """
    status = node.status()
    return {
        "id": f"{member_id:x}",
        "term": status.term,
        "leader": f"{status.lead:x}",
        "role": str(status.raft_state),
        "progress": {
            f"{member:x}": {"match": progress.match, "next": progress.next}
            for member, progress in status.progress.items()
        },
        "status": json.loads(str(status)),
    }
