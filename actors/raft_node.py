"""Consensus and the write-ahead log.

Owns      the raft core, the log on disk and the recent log in memory.
Receives  Propose and ReadIndex from gateways; AppliedTo from the applier; Durable from the
          snapshotter; PeerReceived from the transport; Flush, Tick.
Sends     Apply and CommittedTo to the applier (pulled: a bounded number of bytes outstanding);
          ReadStates to gateways; Grant to lessor and compactor; PeerMessages to the transport.
Crashes   on a disk that fails to sync (the page cache can't be believed after that), on a log that
          does not reach what the database has applied, on any other message.

The log is written and synced before anything that depends on it leaves: with a single voter inline,
one record and one fdatasync for all proposals of a batch.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from actors.base import NANOSECONDS, Actor, handles, run
from actors.messages import (
    AppliedTo,
    Apply,
    CommittedTo,
    Durable,
    Grant,
    PeerReceived,
    Propose,
    ReadIndex,
    ReadStates,
)
from actors.metrics import ApplierMetric, Histogram, RaftMetric
from actors.recovery import recover
from actors.wire import WATCHED_REQUESTS_MAX
from raft.conf_change import decode
from raft.config import Config
from raft.errors import ProposalDroppedError
from raft.raw_node import RawNode, Ready
from raft.size import NO_LIMIT
from raft.state import Entry, EntryType, HardState, SnapshotMetadata
from storage.wal_errors import WalSpaceError
from transport.context import ActorContext
from transport.counters import Cell
from transport.mailbox import Flush, Tick

APPLY_BYTES_MAX: Final = 16 << 20
MEMORY_BYTES_MAX: Final = 32 << 20
PREPARE_BYTES: Final = 4 << 20
SPACE_RETRY_SECONDS: Final = 0.05
WATCHED_SYNC_NS: Final = 250_000  # the applier watches for longer than that
TELL_SECONDS: Final = 0.002
READS_ASKED_MAX: Final = 1000


class RaftNode(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        config = context.config
        self._snapshot_count = int(config["snapshot_count"])
        self._catchup = int(config["snapshot_catchup_entries"])
        self._max_wals = int(config["max_wals"])
        self._tick_length = int(config["heartbeat_interval_ms"]) / 1000
        self._election_timeout = int(config["election_timeout_ms"]) / 1000
        self._next_tick = time.monotonic() + self._tick_length
        applier = self.board.block("applier") + Cell.METRICS
        self._applied_word = applier + ApplierMetric.APPLIED_INDEX
        self._tell_at: float | None = None
        self._next_grant = 0.0
        self._sync_ns = 0
        self._requests = 0
        self._proposals: list[bytes] = []
        self._reads: dict[str, int] = {}
        self._reads_asked: dict[bytes, dict[str, int]] = {}
        self._read_prefix = random.SystemRandom().randbytes(8)
        self._read_counter = 0
        self._sent_index = 0
        self._committed_told = 0
        self._outstanding: deque[tuple[int, int]] = deque()
        self._outstanding_bytes = 0
        self._requests_since_snapshot = 0
        self._early_durable: Durable | None = None
        self._memory_bytes = 0
        self._term_first_index = 0
        self._prepared = False
        self._unwritten: HardState | None = None
        self._out_of_space = False
        self.metric(RaftMetric.NO_SPACE, 0)
        self._sole_voter = False
        self.metric(RaftMetric.SOLE_VOTER, 0)

    def on_start(self) -> None:
        """Replay the log and build the core from it. Runs on the actor's thread."""
        recovered = recover(self.context, self.log)
        self._id = recovered.member_id
        self._cluster_id = recovered.cluster_id
        self._wal = recovered.wal
        self._storage = recovered.storage
        self._applied_index = recovered.applied_index
        self._snapshot_index = recovered.snapshot.index
        self._conf_state = recovered.conf_state
        hard_state, _ = self._storage.initial_state()
        self._term = hard_state.term
        self._committed = max(hard_state.commit, recovered.applied_index)
        self._fsync = Histogram(self.board, self.name, RaftMetric.FSYNC)
        chance = random.SystemRandom()
        self._node = RawNode(
            Config(
                id=self._id,
                election_tick=max(2, round(self._election_timeout / self._tick_length)),
                heartbeat_tick=1,
                storage=self._storage,
                applied=recovered.applied_index,
                max_size_per_msg=512 << 10,
                max_committed_size_per_ready=APPLY_BYTES_MAX,
                max_inflight_msgs=512,
                check_quorum=True,
                pre_vote=bool(self.context.config["pre_vote"]),
                rng=chance.randrange,
            )
        )
        self.metric(RaftMetric.MEMBER_ID, self._id)
        self.metric(RaftMetric.CLUSTER_ID, self._cluster_id)
        self.metric(RaftMetric.SNAPSHOT_INDEX, self._snapshot_index)
        self._campaign_alone()
        self._advance()

    def welcome(self, receiver: str, have: int) -> list[int]:
        """A stream opens; the applier gets entries from what it has."""
        if receiver == "applier":
            first = self._storage.first_index()
            assert have >= first - 1, f"the applier has {have}, the log starts at {first}"
            self._sent_index = self._committed_told = have
            self._outstanding.clear()
            self._outstanding_bytes = 0
            # What it told a raft node that has died since, or could not tell, it tells by this.
            self._note_applied(have, conf_changed=True)
        return [self._id, self._cluster_id]

    @handles(Propose)
    def propose(self, message: Propose) -> None:
        """Take one batch; it is appended with all others of this turn."""
        self._proposals.append(message.batch)
        self.count(RaftMetric.REQUESTS, message.count)
        self._requests += message.count
        self._requests_since_snapshot += message.count

    @handles(ReadIndex)
    def read_index(self, message: ReadIndex) -> None:
        """Note one gateway's reads; its newest id of a turn stands for all before it."""
        self._reads[message.gateway] = message.id

    @handles(AppliedTo)
    def applied_to(self, message: AppliedTo) -> None:
        """The database has caught up: more may be sent, configuration changes take effect."""
        self._note_applied(message.index, conf_changed=message.conf_changed)

    def _note_applied(self, index: int, *, conf_changed: bool) -> None:
        if index <= self._applied_index:
            return
        if conf_changed:
            first = self._applied_index + 1
            for entry in self._storage.entries(first, index + 1, NO_LIMIT):
                if entry.type != EntryType.NORMAL:
                    change = decode(entry.type, entry.data)
                    self._conf_state = self._node.apply_conf_change(change)
            self._campaign_alone()
        self._applied_index = index
        early = self._early_durable
        if early is not None and early.applied_index <= index:
            self._early_durable = None
            self.durable(early)

    @handles(Durable)
    def durable(self, message: Durable) -> None:
        """The database file covers an index: record it, and let go of log it makes needless."""
        full = self._memory_bytes > MEMORY_BYTES_MAX
        index = message.applied_index
        if index <= self._snapshot_index:
            return
        if index > self._applied_index:  # the applier's own message is still to come
            self._early_durable = message
            return
        if self._requests_since_snapshot < self._snapshot_count and not full:
            return
        term = self._storage.term(index)
        try:
            self._wal.save_snapshot(SnapshotMetadata(index, term, self._conf_state))
        except WalSpaceError:
            return
        self._requests_since_snapshot = 0
        self._storage.create_snapshot(index, self._conf_state)
        self._snapshot_index = index
        self.metric(RaftMetric.SNAPSHOT_INDEX, index)
        keep_from = index if full else index - self._catchup
        if keep_from >= self._storage.first_index():
            first = self._storage.first_index()
            for entry in self._storage.entries(first, keep_from + 1, NO_LIMIT):
                self._memory_bytes -= len(entry.data)
            self._storage.compact(keep_from)
            self.log.debug("compacted Raft logs", compact_index=keep_from)
        self._wal.release(self._storage.first_index() - 1, self._max_wals)

    @handles(PeerReceived)
    def peer_received(self, message: PeerReceived) -> None:
        """Messages of other members; a member alone has no peers to send any."""
        raise AssertionError(f"a message from a peer, but there is none: {message.senders}")

    @handles(Tick)
    def tick(self, message: Tick) -> None:
        """Raft's clock: one tick each heartbeat interval, none made up for after a long pause."""
        if self._tell_at is not None and message.now >= self._tell_at:
            self._tell_committed()
        if message.now >= self._next_tick:
            self._node.tick()
            self._next_tick = max(self._next_tick + self._tick_length, message.now)
            if message.now >= self._next_grant:
                self._grant()
            if not self._prepared:
                self._prepare_segment()
        self.actor_inbox.wake_at(self._next_tick)

    @handles(Flush)
    def flush(self, _: Flush) -> None:
        """Append and sync once for all that came, then hand on what is committed."""
        self._see_applied()
        if self._proposals:
            proposals, self._proposals = self._proposals, []
            try:
                self._node.propose(proposals)
            except ProposalDroppedError:  # no leader: gateways propose again
                self.count(RaftMetric.PROPOSALS_FAILED, len(proposals))
        if self._reads:
            self._read_counter += 1
            context = self._read_prefix + self._read_counter.to_bytes(8, "big")
            self._reads_asked[context], self._reads = self._reads, {}
            if len(self._reads_asked) > READS_ASKED_MAX:  # without a leader nobody answers
                del self._reads_asked[next(iter(self._reads_asked))]
            self._node.read_index(context)
        self._advance()
        self._pull()
        self._requests = 0

    def _prepare_segment(self) -> None:
        """Make a slice of the next segment ready, so that no put waits for it."""
        try:
            self._prepared = self._wal.prepare_slice(PREPARE_BYTES)
        except WalSpaceError:
            return  # the append that needs the segment says so

    def _campaign_alone(self) -> None:
        """The only voter need not wait for a timeout: nobody else could lead."""
        if self._conf_state.voters == (self._id,) and not self._node.is_leader:
            self._node.campaign()

    def _note_sole_voter(self, applied: int) -> None:
        """Say whether a view of the database is fresh by itself (see MemberWords.is_sole_voter)."""
        sole = (
            self._node.is_leader
            and self._conf_state.voters == (self._id,)
            and not self._conf_state.voters_outgoing
            and applied >= self._term_first_index > 0
        )
        if sole != self._sole_voter:
            self._sole_voter = sole
            self.metric(RaftMetric.SOLE_VOTER, sole)

    def _advance(self) -> None:
        """Carry out what the core asks for, until it asks for nothing more."""
        while self._node.has_ready():
            ready = self._node.ready()
            self._persist(ready)
            self._note(ready)
            for state in ready.read_states:
                for gateway, read_id in self._reads_asked.pop(state.context, {}).items():
                    self.send(gateway, ReadStates(read_id, state.index))
                    self.count(RaftMetric.READ_INDEXES)
            assert not ready.messages, f"messages for peers, but there are none: {ready.messages}"
            self._node.advance(ready)

    def _persist(self, ready: Ready) -> None:
        hard_state = ready.hard_state
        if hard_state is not None:
            self._unwritten = hard_state
            self._storage.set_hard_state(hard_state)
        if any(entry.type != EntryType.NORMAL for entry in ready.entries):
            self._sole_voter = False
            self.metric(RaftMetric.SOLE_VOTER, 0)
        if ready.entries or ready.must_sync:
            # A commit index alone needs no write of its own: it goes with the next record.
            self._append(ready.entries)
            self._prepared = False
            self._send_ahead(ready)
        if ready.must_sync:
            started = time.monotonic_ns()
            self._wal.sync()
            self._sync_ns = time.monotonic_ns() - started
            if self._sole_voter and ready.entries:
                # Durable at the only voter is committed; the applier may be looking for it.
                self.metric(RaftMetric.COMMITTED_INDEX, ready.entries[-1].index)
            self._fsync.observe(self._sync_ns)
        if ready.entries:
            self._storage.append(ready.entries)
            size = sum(len(entry.data) for entry in ready.entries)
            self._memory_bytes += size
            self.count(RaftMetric.WAL_ENTRIES, len(ready.entries))
            self.count(RaftMetric.WAL_BYTES, size)
            self.metric(RaftMetric.LAST_INDEX, ready.entries[-1].index)

    def _append(self, entries: Sequence[Entry]) -> None:
        """Write to the log; when the disk is full wait here for space: nothing else may go on."""
        while True:
            try:
                self._wal.append(entries, self._unwritten)
                break
            except WalSpaceError as error:
                if not self._out_of_space:
                    self.log.error("no space left for the log", error=str(error))
                self._set_out_of_space(True)
                self.note_progress()
                time.sleep(SPACE_RETRY_SECONDS)
        self._unwritten = None
        self._set_out_of_space(False)

    def _set_out_of_space(self, full: bool) -> None:
        if full != self._out_of_space:
            self._out_of_space = full
            self.metric(RaftMetric.NO_SPACE, full)

    def _note(self, ready: Ready) -> None:
        """Tell the board what changed: gateways read term, leader and indexes there."""
        if ready.hard_state is not None:
            self._note_hard_state(ready.hard_state)
        if ready.soft_state is None:
            return
        leader = ready.soft_state.lead
        if leader:
            self.count(RaftMetric.LEADER_CHANGES)
        self.metric(RaftMetric.LEADER, leader)
        self.metric(RaftMetric.IS_LEADER, leader == self._id)
        self._term_first_index = self._storage.last_index()
        self._grant()

    def _note_hard_state(self, hard_state: HardState) -> None:
        self._term = hard_state.term
        self._committed = hard_state.commit
        self.metric(RaftMetric.TERM, hard_state.term)
        self.metric(RaftMetric.COMMITTED_INDEX, hard_state.commit)

    def _send_ahead(self, ready: Ready) -> None:
        """Let an idle applier carry out what is being made durable: the two take equally long.

        Only for the only voter, whose written entries nobody can replace, and only when the
        applier has nothing else to do: a batch it holds open would make others wait.
        """
        entries = ready.entries
        if (
            self._sole_voter
            and not self._outstanding
            and entries
            and entries[0].index == self._sent_index + 1
            and self.links.is_open("applier")
        ):
            self._send_entries(entries)

    def _pull(self) -> None:
        """Send committed entries to the applier, as far as its credit goes."""
        committed = self._committed
        if self._committed_told < min(committed, self._sent_index):
            seen = self._requests <= WATCHED_REQUESTS_MAX and self._sync_ns < WATCHED_SYNC_NS
            if seen and self._tell_at is None:
                self._tell_at = time.monotonic() + TELL_SECONDS
                self.actor_inbox.wake_at(self._tell_at)
            elif not seen:
                self._tell_committed()
        while self._sent_index < committed and self._outstanding_bytes < APPLY_BYTES_MAX:
            if not self.links.is_open("applier"):
                return
            first = self._sent_index + 1
            self._send_entries(self._storage.entries(first, committed + 1, APPLY_BYTES_MAX))

    def _tell_committed(self) -> None:
        """Tell the applier that what it holds is durable, unless it has seen that by itself."""
        self._tell_at = None
        self._committed_told = min(self._committed, self._sent_index)
        if self._words[self._applied_word] < self._committed_told:
            self.send("applier", CommittedTo(self._committed_told), 0)

    def _see_applied(self) -> None:
        """Look how far the database is; messages say it too, but not for every batch."""
        applied = self._words[self._applied_word]
        while self._outstanding and self._outstanding[0][0] <= applied:
            self._outstanding_bytes -= self._outstanding.popleft()[1]
        if not self._sole_voter:
            self._note_sole_voter(applied)

    def _send_entries(self, entries: Sequence[Entry]) -> None:
        datas = [entry.data for entry in entries]
        size = sum(map(len, datas))
        sent = self.send(
            "applier",
            Apply(
                self._committed,
                entries[0].index,
                [entry.term for entry in entries],
                [int(entry.type) for entry in entries],
                datas,
            ),
            len(entries),
        )
        assert sent, "the edge to the applier is full, though its bytes are bounded"
        self._sent_index = entries[-1].index
        self._committed_told = min(self._committed, self._sent_index)
        self._outstanding.append((self._sent_index, size))
        self._outstanding_bytes += size

    def _grant(self) -> None:
        """Renew the leadership grant: the only voter's quorum is itself, now."""
        self._next_grant = time.monotonic() + self._election_timeout / 3
        deadline = 0
        if self._node.is_leader:
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            deadline = now + int(self._election_timeout * NANOSECONDS)
        grant = Grant(self._term, self._term_first_index, deadline)
        for receiver in ("lessor", "compactor"):
            if self.links.is_open(receiver):
                self.send(receiver, grant)

    def stats(self) -> dict[str, Any]:
        """Return term, role and indexes."""
        status = self._node.status()
        return {
            "id": f"{self._id:x}",
            "term": status.term,
            "leader": f"{status.lead:x}",
            "role": str(status.raft_state),
            "applied_index": self._applied_index,
            "sent_index": self._sent_index,
            "last_index": self._storage.last_index(),
            "outstanding_bytes": self._outstanding_bytes,
        }


def main(context: ActorContext) -> None:
    """Run the raft node of one member."""
    run(RaftNode, context)
