"""The state machine: the only writer of the database.

Owns      the database (one writer connection) and the machine over it.
Receives  Apply, CommittedTo and InstallSnapshot from the raft node; Prune from the compactor;
          Checkpointed from the snapshotter; Flush, Tick.
Sends     Applied to gateways (results for their own sessions, a wake-up while they have clients);
          AppliedTo to the raft node; Committed to the snapshotter; CompactionScheduled and Pruned
          to the compactor; LeaseFacts to the lessor.
Crashes   on entries that do not follow what it has, on a database it can't trust, on any other
          message. State is the database: a successor says Hello with its applied index.

One SQLite transaction per batch: applied index, term, configuration, hash, data and results commit
together or not at all. Entries may come ahead of their commit; they are carried out in a
transaction that is *held* open until the log has committed its last entry. Nothing leaves before
COMMIT but the results of few requests, marked as `ahead` (early.py); a new stream from the raft
node rolls a held transaction back, in memory too.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from actors import failpoints
from actors.base import Actor, handles, run
from actors.lease_metrics import LeaseCounts
from actors.messages import (
    Applied,
    AppliedTo,
    Apply,
    Checkpointed,
    Committed,
    CommittedTo,
    CompactionScheduled,
    InstallSnapshot,
    LeaseFacts,
    Prune,
    Pruned,
)
from actors.metrics import ApplierMetric, Histogram, RaftMetric
from actors.space import Ballast
from actors.wire import WATCHED_REQUESTS_MAX
from kv.batch import Op
from kv.cluster import decode_member_change
from kv.lease_ops import LeaseFact
from kv.machine import Machine
from kv.operations import Operation, operations_of
from raft.conf_change import decode, next_conf_state
from raft.state import Entry, EntryType
from storage.compaction import prune_slice
from storage.database import (
    generation,
    open_installed,
    open_or_create,
    place,
    set_current,
    snapshot_name,
)
from storage.failures import DISK_ERRORS, once_there_is_space
from storage.files import scaled
from storage.store import SqliteStore
from transport.context import ActorContext
from transport.counters import Cell
from transport.links import Welcome
from transport.mailbox import Flush, Tick

REPORT_SECONDS: Final = 0.05
WAL_FRAMES_MAX: Final = scaled(65_536)  # 256 MiB of 4 KiB pages
RESTART_FRAMES_LEFT_MAX: Final = 1000
RETRY_SECONDS_MAX: Final = 1.0
WATCH_NS: Final = 400_000
TOLD_BYTES: Final = 1 << 20
APPLY_SECONDS_MAX: Final = 1.0
LARGE_BYTES_MAX: Final = 64 << 20
"""Of time, and of large responses, in one transaction: entries after so much wait for the next. Who
is killed in the middle of one begins again with all of it."""
COUNTED: Final = {
    Op.PUT: ApplierMetric.PUTS,
    Op.DELETE_RANGE: ApplierMetric.DELETES,
    Op.TXN: ApplierMetric.TXNS,
}


@dataclass(slots=True)
class _Held:
    """A transaction that is carried out and not committed."""

    entries: list[Entry]
    batches: dict[str, list[Any]]
    requests: int
    conf_changed: bool
    compact_revision: int
    started: int
    took: int
    lease_facts: list[LeaseFact]
    told: list[str] = field(default_factory=list)
    """Gateways that have the results and wait for nothing but the board's word."""


