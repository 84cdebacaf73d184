"""The core as its driver sees it: put messages in, take a Ready out, say when it is done.

    node.tick() / step(message) / propose(datas) / read_index(context) ...
    while node.has_ready():
        ready = node.ready()
        ...                      # see Ready
        node.advance(ready)      # not with async_storage_writes

Nothing is repeated: what a Ready has told is taken as known. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft import membership
from raft.change import Change, ConfChange, ConfChangeType, encode
from raft.config import Config
from raft.errors import InvariantError, StepLocalMessageError, StepPeerNotFoundError
from raft.leader import needs_round
from raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    LOCAL_MESSAGES,
    NONE,
    RESPONSES,
    AfterAppend,
    Message,
    MsgForgetLeader,
    MsgHup,
    MsgProp,
    MsgReadIndex,
    MsgSnapStatus,
    MsgStorageAppend,
    MsgStorageAppendResp,
    MsgStorageApply,
    MsgStorageApplyResp,
    MsgTransferLeader,
    MsgUnreachable,
    is_local_target,
)
from raft.node import Raft
from raft.ready import Ready
from raft.roles import LEADER, CampaignType, SoftState
from raft.size import NO_LIMIT, entries_size
from raft.state import ConfState, Entry, HardState
from raft.status import Status, status
from raft.step import step, tick

__all__ = ["RawNode", "Ready"]


class RawNode:
    """See the module.

    Invariants:
    - Without async_storage_writes: at most one Ready is out, and _on_advance is what it waits for.
    - _prev_* is what the last Ready told, so a Ready tells only what has changed.
    """

    __slots__ = (
        "_async",
        "_on_advance",
        "_prev_commit",
        "_prev_lead",
        "_prev_state",
        "_prev_term",
        "_prev_vote",
        "_storage",
        "raft",
    )

    def __init__(self, config: Config) -> None:
        """Begin from what storage holds. Raises ConfigError, ConfChangeError."""
        self.raft = Raft(config)
        self._async = config.async_storage_writes
        self._storage = config.storage
        self._on_advance: list[Message] = []
        self._remember()

    def _remember(self) -> None:
        r = self.raft
        self._prev_lead, self._prev_state = r.lead, r.state
        self._prev_term, self._prev_vote, self._prev_commit = r.term, r.vote, r.log.committed

    def bootstrap(self, peers: Sequence[tuple[int, bytes]]) -> None:
        """Begin an empty log with one committed ConfChange for each (id, context).

        The same on every first member. Raises ValueError.
        """
        if not peers:
            raise ValueError("must provide at least one peer to Bootstrap")
        if self._storage.last_index() != 0:
            raise ValueError("can't bootstrap a nonempty Storage")
        r = self.raft
        self._prev_term = self._prev_vote = self._prev_commit = 0
        r.become_follower(1, NONE)
        entries = []
        for index, (id_, context) in enumerate(peers, 1):
            kind, data = encode(ConfChange(ConfChangeType.ADD_NODE, id_, context))
            entries.append(Entry(1, index, data, kind))
        r.log.append(entries)
        r.log.committed = len(entries)
        for id_, _ in peers:
            membership.apply_conf_change(r, ConfChange(ConfChangeType.ADD_NODE, id_))

    # In

    def tick(self) -> None:
        """One tick of the clock has passed."""
        tick(self.raft)

    def tick_quiesced(self) -> None:
        """Let the election clock run on, but never campaign or send heartbeats."""
        self.raft.election_elapsed += 1

    def campaign(self, force: bool = False) -> None:
        """Start an election now; `force` overrules leases and skips the pre-vote."""
        if force:
            self.raft.hup(CampaignType.TRANSFER)
        else:
            step(self.raft, MsgHup(NONE, self.raft.id, 0))

    def propose(self, datas: Sequence[bytes]) -> None:
        """Append one entry for each of `datas`, all or none. Raises ProposalDroppedError."""
        entries = tuple([Entry(0, 0, data) for data in datas])
        step(self.raft, MsgProp(NONE, self.raft.id, 0, entries))

    def propose_conf_change(self, change: Change | None) -> None:
        """Propose a configuration change; None leaves a joint one. Raises ProposalDroppedError.

        A change the leader may not propose now becomes an empty entry: the proposer can only
        tell from what is committed.
        """
        kind, data = encode(change)
        step(self.raft, MsgProp(NONE, self.raft.id, 0, (Entry(0, 0, data, kind),)))

    def apply_conf_change(self, change: Change) -> ConfState:
        """Put a committed change into force, when its entry is applied. Raises ConfChangeError.

        To refuse it, apply a change of node 0 instead.
        """
        return membership.apply_conf_change(self.raft, change)

    def step(self, message: Message) -> None:
        """Take a message of a peer, or of a storage thread.

        Raises StepLocalMessageError, StepPeerNotFoundError, ProposalDroppedError.
        """
        kind, from_ = type(message), message.from_
        if not is_local_target(from_):
            if kind in LOCAL_MESSAGES:
                raise StepLocalMessageError
            # Our own append thread may answer after our removal: that is no stranger.
            known = from_ in self.raft.tracker.progress or from_ == self.raft.id
            if kind in RESPONSES and not known:
                raise StepPeerNotFoundError
        step(self.raft, message)

    def read_index(self, context: bytes) -> None:
        """Ask for a ReadState with this context, which is unique for ever. It may get lost."""
        step(self.raft, MsgReadIndex(NONE, NONE, 0, context))

    def needs_round(self, request: MsgReadIndex) -> bool:
        """Tell of a leader whether it must hear of others before it answers a read."""
        return needs_round(self.raft, request)

    def transfer_leader(self, to: int) -> None:
        """Ask that `to` become the leader."""
        step(self.raft, MsgTransferLeader(NONE, to, 0))

    def report_unreachable(self, id_: int) -> None:
        """Note that the last message to `id_` was not delivered."""
        step(self.raft, MsgUnreachable(NONE, id_, 0))

    def report_snapshot(self, id_: int, ok: bool) -> None:
        """Note that sending a snapshot to `id_` has ended; must be called if it failed."""
        step(self.raft, MsgSnapStatus(NONE, id_, 0, not ok))

    def forget_leader(self) -> None:
        """As follower, be ready to vote for somebody else in the next term."""
        step(self.raft, MsgForgetLeader(NONE, NONE, 0))

    def status(self) -> Status:
        """Return what is going on; progress of the others only on a leader."""
        return status(self.raft)

    # Out

    def has_ready(self) -> bool:
        """Tell whether ready() would have anything to tell."""
        r = self.raft
        return bool(
            r.msgs
            or r.msgs_after_append
            or r.log.unstable.has_next_entries()
            or r.log.has_next_committed_entries(not self._async)
            or r.read_states
            or self._hard_state_changed()
            or r.lead != self._prev_lead
            or r.state is not self._prev_state
            or r.log.unstable.next_snapshot() is not None
        )

    def _hard_state_changed(self) -> bool:
        r = self.raft
        return (
            r.log.committed != self._prev_commit
            or r.term != self._prev_term
            or r.vote != self._prev_vote
        )

    def ready(self) -> Ready:
        """Return what is to be done, and take it as under way."""
        r = self.raft
        log = r.log
        if self._on_advance:
            raise InvariantError("two accepted Ready structs without call to Advance")
        self._check()
        ready = Ready()
        if r.lead != self._prev_lead or r.state is not self._prev_state:
            ready.soft_state = SoftState(r.lead, r.state)
        ready.entries = log.unstable.next_entries()
        ready.must_sync = (
            bool(ready.entries) or r.term != self._prev_term or r.vote != self._prev_vote
        )
        if self._hard_state_changed():
            ready.hard_state = HardState(r.term, r.vote, log.committed)
        ready.snapshot = log.unstable.next_snapshot()
        if r.read_states:
            ready.read_states = tuple(r.read_states)
            r.read_states = []
        ready.committed_entries = log.next_committed_entries(not self._async)
        if self._async:
            ready.messages = self._async_messages(ready)
        else:
            ready.messages = self._sync_messages(ready)
        r.msgs = []
        r.msgs_after_append = []
        self._remember()
        log.unstable.accept_in_progress()
        if committed := ready.committed_entries:
            # Without a limit nobody looks at the size.
            size = 0 if log.max_applying_size >= NO_LIMIT else entries_size(committed)
            log.accept_applying(committed[-1].index, size, not self._async)
        return ready

    def _check(self) -> None:
        r = self.raft
        r.check()
        term, vote = self._prev_term, self._prev_vote
        if r.term < term or (r.term == term and vote not in (NONE, r.vote)):
            raise InvariantError(f"vote {vote:x} in term {term} became {r.vote:x} in {r.term}")

    def advance(self, ready: Ready) -> None:
        """All of `ready` is done: written, sent and applied."""
        if self._async:
            raise InvariantError("Advance must not be called when using AsyncStorageWrites")
        waiting, self._on_advance = self._on_advance, []
        for message in waiting:
            step(self.raft, message)

    def _sync_messages(self, ready: Ready) -> tuple[Message, ...]:
        """Return what goes to others; what goes to ourselves waits for advance()."""
        r = self.raft
        messages = r.msgs
        for message in r.msgs_after_append:
            if message.to == r.id:
                self._on_advance.append(message)
            else:
                messages.append(message)
        if r.log.unstable.entries or ready.snapshot is not None:
            self._on_advance.append(self._storage_append_resp(ready))
        if ready.committed_entries:
            self._on_advance.append(self._storage_apply_resp(ready))
        return tuple(messages)

    def _async_messages(self, ready: Ready) -> tuple[Message, ...]:
        """Return what goes to others and the orders to our storage threads."""
        r = self.raft
        messages = r.msgs
        hard_state = ready.hard_state
        if ready.entries or hard_state or ready.snapshot is not None or r.msgs_after_append:
            responses: list[AfterAppend] = r.msgs_after_append
            if r.log.unstable.entries or ready.snapshot is not None:
                responses.append(self._storage_append_resp(ready))
            messages.append(
                MsgStorageAppend(
                    LOCAL_APPEND_THREAD,
                    r.id,
                    hard_state.term if hard_state else 0,
                    hard_state,
                    ready.entries,
                    ready.snapshot,
                    tuple(responses),
                )
            )
        if committed := ready.committed_entries:
            response = self._storage_apply_resp(ready)
            messages.append(MsgStorageApply(LOCAL_APPLY_THREAD, r.id, 0, committed, (response,)))
        return tuple(messages)

    def _storage_append_resp(self, ready: Ready) -> MsgStorageAppendResp:
        """Return the answer to a write.

        It speaks of the end of the log, not of this write's entries: writes are done in order, so
        with this one all before it is durable. Had a newer leader replaced entries that an older
        write is still about, that write's answer has a lower term or a term that doesn't match
        and is ignored; therefore every later answer must speak for the entries again.
        """
        r = self.raft
        index = log_term = 0
        if r.log.unstable.entries:
            index, log_term = r.log.last_index(), r.log.last_term()
        return MsgStorageAppendResp(
            r.id, LOCAL_APPEND_THREAD, r.term, index, log_term, ready.snapshot
        )

    def _storage_apply_resp(self, ready: Ready) -> MsgStorageApplyResp:
        return MsgStorageApplyResp(self.raft.id, LOCAL_APPLY_THREAD, 0, ready.committed_entries)

    @property
    def is_leader(self) -> bool:
        """Tell whether this node believes to lead."""
        return self.raft.state is LEADER
