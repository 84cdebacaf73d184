"""Consensus and the write-ahead log.

Owns      the raft core, the log on disk and the recent log in memory (raft_log.py).
Receives  Propose, ReadIndex and TransferLeader from gateways; AppliedTo from the applier; Durable,
          SnapshotStatus and SnapshotReceived from the snapshotter; PeerReceived and PeerLinks from
          the transport; Propose from lessor and compactor; Flush, Tick.
Sends     Apply, CommittedTo and InstallSnapshot to the applier (raft_feed.py); ReadStates and
          LeaderIs to gateways; Grant to lessor and compactor; SendSnapshot to the snapshotter;
          PeerMessages and PeersChanged to the transport.
Crashes   on a disk that fails to sync (the page cache can't be believed after that), on a log that
          does not reach what the database has applied, on any other message.

The log is written before anything leaves, and synced before anything that depends on it does
(raft's AsyncStorageWrites): the only voter syncs inline, one record and one fdatasync for all
proposals of a batch; with other voters a thread syncs, while MsgApp is under way already and
heartbeats go on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import pykka
from pykka._envelope import Envelope

from actors.base import Actor, handles, run
from actors.cpu_wait import CpuWait
from actors.messages import (
    AppliedTo,
    Durable,
    LeaderIs,
    PeerLinks,
    PeerMessages,
    PeerReceived,
    PeersChanged,
    Propose,
    ReadIndex,
    ReadStates,
    SendSnapshot,
    SnapshotReceived,
    SnapshotStatus,
    TransferLeader,
)
from actors.metrics import ApplierMetric, Histogram, RaftMetric, TransportMetric
from actors.peer_codec import decode_peer, read_peer
from actors.raft_admission import Admission
from actors.raft_clients import CONTEXT, Clients
from actors.raft_core import make_core
from actors.raft_elections import Elections, longest_round_trip
from actors.raft_feed import Feed
from actors.raft_grant import Granting
from actors.raft_log import FAST_SYNC_NS, Fsyncs, RaftLog
from actors.raft_outbox import Outbox
from actors.raft_quorum import Quorum
from actors.raft_refusals import Refusals
from actors.raft_roles import RoleWords, describe
from actors.raft_rounds import Intake
from actors.raft_transfers import Transfers
from actors.recovery import recover
from actors.space import LogSpace
from actors.wire import WATCHED_REQUESTS_MAX
from raft.conf_change import decode
from raft.errors import ProposalDroppedError, StepPeerNotFoundError
from raft.message import message
from raft.messages import (
    Message,
    MsgProp,
    MsgReadIndex,
    MsgSnap,
    MsgStorageAppend,
    MsgStorageApply,
)
from raft.raw_node import Ready
from raft.size import NO_LIMIT
from raft.state import Entry, EntryType, HardState
from transport.context import ActorContext
from transport.counters import Cell
from transport.links import Welcome
from transport.mailbox import Flush, Tick

ADMISSION_SECONDS: Final = 0.02
WATCHED_SYNC_NS: Final = 250_000  # the applier watches for longer than that


@message
class Leave:
    """Local: the member is being stopped; hand leadership over first."""


class RaftNode(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        config = context.config
        self._tick_length = int(config["heartbeat_interval_ms"]) / 1000
        self._election_timeout = int(config["election_timeout_ms"]) / 1000
        self._next_tick = time.monotonic() + self._tick_length
        self._applier = self.board.block("applier") + Cell.METRICS
        self._applied_word = self._applier + ApplierMetric.APPLIED_INDEX
        self._transport = self.board.block("transport") + Cell.METRICS
        self._granting = Granting(self._election_timeout, self._tick_length)
        own = partial(self.board.get, context.name)
        timeouts = (self._tick_length, self._election_timeout)
        self._words_of_role = RoleWords(own, self.metric, self.log, *timeouts)
        self._requests = 0
        self._clients = Clients(self.board)
        self._refusals = Refusals(self.log)
        self._chance = random.SystemRandom()
        self._early_durable: Durable | None = None
        self._term_first_index = 0
        self._transport_is_new = False
        self._sole_voter = False
        self.metric(RaftMetric.SOLE_VOTER, 0)

    # --- starting --------------------------------------------------------------------------------

    def on_start(self) -> None:
        """Replay the log and build the core from it. Runs on the actor's thread."""
        config = self.context.config
        resume_at = self.board.get(self.name, Cell.METRICS + RaftMetric.WAL_RESUME_AT)
        recovered = recover(self.context, self.log, resume_at)
        self._id = recovered.member_id
        self._cluster_id = recovered.cluster_id
        self._applied_index = recovered.applied_index
        self._conf_state = recovered.conf_state
        self._log = RaftLog(
            recovered,
            snapshot_count=int(config["snapshot_count"]),
            catchup=int(config["snapshot_catchup_entries"]),
            max_wals=int(config["max_wals"]),
            out_of_space=LogSpace(self.metric, self.note_progress, self.log),
            watch=lambda descriptor: self.actor_inbox.watch(descriptor, self._synced),
            syncs=Fsyncs(self.board, self.name, self.observer),
            writes=Histogram(self.board, self.name, RaftMetric.WAL_WRITE),
            syncing=partial(self.metric, RaftMetric.SYNC_SINCE_NS),
        )
        self._storage = self._log.storage
        asks = recovered.is_first and self._storage.last_index() > 1  # an entry for each member
        self._admission = Admission(
            self._id,
            lambda: self._words[self._transport + TransportMetric.STANDING],
            asks=asks and not config.get("unsafe_rejoin"),
        )
        self._feed = Feed(self._storage, partial(self.send, "applier"), self._applier_open)
        self._term = self._storage.initial_state()[0].term
        self._feed.may_apply = recovered.applied_index
        self._node = node = make_core(
            self._id,
            self._storage,
            recovered.applied_index,
            election_ticks=round(self._election_timeout / self._tick_length),
            pre_vote=bool(config["pre_vote"]),
            rng=self._chance.randrange,
        )
        self._transfers = Transfers(node, self._send_snapshot, self.log)
        self._outbox = Outbox(self._send_transport, Quorum(node, self._id), self._tick_length)
        self._intake = Intake(node, self._outbox, self._step, self._feed.remind, CpuWait())
        self.metric(RaftMetric.MEMBER_ID, self._id)
        self.metric(RaftMetric.CLUSTER_ID, self._cluster_id)
        self.metric(RaftMetric.SNAPSHOT_INDEX, self._log.snapshot_index)
        self._elections = Elections(
            self._node,
            licence_seconds=self._words_of_role.take_licence(self._term),
            fast_forward=bool(config.get("initial_election_tick_advance", True)),
            heartbeat_interval=self._tick_length,
            election_timeout=self._election_timeout,
            round_trip=lambda: longest_round_trip(self.board) + self._log.sync_ns / 1e9,
        )
        self._elections.alone(self._conf_state.voters)
        self._advance()

    def welcome(self, receiver: str, have: int) -> list[int]:
        """A stream opens; the applier gets entries from what it has."""
        if receiver == "applier":
            self._feed.start(have)
            # What it told a raft node that has died since, or could not tell, it tells by this.
            self._note_applied(min(have, self._storage.last_index()))
        elif receiver == "transport":
            self._transport_is_new = True
        elif receiver == "lessor":
            self._renew_grant(time.monotonic())  # a new lessor serves nobody without one
        return [self._id, self._cluster_id]

    @handles(Welcome)
    def welcomed(self, message: Welcome) -> None:
        """A new snapshotter does not know of the transfers of the one before."""
        if message.sender == "snapshotter":
            self._transfers.restart()

    # --- what others ask -------------------------------------------------------------------------

    @handles(Propose)
    def propose(self, message: Propose) -> None:
        """Take one batch; all of a turn are appended at once, expiries (no session) first."""
        self._intake.proposals.add(message.batch, urgent=not message.session)
        self._clients.note(time.monotonic())
        self.count(RaftMetric.REQUESTS, message.count)
        self._requests += message.count

    @handles(ReadIndex)
    def read_index(self, message: ReadIndex) -> None:
        """Note one gateway's reads; a round for all is asked at the end of the turn."""
        self._intake.reads.note(message.gateway, message.id)
        self._clients.note(time.monotonic())

    @handles(TransferLeader)
    def transfer_leader(self, message: TransferLeader) -> None:
        """Hand leadership to a member; the board tells when it has it."""
        self._node.transfer_leader(message.to)

    @handles(AppliedTo)
    def applied_to(self, message: AppliedTo) -> None:
        """The database has caught up: more may be sent, configuration changes take effect."""
        self._note_applied(message.index)

    def _note_applied(self, index: int) -> None:
        # With a snapshot the core has its configuration; what was changed before is part of that.
        if index <= self._applied_index or self._node.raft.log.unstable.snapshot is not None:
            return
        conf_indexes = self._log.conf_indexes
        while conf_indexes and conf_indexes[0] <= index:
            changed = conf_indexes.popleft()
            (entry,) = self._storage.entries(changed, changed + 1, NO_LIMIT)
            change = decode(entry.type, entry.data)
            self._conf_state = self._node.apply_conf_change(change)
            self._log.conf_applied(changed, self._conf_state)
            self._send_transport(PeersChanged(changed), 0)
            self._sole_voter = False
        self._applied_index = index
        early = self._early_durable
        if early is not None and early.applied_index <= index:
            self._early_durable = None
            self.durable(early)

    @handles(Durable)
    def durable(self, message: Durable) -> None:
        """The database file covers an index: record it, and let go of log it makes needless."""
        if message.applied_index > self._applied_index:  # the applier's own word is still to come
            self._early_durable = message
        elif message.applied_index > self._node.raft.log.applied:
            # Applied by what a raft node before this one gave out: the core has to pass it first,
            # for which it needs these entries. Another checkpoint follows.
            return
        elif self._log.cover(
            message,
            self._words[self._applier + ApplierMetric.REQUESTS],
            self._transfers.kept_from,
        ):
            self.metric(RaftMetric.SNAPSHOT_INDEX, self._log.snapshot_index)
            self.metric(RaftMetric.WAL_RESUME_AT, self._log.wal.resume_at)
            self.log.info("saved snapshot to disk", snapshot_index=self._log.snapshot_index)
            self.log.info("compacted Raft logs", compact_index=self._storage.first_index() - 1)

    # --- other members ---------------------------------------------------------------------------

    @handles(PeerReceived)
    def peer_received(self, message: PeerReceived) -> None:
        """Step what other members sent; what is none of raft's is dropped and counted."""
        if not self._admission.granted():
            return
        for sender, payload in zip(message.senders, message.payloads, strict=True):
            received = read_peer(sender, self._id, payload)
            if received is None:
                self._refuse(sender, "no message of raft, or not its own")
                continue
            if isinstance(received, MsgProp | MsgReadIndex):
                self._intake.forwarded(received, time.monotonic())
            else:
                self._step(received)

    def _step(self, received: Message) -> None:
        try:
            self._node.step(received)
        except ProposalDroppedError:  # its gateway proposes again
            self.count(RaftMetric.PROPOSALS_FAILED)
        except StepPeerNotFoundError:  # a member that was removed, or is not added here yet
            self._refuse(received.from_, "not in the configuration")

    def _refuse(self, sender: int, why: str) -> None:
        self.count(RaftMetric.PEER_MESSAGES_REFUSED)
        self._refusals.note(sender, why)

    @handles(PeerLinks)
    def peer_links(self, message: PeerLinks) -> None:
        """Raft probes who is unreachable; a leader whose process is gone need not be waited for."""
        for member in message.unreachable:
            self._node.report_unreachable(member)
        campaign_at = self._elections.lost(message.lost)
        if campaign_at is not None:
            self.actor_inbox.wake_at(campaign_at)

    def _send_snapshot(self, order: SendSnapshot) -> bool:
        return self.links.is_open("snapshotter") and self.send("snapshotter", order)

    @handles(SnapshotStatus)
    def snapshot_status(self, message: SnapshotStatus) -> None:
        """A transfer is over: the member goes on from there, or raft probes it again."""
        self._transfers.over(message, time.monotonic())

    @handles(SnapshotReceived)
    def snapshot_received(self, message: SnapshotReceived) -> None:
        """The leader's state is on disk here; raft decides whether it is news."""
        if self._admission.granted():
            self._step(decode_peer(message.payload))

    # --- time ------------------------------------------------------------------------------------

    @handles(Tick)
    def tick(self, message: Tick) -> None:
        """Raft's clock: one tick each heartbeat interval, none made up for after a long pause."""
        now = message.now
        self._feed.tell_late(now, self._words[self._applied_word])
        campaign_at = self._elections.tick(now)
        if now >= self._next_tick and not self._admission.granted():
            self._next_tick = now + ADMISSION_SECONDS
        elif now >= self._next_tick:
            self._next_tick = max(self._next_tick + self._tick_length, now)
            self._raft_ticks(now)
        again = self._elections.may_stop(now)
        if again == 0.0:
            self.actor_inbox.put(Envelope(pykka.messages._ActorStop()))
        self.actor_inbox.wake_at(
            min(when for when in (self._next_tick, again, campaign_at) if when)
        )

    def _raft_ticks(self, now: float) -> None:
        self._node.tick()
        self._elections.raft_ticked(self._words[self._transport + TransportMetric.ACTIVE_PEERS])
        if self._granting.due(now):
            self._renew_grant(now)
        self._words_of_role.stamp(self._node)
        self._clients.look(now)
        if not self._node.is_leader and self._clients.ask_due(now):
            self._node.read_index(CONTEXT)
        self._log.prepare()
        self._transfers.look(now)
        self._refusals.tell(now)

    def _ask_stop(self) -> dict[str, Any]:
        self.actor_inbox.put(Envelope(Leave()))
        return {}

    @handles(Leave)
    def leave(self, _: Leave) -> None:
        """Hand leadership to the member connected longest, as etcd does, then stop."""
        longest = self._words[self._transport + TransportMetric.LONGEST_CONNECTED]
        to = self._elections.leave(self._conf_state.voters, longest)
        if to:
            self.log.info("leadership transfer starting", **{"transferee-member-id": f"{to:x}"})
        self.actor_inbox.wake_at(time.monotonic())

    # --- a turn ----------------------------------------------------------------------------------

    @handles(Flush)
    def flush(self, _: Flush) -> None:
        """Append and sync once for all that came, then hand on what is committed."""
        self._note_applied(min(self._words[self._applied_word], self._storage.last_index()))
        for response in self._feed.applied(self._applied_index):
            self._node.step(response)
        if not self._sole_voter:
            self._elections.alone(self._conf_state.voters)
            self._note_sole_voter()
        if self._transport_is_new:
            self._transport_is_new = False
            if self._elections.connected():
                self.log.info("campaigning at once: led this term a moment ago", term=self._term)
        self._take_up()
        self._advance()
        if self._intake:  # raft may have a leader now, or a round may be over
            self._take_up()
            self._advance()
        self._tell_committed()
        if not self._node.is_leader:
            self._send_outbox()  # first: the leader waits for it
        self._pull()
        self._send_outbox()
        if self._requests or not self._sole_voter:
            # A lone client of the only voter asks again as soon as it is answered.
            few = self._requests <= WATCHED_REQUESTS_MAX
            self.actor_inbox.lingers = few and self._sole_voter
            self._requests = 0

    def _pull(self) -> None:
        now = time.monotonic()
        hurry = self._node.is_leader or bool(self._log.conf_indexes) or self._clients.present(now)
        self.actor_inbox.wake_at(self._feed.pull(now, hurry=hurry))

    def _take_up(self) -> None:
        """Give raft what clients ask for; while nobody leads it waits here, if there is room."""
        dropped, again = self._intake.take_up(time.monotonic())
        if dropped:
            self.count(RaftMetric.PROPOSALS_FAILED, dropped)
        self.actor_inbox.wake_at(again)

    def _tell_committed(self) -> None:
        watched = self._requests <= WATCHED_REQUESTS_MAX and self._log.sync_ns < WATCHED_SYNC_NS
        wake = self._feed.tell_committed(watched=watched)
        if wake is not None:
            self.actor_inbox.wake_at(wake)

    def _advance(self) -> None:
        """Carry out what the core asks for, until it asks for nothing more."""
        node = self._node
        while node.has_ready():
            ready = node.ready()
            append: MsgStorageAppend | None = None
            for order in ready.messages:
                if type(order) is MsgStorageAppend:
                    append = order
                elif type(order) is MsgStorageApply:
                    self._feed.allow(order)
                elif type(order) is MsgSnap:
                    self._transfers.begin(order)
                else:
                    self._outbox.add(order)  # type: ignore[arg-type]
            self._note_term(ready)
            if append is not None:
                self._store(append, must_sync=ready.must_sync)
            self._note_roles(ready)
            for state in ready.read_states:
                self._answer_reads(state.context, state.index)

    def _answer_reads(self, context: bytes, index: int) -> None:
        grant = self._granting.answered(context, self._term, self._term_first_index)
        if grant is not None:
            if self._node.is_leader:
                self._send_grant(grant)
            return
        for gateway, read_id in self._intake.reads.answered(context).items():
            self.send(gateway, ReadStates(read_id, index))
            self.count(RaftMetric.READ_INDEXES)

    # --- the log ---------------------------------------------------------------------------------

    def _store(self, order: MsgStorageAppend, *, must_sync: bool) -> None:
        """Write; sync here or on the thread; let out what depends on it, in order."""
        log, entries = self._log, order.entries
        if order.snapshot is not None:
            self._install(order)
        for entry in entries:
            if entry.type != EntryType.NORMAL:
                self._sole_voter = False
                self.metric(RaftMetric.SOLE_VOTER, 0)
        log.write(entries, order.hard_state, now=must_sync)
        if not must_sync:
            if log.settled:
                self._let_out(order.responses)
            else:
                log.wait_in_line(order.responses)
            return
        alone = self._conf_state.voters == (self._id,)
        # A follower whose disk is fast saves the way to the thread and back; a sync that turns out
        # slow holds it up once, which no leader minds.
        fast = not self._node.is_leader and log.sync_ns < FAST_SYNC_NS
        if not (log.settled and (alone or fast)):
            log.sync_behind(order.responses)
            self._count_written(entries)
            return
        self._send_ahead(order)
        if not self._sole_voter:
            self._send_outbox()
        log.sync()
        if self._sole_voter and entries:
            # Durable at the only voter is committed; the applier may be looking for it.
            self.metric(RaftMetric.COMMITTED_INDEX, entries[-1].index)
        self._let_out(order.responses)
        self._count_written(entries)

    def _count_written(self, entries: Sequence[Entry]) -> None:
        if entries:
            self.count(RaftMetric.WAL_ENTRIES, len(entries))
            self.count(RaftMetric.WAL_BYTES, sum([len(entry.data) for entry in entries]))
            self.metric(RaftMetric.LAST_INDEX, entries[-1].index)

    def _synced(self) -> None:
        """The sync thread has finished something; a Flush follows."""
        self._let_out(self._log.synced())

    def _let_out(self, responses: Any) -> None:
        for response in responses:
            if response.to == self._id:
                self._node.step(response)
            else:
                self._outbox.add(response)

    def _install(self, order: MsgStorageAppend) -> None:
        assert order.snapshot is not None
        metadata = order.snapshot.metadata
        self._log.install(order.snapshot)
        self._conf_state = metadata.conf_state
        self._applied_index = metadata.index
        self._early_durable = None
        self.metric(RaftMetric.SNAPSHOT_INDEX, metadata.index)
        self.log.info("installed a snapshot of the leader", index=metadata.index)
        self._send_transport(PeersChanged(metadata.index), 0)

    def _send_ahead(self, order: MsgStorageAppend) -> None:
        """Let an idle applier carry out what is being made durable: the two take equally long.

        Only for the only voter, whose written entries nobody can replace, and only when the
        applier has nothing else to do: a batch it holds open would make others wait.
        """
        entries = order.entries
        if (
            self._sole_voter
            and self._feed.idle
            and entries
            and entries[0].index == self._feed.sent_index + 1
            and self._applier_open()
        ):
            self._feed.send_entries(entries)

    # --- what the board and others are told ------------------------------------------------------

    def _note_term(self, ready: Ready) -> None:
        if ready.hard_state is not None:
            self._note_hard_state(ready.hard_state)
        if ready.soft_state is not None and self._node.is_leader:
            term = self._node.raft.term
            own = (entry.index for entry in ready.entries if entry.term == term)
            self._term_first_index = next(own, self._term_first_index)

    def _note_hard_state(self, hard_state: HardState) -> None:
        self._term = hard_state.term
        self.metric(RaftMetric.TERM, hard_state.term)
        self.metric(RaftMetric.COMMITTED_INDEX, hard_state.commit)

    def _note_roles(self, ready: Ready) -> None:
        """Tell who leads: gateways read it on the board, and propose again to a new one."""
        if ready.soft_state is None:
            return
        leader = ready.soft_state.lead
        if leader:
            self.count(RaftMetric.LEADER_CHANGES)
        self._words_of_role.tell(self._node)
        if self._node.is_leader:
            self._renew_grant(time.monotonic())
        else:
            self._outbox.forget()
            self._sole_voter = False
            self.metric(RaftMetric.SOLE_VOTER, 0)
            self._send_grant(self._granting.ended(self._term))
        for name in self.board.names:
            if name.startswith("gateway-") and self.links.is_open(name):
                self.send(name, LeaderIs(leader, self._term), 0)

    def _note_sole_voter(self) -> None:
        """Say whether a view of the database is fresh by itself (see MemberWords.is_sole_voter)."""
        sole = (
            self._node.is_leader
            and self._conf_state.voters == (self._id,)
            and not self._conf_state.voters_outgoing
            and not self._conf_state.learners  # one may acknowledge what is not applied here yet
            and not self._log.conf_indexes
            and self._applied_index >= self._term_first_index > 0
        )
        if sole:
            self._sole_voter = True
            self.metric(RaftMetric.SOLE_VOTER, 1)

    def _renew_grant(self, now: float) -> None:
        if self._node.is_leader:
            self._node.read_index(self._granting.ask(now))

    def _send_grant(self, grant: Any) -> None:
        for receiver in ("lessor", "compactor"):
            if self.links.is_open(receiver):
                self.send(receiver, grant)

    def _applier_open(self) -> bool:
        return self.links.is_open("applier")

    def _send_transport(self, order: PeerMessages | PeersChanged, items: int) -> bool:
        return self.links.is_open("transport") and self.send("transport", order, items)

    def _send_outbox(self) -> None:
        dropped, again = self._outbox.flush(time.monotonic())
        for member in dropped:
            self._node.report_unreachable(member)
        self.actor_inbox.wake_at(again)

    def stats(self) -> dict[str, Any]:
        """Return term, role, indexes and, on a leader, the progress of the others."""
        return describe(self._node, self._id) | {
            "applied_index": self._applied_index,
            "sent_index": self._feed.sent_index,
            "last_index": self._storage.last_index(),
            "outstanding_bytes": self._feed.outstanding_bytes,
            "copies_dropped": self._intake.copies.dropped,
        }


def main(context: ActorContext) -> None:
    """Run the raft node of one member."""
    run(RaftNode, context)