class Applier(Actor):
    """See the module docstring."""

    tick_seconds = 0.2

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self._waiting: list[Entry] = []
        self._held: _Held | None = None
        self._committed = 0
        raft_node = self.board.block("raft-node") + Cell.METRICS
        self._committed_word = raft_node + RaftMetric.COMMITTED_INDEX
        self._applied_index = 0
        self._told_index = 0
        self._uncounted = 0
        self._untold_bytes = 0
        self._sessions: dict[int, str] = {}
        self._gateways: dict[str, int] = {}  # name -> its word of how many clients it has
        self._prune: Prune | None = None
        self._tell_compactor = False
        self._next_report = 0.0
        self._next_restart = 0.0
        self._retry_at = 0.0
        self._retry_pause = 0.05
        self._slow_ns = int(float(context.config.get("warning_apply_duration_seconds", 0.1)) * 1e9)

    def on_start(self) -> None:
        """Open the database, or make it. Runs on the actor's thread."""
        self._directory = self.context.data_dir / "member" / "db"
        self._ballast = Ballast(self.context.data_dir / "member")
        self._store = SqliteStore(
            once_there_is_space(partial(open_or_create, self._directory), self._make_space)
        )
        self._note_generation()
        self.metric(ApplierMetric.INSTALLING, 0)
        self._machine = self._make_machine()
        self._commit_took = Histogram(self.board, self.name, ApplierMetric.COMMIT)
        self._leases = LeaseCounts(self.board, self.name)
        self._ballast.keep()
        self._keep_room()
        self.metric(ApplierMetric.NO_SPACE, not self._ballast.present)
        self._applied_index = self._machine.applied_index
        self._let_go()  # what a predecessor held
        self._note_progress()
        self.metric(ApplierMetric.PRUNED_TO, max(0, self._store.pruned_to()))

    def _make_space(self, error: Exception) -> None:
        """Free the ballast for what can't be put off; without one wait for somebody's space."""
        self.metric(ApplierMetric.NO_SPACE, 1)
        freed = self._ballast.release()
        self.log.error("no space left for the database", freed_bytes=freed, error=str(error))
        self.note_progress()
        if not freed:
            time.sleep(RETRY_SECONDS_MAX)

    def have(self, sender: str) -> int:
        """Return the applied index: entries follow from there."""
        return self._applied_index if sender == "raft-node" else 0

    def welcome(self, receiver: str, have: int) -> list[int]:
        """A gateway tells its session; the compactor is told of a job left over."""
        if receiver.startswith("gateway-"):
            self._sessions = {s: name for s, name in self._sessions.items() if name != receiver}
            self._sessions[have] = receiver
            self._gateways[receiver] = self.board.block(receiver) + Cell.CONNECTIONS
        elif receiver == "compactor":
            self._tell_compactor = True
        return [self._applied_index]

    @handles(Welcome)
    def welcomed(self, message: Welcome) -> None:
        """A new raft node, or a new stream of it: entries come again from what is committed."""
        if message.sender == "raft-node":
            self._waiting.clear()
            if self._held is not None:
                self._roll_back()

    @handles(Apply)
    def apply(self, message: Apply) -> None:
        """Take entries; they are applied at the end of the batch."""
        self._committed = max(self._committed, message.committed)
        last = self._waiting[-1].index if self._waiting else self._machine.applied_index
        if message.first_index > last + 1:
            self.links.reopen("raft-node")
            return
        first = message.first_index
        self._waiting += [
            Entry(term, index, data, kind)
            for index, (term, kind, data) in enumerate(
                zip(message.terms, message.types, message.datas, strict=True), start=first
            )
            if index > last
        ]

    @handles(CommittedTo)
    def committed_to(self, message: CommittedTo) -> None:
        """What was carried out ahead may be committed."""
        self._committed = max(self._committed, message.index)

    @handles(InstallSnapshot)
    def install_snapshot(self, message: InstallSnapshot) -> None:
        """Go over to a received snapshot, unless the database has got that far by itself.

        The raft node's log holds the record of it by now (RULES A4): from here on a member that
        dies comes back to this, again and again until CURRENT names the new file.
        """
        if message.index <= self._applied_index:
            return
        self.log.info(
            "applying snapshot",
            current_applied_index=self._applied_index,
            incoming_leader_snapshot_index=message.index,
            incoming_leader_snapshot_term=message.term,
        )
        self._let_go()
        self._waiting.clear()  # what it holds, and what raft has thrown away; the rest comes again
        failpoints.hit("applyBeforeOpenSnapshot")
        self.metric(ApplierMetric.INSTALLING, 1)
        store = self._switch_to(message.term, message.index)
        failpoints.hit("applyAfterOpenSnapshot")
        self._store.abandon()
        self._store = store
        self._machine = self._make_machine()
        self._committed = max(self._committed, message.index)
        self._applied_index = self._machine.applied_index
        self.metric(ApplierMetric.INSTALLING, 0)
        self.count(ApplierMetric.INSTALLS)
        self._note_progress()
        self.metric(ApplierMetric.PRUNED_TO, max(0, self._store.pruned_to()))
        self._note_generation()
        self.metric(ApplierMetric.LEASE_INDEX, self._applied_index)
        for gateway in self._gateways:
            self._send_applied(gateway, [])
        self._tell_raft_node()
        self._schedule_pruning()
        self.log.info("applied snapshot", applied_index=self._applied_index)

    def _switch_to(self, term: int, index: int) -> SqliteStore:
        """Open a received file and make it the one in use; a full disk is waited for."""

        def switch() -> SqliteStore:
            connection = open_installed(self._directory, term, index)
            set_current(self._directory, snapshot_name(term, index))
            return SqliteStore(connection)

        return once_there_is_space(switch, self._make_space)

    @handles(Prune)
    def prune(self, message: Prune) -> None:
        """Prune one slice after this batch."""
        self._prune = message

    @handles(Checkpointed)
    def checkpointed(self, message: Checkpointed) -> None:
        """Restart the database's log when it is long and almost everything is copied."""
        now = time.monotonic()
        if (
            self._held is None
            and message.frames_left <= RESTART_FRAMES_LEFT_MAX
            and self._store.wal_frames() >= WAL_FRAMES_MAX
            and now >= self._next_restart
            and not self._store.restart_wal()
        ):
            self._next_restart = now + 1.0

    @handles(Flush)
    def flush(self, _: Flush) -> None:
        """Apply all entries of the batch in one transaction, then tell everyone."""
        self._settle()
        if self._prune is not None and self._held is None:
            order, self._prune = self._prune, None
            self._prune_once(order)
        if self._tell_compactor and self.links.is_open("compactor"):
            self._tell_compactor = False
            self._schedule_pruning()

    @handles(Tick)
    def tick(self, message: Tick) -> None:
        """Report progress even when nothing more comes."""
        self._report(message.now)
        if self._told_index != self._applied_index:
            self._tell_raft_node()
        if not self._ballast.present:
            kept = self._ballast.keep()
            self.metric(ApplierMetric.NO_SPACE, not kept or bool(self._waiting))
            self._keep_room()

    def _settle(self) -> None:
        """Carry out what waits, commit what the log has committed."""
        before = self._held
        self._hold()
        held = self._held
        if held is not None and held.requests <= WATCHED_REQUESTS_MAX:
            if held is not before and held.entries[-1].index > self._committed:
                self._tell_ahead(held)
            self._watch_log(held)
        while self._held is not None and self._held.entries[-1].index <= self._committed:
            self._commit(self._held)
            self._hold()

    def _hold(self) -> None:
        """Carry out all entries that wait, in a transaction that stays open."""
        if self._held is not None or not self._waiting or time.monotonic() < self._retry_at:
            return
        entries, machine = self._waiting, self._machine
        started = time.monotonic_ns()
        compact_revision = machine.compact_revision
        try:
            failpoints.hit("beforeStartDBTxn")
            self._store.begin()
            failpoints.hit("afterStartDBTxn")
            batches, conf_changed, done = self._apply_entries(entries)
            machine.flush()
        except DISK_ERRORS as error:
            self._wait_for_space(error)
            return
        entries, self._waiting = entries[:done], entries[done:]
        requests = sum(len(batch[2]) for own in batches.values() for batch in own)
        facts = machine.take_lease_facts()
        took = time.monotonic_ns() - started
        self._held = _Held(
            entries, batches, requests, conf_changed, compact_revision, started, took, facts
        )

    def _tell_ahead(self, held: _Held) -> None:
        """Send results on their way before the COMMIT: they and it take about equally long.

        Only for few requests, whose gateways look at the board for the COMMIT meanwhile (early.py).
        """
        ahead = self._words[self._metrics + ApplierMetric.ROLLBACKS]
        for gateway, own in held.batches.items():
            held.told.append(gateway)
            self._send_applied(gateway, own, ahead)

    def _watch_log(self, held: _Held) -> None:
        """Look at the raft node's word for a moment: a lone client waits for nothing else.

        A message would wake this process 75 us after the log is durable; the word is seen at once.
        It only ever grows, and holds what is durable and committed. Whoever else has work on this
        processor, as the raft node's and the gateway's threads, goes first.
        """
        words, index = self._words, held.entries[-1].index
        until = time.monotonic_ns() + WATCH_NS
        while self._committed < index:
            self._committed = max(self._committed, words[self._committed_word])
            if self._committed < index:
                if time.monotonic_ns() >= until:
                    held.told.clear()  # nobody looks at the board for that long
                    return
                os.sched_yield()

    def _commit(self, held: _Held) -> None:
        """Commit the open transaction and tell everyone."""
        machine = self._machine
        began = time.monotonic_ns()
        try:
            failpoints.hit("beforeCommit")
            self._store.commit()
            failpoints.hit("afterCommit")
        except DISK_ERRORS as error:
            self._wait_for_space(error)
            self._waiting = held.entries + self._waiting
            return
        self._held = None
        self._applied_index = machine.applied_index
        self._retry_pause = 0.05
        self._keep_room()
        held.took += time.monotonic_ns() - began
        self._tell(held)

    def _tell(self, held: _Held) -> None:
        machine, batches = self._machine, held.batches
        self.metric(ApplierMetric.APPLIED_INDEX, machine.applied_index)
        if held.told:
            os.sched_yield()  # to who looks for that
        for gateway, clients in self._gateways.items():
            own = batches.get(gateway, [])
            # Without clients nobody watches, or reads in a hurry.
            if (own or self._words[clients]) and gateway not in held.told:
                self._send_applied(gateway, own)
        if held.lease_facts:
            self._tell_lessor(held.lease_facts)
        self._note_progress()
        self.metric(ApplierMetric.NO_SPACE, not self._ballast.present)
        self.count(ApplierMetric.REQUESTS, self._uncounted)
        self._uncounted = 0
        self._commit_took.observe(time.monotonic_ns() - held.started)
        if held.took > self._slow_ns:
            self._tell_slow(held)
        self._untold_bytes += sum(len(entry.data) for entry in held.entries)
        if held.conf_changed or self._untold_bytes >= TOLD_BYTES:
            self._tell_raft_node()
        if machine.compact_revision != held.compact_revision:
            self._schedule_pruning()
        self._report(time.monotonic())

    def _send_applied(self, gateway: str, own: list[Any], ahead: int = 0) -> None:
        machine = self._machine
        self.send(
            gateway,
            Applied(machine.applied_index, machine.revision, own, ahead),
            sum([len(batch[2]) for batch in own]),
        )

    def _tell_slow(self, held: _Held) -> None:
        """In etcd's words; waiting for the log does not count."""
        self.count(ApplierMetric.SLOW_APPLIES)
        self.log.warning(
            "apply request took too long",
            took=f"{held.took / 1e9:.6f}s",
            expected_duration=f"{self._slow_ns / 1e9:g}s",
            requests=held.requests,
            applied_index=self._applied_index,
        )

    def _tell_lessor(self, facts: list[LeaseFact]) -> None:
        """Tell what happened to leases; the board says so too, for a message may be lost."""
        self.metric(ApplierMetric.LEASE_INDEX, self._applied_index)
        self._leases.note(facts)
        if self.links.is_open("lessor"):
            events, leases, seconds, granted = zip(*facts, strict=True)
            order = LeaseFacts(
                self._applied_index, bytes(events), list(leases), list(seconds), list(granted)
            )
            self.send("lessor", order, len(facts))

    def _tell_raft_node(self) -> None:
        """Tell progress by message, not for every batch: the raft node sees the word on the board.

        At once when a configuration change was applied, or when much of the raft node's credit is
        free again.
        """
        self._told_index = self._applied_index
        self._untold_bytes = 0
        self.send("raft-node", AppliedTo(self._applied_index))

    def _apply_entries(self, entries: list[Entry]) -> tuple[dict[str, list[Any]], bool, int]:
        """Apply entries, all of them unless that takes long or their responses become too large.

        Returns the results by gateway, whether the configuration changed, and how many were.
        """
        machine = self._machine
        batches: dict[str, list[Any]] = {}
        conf_changed = False
        large_bytes = 0
        end = time.monotonic() + APPLY_SECONDS_MAX
        for done, entry in enumerate(entries):
            if done and (large_bytes > LARGE_BYTES_MAX or time.monotonic() >= end):
                return batches, conf_changed, done
            if entry.type != EntryType.NORMAL:
                failpoints.hit("beforeApplyOneConfChange")
                self._apply_conf_change(entry)
                conf_changed = True
                continue
            failpoints.hit("beforeApplyOneEntryNormal")
            applied = machine.apply(entry.index, entry.term, entry.data)
            self._uncounted += len(applied.results)
            large_bytes += machine.large_bytes
            gateway = self._sessions.get(applied.session)
            if gateway is not None:
                batches.setdefault(gateway, []).append(
                    [applied.session, applied.first_id, applied.results]
                )
        return batches, conf_changed, len(entries)

    def _make_machine(self) -> Machine:
        return Machine(self._store, self._note_operations, self.note_progress)

    def _note_operations(self, ops: bytes) -> None:
        """Tell on the board what is carried out; the Flush's end takes it into the recorder."""
        self._words[self._block + Cell.OPERATIONS] |= operations_of(ops)

    def _apply_conf_change(self, entry: Entry) -> None:
        change = decode(entry.type, entry.data)
        self._machine.apply_conf_change(
            entry.index,
            entry.term,
            next_conf_state(self._machine.conf_state, change),
            decode_member_change(change.context),
        )

    def _wait_for_space(self, error: Exception) -> None:
        """The disk is full: nothing was applied or answered; free the ballast, try again.

        Raises the error again if space would not help.
        """
        if not self._store.lacks_space(error):
            raise error
        self._roll_back()
        self.metric(ApplierMetric.NO_SPACE, 1)
        freed = self._ballast.release()
        self._keep_room()
        self.log.error("no space left for the database", freed_bytes=freed, error=str(error))
        now = time.monotonic()
        self._retry_at = now if freed else now + self._retry_pause
        self._retry_pause = min(RETRY_SECONDS_MAX, 2 * self._retry_pause)
        self.actor_inbox.wake_at(self._retry_at)

    def _keep_room(self) -> None:
        """Without a ballast: see to it that a member restarted on a full disk can serve reads."""
        if not self._ballast.present:
            self._store.keep_room(self._ballast.room_bytes)

    def _let_go(self) -> None:
        """What is held will not be committed; what was told of it is void from now on."""
        self._held = None
        self.count(ApplierMetric.ROLLBACKS)

    def _roll_back(self) -> None:
        """Throw away everything since the last commit."""
        self._let_go()
        self._store.rollback()
        self._machine.reload()

    def _prune_once(self, order: Prune) -> None:
        self._words[self._block + Cell.OPERATIONS] |= int(Operation.COMPACT)
        failpoints.hit("compactAfterAcquiredBatchTxLock")
        try:
            progress = prune_slice(self._store, order.rows, order.revision)
        except DISK_ERRORS as error:
            if not self._store.lacks_space(error):
                raise
            self._store.rollback()
            self.send("compactor", Pruned(self._machine.compact_revision, 0, 0, False))
            return
        failpoints.hit("compactAfterCommitBatch")
        if progress.finished:
            failpoints.hit("compactAfterSetFinishedCompact")
        self.count(ApplierMetric.PRUNED_KEYS, progress.keys)
        self.metric(ApplierMetric.PRUNED_TO, max(0, self._store.pruned_to()))
        self.send(
            "compactor",
            Pruned(self._machine.compact_revision, progress.rows, progress.keys, progress.finished),
        )

    def _schedule_pruning(self) -> None:
        self.send(
            "compactor",
            CompactionScheduled(self._machine.compact_revision, self._store.pruned_to()),
        )

    def _report(self, now: float) -> None:
        if now >= self._next_report and self.links.is_open("snapshotter"):
            self._next_report = now + REPORT_SECONDS
            frames = self._store.wal_frames()
            self.metric(ApplierMetric.WAL_FRAMES, frames)
            self.send("snapshotter", Committed(self._machine.applied_index, frames))

    def _note_generation(self) -> None:
        """Tell which file is in use: whoever reads the database goes over to it."""
        _, index = place(generation(self._directory))
        self.metric(ApplierMetric.GENERATION, index)

    def _note_progress(self) -> None:
        machine = self._machine
        for op, word in COUNTED.items():
            self.count(word, machine.executed[op])
            machine.executed[op] = 0
        self.metric(ApplierMetric.APPLIED_INDEX, machine.applied_index)
        self.metric(ApplierMetric.APPLIED_TERM, machine.applied_term)
        self.metric(ApplierMetric.REVISION, machine.revision)
        self.metric(ApplierMetric.COMPACT_REVISION, max(0, machine.compact_revision))

    def stats(self) -> dict[str, Any]:
        """Return how far the database is."""
        return {
            "applied_index": self._machine.applied_index,
            "revision": self._machine.revision,
            "compact_revision": self._machine.compact_revision,
            "waiting": len(self._waiting),
            "open_transaction_requests": self._held.requests if self._held is not None else 0,
        }


def main(context: ActorContext) -> None:
    """Run the applier of one member."""
    run(Applier, context)
