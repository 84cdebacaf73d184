"""Decides when history is compacted, and paces the physical pruning.

Owns      the auto-compaction policy; one slice of pruning in flight.
Receives  Grant (only the leader compacts by itself); CompactionScheduled and Pruned.
Sends     Propose of a Compact to the raft node (idempotent by content); Prune to the applier.
Crashes   on a message of any other type. A half-done job is taken up again from the database's
          progress, which the applier tells in its Welcome.
"""

from __future__ import annotations

import time
from typing import Any

from actors.base import NANOSECONDS, Actor, handles, run
from actors.histograms import compaction_pause, compaction_total
from actors.messages import CompactionScheduled, Grant, Propose, Prune, Pruned
from actors.metrics import ApplierMetric, CompactorMetric, GatewayMetric
from etcdpb.rpc_pb2 import CompactionRequest
from kv.auto_compaction import policy
from kv.batch import Op, encode_batch
from transport.context import ActorContext
from transport.counters import Cell
from transport.links import Welcome
from transport.mailbox import Tick


class Compactor(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        config = context.config
        self._policy = policy(
            float(config["auto_compaction_seconds"]), int(config["auto_compaction_revisions"])
        )
        self._rows = int(config["compaction_batch_limit"])
        self._sleep = float(config["compaction_sleep_interval_seconds"])
        self._grant = Grant(term=0, first_index=0, deadline_ns=0)
        self._unread = [
            self.board.block(name) + Cell.METRICS + GatewayMetric.UNREAD_REVISION
            for name in self.board.names
            if name.startswith("gateway-")
        ]
        self._work = False
        self._in_flight = False
        self._next_slice = 0.0
        self._asked = 0.0
        self._pauses = compaction_pause(self.board)
        self._totals = compaction_total(self.board)
        self._started = 0.0
        self._pruned = 0

    @handles(Grant)
    def granted(self, message: Grant) -> None:
        """Only the leader compacts by itself."""
        if self._policy is not None and message.term != self._grant.term:
            self._policy.pause()
        self._grant = message

    @handles(CompactionScheduled)
    def scheduled(self, message: CompactionScheduled) -> None:
        """There is history to prune."""
        if message.pruned_to < message.revision and not self._work:
            self._work = True
            self._started = time.monotonic()
            self._pruned = 0
            self.actor_inbox.wake_at(self._started)

    @handles(Pruned)
    def pruned(self, message: Pruned) -> None:
        """One slice is done; rest, then the next."""
        now = time.monotonic()
        if self._in_flight:
            self._pauses.observe(now - self._asked)
        self._in_flight = False
        self._pruned += message.keys
        self._next_slice = now + self._sleep
        self.actor_inbox.wake_at(self._next_slice)
        if message.finished and self._work:
            self._work = False
            took = now - self._started
            self._totals.observe(took)
            self.metric(CompactorMetric.LAST_SECONDS, int(time.time()))
            self.log.info(
                "finished scheduled compaction",
                compact_revision=message.revision,
                pruned_keys=self._pruned,
                took=f"{took:.6f}s",
            )

    def welcome(self, receiver: str, have: int) -> list[int]:
        """The applier is new or has missed something: what was asked of it may be lost."""
        if receiver == "applier":
            self._in_flight = False
        return []

    @handles(Welcome)
    def welcomed(self, message: Welcome) -> None:
        """A new applier knows of no slice in flight; an old one's answer may be lost."""
        if message.sender == "applier":
            self._in_flight = False

    @handles(Tick)
    def tick(self, message: Tick) -> None:
        """Ask for the next slice, and ask the policy."""
        if self._work and not self._in_flight and message.now >= self._next_slice:
            compact = self._compact_revision()
            if self._is_awaited(compact):
                self._next_slice = message.now + self._sleep
                self.actor_inbox.wake_at(self._next_slice)
            else:
                self._asked = time.monotonic()
                self._in_flight = self.send("applier", Prune(self._rows, compact))
        if self._policy is None or not self._leads():
            return
        block = self.board.block("applier") + Cell.METRICS
        revision = self.board.words[block + ApplierMetric.REVISION]
        target = self._policy.poll(message.now, revision)
        if target is not None:
            request = CompactionRequest(revision=target).SerializeToString()
            batch = encode_batch(0, 0, 0, bytes([Op.COMPACT]), [request])
            self.send("raft-node", Propose(session=0, first_id=0, count=1, batch=batch))
            self.log.info("starting auto compaction", revision=target)

    def _compact_revision(self) -> int:
        block = self.board.block("applier") + Cell.METRICS
        return self.board.words[block + ApplierMetric.COMPACT_REVISION]

    def _is_awaited(self, compact: int) -> bool:
        """Whether a gateway has yet to read, for its watchers, what is about to be pruned.

        They were there when it happened, so a compaction that came right after takes nothing from
        them. A gateway reads within moments, or ends and with it its watchers.
        """
        words = self.board.words
        return any(0 < words[place] < compact for place in self._unread)

    def _leads(self) -> bool:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return self._grant.deadline_ns + NANOSECONDS // 10 > now

    def stats(self) -> dict[str, Any]:
        """Return the job at hand, and what is decided here: mode, seconds until the next run."""
        due = self._policy.next_run if self._policy is not None and self._leads() else None
        return {
            "pruning": self._work,
            "pruned_keys": self._pruned,
            "leader": self._leads(),
            "mode": self._policy.mode if self._policy is not None else "off",
            "next_run_seconds": None if due is None else round(max(0.0, due - time.monotonic()), 3),
        }


def main(context: ActorContext) -> None:
    """Run the compactor of one member."""
    run(Compactor, context)
