"""The state of one raft node, and the transitions between its roles.

    follower -> (pre-candidate ->) candidate -> leader -> follower

What a node does with a message is in step.py (the rule of terms) and, by role, in leader.py,
candidate.py and follower.py. Nothing here knows of time, chance or I/O: `tick` is called, `rng`
is injected, and messages pile up in `msgs` until a Ready takes them.
"""

from __future__ import annotations

from typing import Final

from raft import membership
from raft.config import DEBUG, INFO, WARN, Config, Trace
from raft.errors import InvariantError
from raft.inflights import Inflights
from raft.log import RaftLog
from raft.messages import (
    CAMPAIGN_TRANSFER,
    NONE,
    AfterAppend,
    Message,
    MsgAppResp,
    MsgPreVote,
    MsgPreVoteResp,
    MsgReadIndex,
    MsgVote,
    MsgVoteResp,
)
from raft.progress import Progress
from raft.read_only import ReadOnly
from raft.roles import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    PRE_CANDIDATE,
    CampaignType,
    ReadState,
    SoftState,
    StateType,
)
from raft.size import payload_size
from raft.state import Entry, EntryType, HardState
from raft.tracker import Tracker

TYPE_NORMAL: Final = EntryType.NORMAL
WAITING: Final = frozenset({MsgAppResp, MsgVoteResp, MsgPreVoteResp})


class Raft:
    """See the module.

    Invariants:
    - A node votes once per term; its term never goes back.
    - lead is self exactly when the role is leader.
    - pending_conf_index: while leader, no configuration change is appended unless everything up
      to it is applied. It is at least the index of the last one in the log, and within the log.
    - uncommitted_size: bytes of data proposed in this term and not applied yet; at most
      max_uncommitted_size, but for one proposal (append_entries is the only door).
    - msgs_after_append holds what must wait for the disk, msgs what need not.

    check() asserts them before every Ready, and those of the parts.
    """

    __slots__ = (
        "check_quorum",
        "disable_conf_change_validation",
        "disable_proposal_forwarding",
        "election_elapsed",
        "election_timeout",
        "heartbeat_elapsed",
        "heartbeat_timeout",
        "id",
        "is_learner",
        "lead",
        "lead_transferee",
        "log",
        "max_msg_size",
        "max_uncommitted_size",
        "msgs",
        "msgs_after_append",
        "pending_conf_index",
        "pending_read_index_messages",
        "pre_vote",
        "randomized_election_timeout",
        "read_only",
        "read_states",
        "rng",
        "state",
        "step_down_on_removal",
        "term",
        "trace",
        "tracker",
        "uncommitted_size",
        "vote",
    )

    def __init__(self, config: Config) -> None:
        """Begin as follower of nobody. Raises ConfigError, ConfChangeError."""
        config.validate()
        self.id = config.id
        self.trace: Trace = config.trace
        self.rng = config.rng
        self.max_msg_size = config.max_size_per_msg
        self.max_uncommitted_size = config.max_uncommitted_entries_size
        self.check_quorum = config.check_quorum
        self.pre_vote = config.pre_vote
        self.disable_proposal_forwarding = config.disable_proposal_forwarding
        self.disable_conf_change_validation = config.disable_conf_change_validation
        self.step_down_on_removal = config.step_down_on_removal
        self.election_timeout = config.election_tick
        self.heartbeat_timeout = config.heartbeat_tick
        self.log = RaftLog(config.storage, config.trace, config.max_committed_size_per_ready)
        self.tracker = Tracker(config.max_inflight_msgs, config.max_inflight_bytes)
        self.read_only = ReadOnly(config.read_only_option)
        self.read_states: list[ReadState] = []
        self.pending_read_index_messages: list[MsgReadIndex] = []
        self.msgs: list[Message] = []
        self.msgs_after_append: list[AfterAppend] = []
        self.term = self.vote = 0
        self.lead = self.lead_transferee = NONE
        self.state: StateType = FOLLOWER
        self.is_learner = False
        self.election_elapsed = self.heartbeat_elapsed = self.randomized_election_timeout = 0
        self.pending_conf_index = self.uncommitted_size = 0

        hard_state, conf_state = config.storage.initial_state()
        membership.restore(self, conf_state)
        self._load(hard_state, config.applied)
        self.become_follower(self.term, NONE)
        peers = ",".join(f"{voter:x}" for voter in sorted(self.tracker.config.all_voters()))
        self.trace(
            INFO,
            f"newRaft {self.id:x} [peers: [{peers}], term: {self.term}, "
            f"commit: {self.log.committed}, applied: {self.log.applied}, "
            f"lastindex: {self.log.last_index()}, lastterm: {self.log.last_term()}]",
        )

    def _load(self, hard_state: HardState, applied: int) -> None:
        """Take over what was stored.

        A commit index alone is not synced, so HardState may lag behind: what is applied or
        compacted away was committed, whatever it says.
        """
        log = self.log
        if hard_state != HardState():
            if hard_state.commit > log.last_index():
                raise InvariantError(
                    f"{self.id:x} state.commit {hard_state.commit} is out of range "
                    f"[{log.committed}, {log.last_index()}]"
                )
            log.committed = max(log.committed, hard_state.commit)
            self.term, self.vote = hard_state.term, hard_state.vote
        if applied > 0:
            log.commit_to(applied)
            log.applied_to(applied, 0)

    def check(self) -> None:
        """Raise InvariantError if an invariant is broken here or in any part; O(members)."""
        self.log.check()
        leads = self.state is LEADER
        if (self.lead == self.id) is not leads:
            raise InvariantError(f"{self.id:x} is {self.state}, its leader {self.lead:x}")
        if leads:
            self.read_only.check()
            for progress in self.tracker.progress.values():
                progress.check()
            if self.pending_conf_index > self.log.last_index():
                raise InvariantError(f"configuration change {self.pending_conf_index} not in log")
        for waiting in self.msgs_after_append:
            if type(waiting) not in WAITING:
                raise InvariantError(f"a {type(waiting).__name__} need not wait for the disk")

    def soft_state(self) -> SoftState:
        """Return who leads and the role."""
        return SoftState(self.lead, self.state)

    def hard_state(self) -> HardState:
        """Return what must be durable."""
        return HardState(self.term, self.vote, self.log.committed)

    def send(self, message: Message) -> None:
        """Queue a message that need not wait for the disk."""
        if message.to == self.id:
            raise InvariantError(
                f"message should not be self-addressed when sending {type(message).__name__}"
            )
        if type(message) in WAITING:
            raise InvariantError(f"a {type(message).__name__} must wait for the disk")
        self.msgs.append(message)

    # Roles

    def reset(self, term: int) -> None:
        """Begin `term`, or begin again in it, knowing nothing of the others."""
        if self.term != term:
            if term < self.term:
                raise InvariantError(f"term {self.term} would go back to {term}")
            self.term = term
            self.vote = NONE
        self.lead = NONE
        self.election_elapsed = self.heartbeat_elapsed = 0
        self.randomized_election_timeout = self.election_timeout + self.rng(self.election_timeout)
        self.lead_transferee = NONE
        tracker = self.tracker
        tracker.reset_votes()
        last = self.log.last_index()
        for id_, old in tracker.progress.items():
            tracker.progress[id_] = Progress(
                last if id_ == self.id else 0,
                last + 1,
                Inflights(tracker.max_inflight, tracker.max_inflight_bytes),
                is_learner=old.is_learner,
            )
        self.pending_conf_index = self.uncommitted_size = 0
        self.read_only = ReadOnly(self.read_only.option)
        # Who asked asks again: answering from a later leadership would need unbounded memory.
        self.pending_read_index_messages = []

    def become_follower(self, term: int, lead: int) -> None:
        """Follow `lead`, or nobody yet."""
        self.reset(term)
        self.lead = lead
        self.state = FOLLOWER
        self.trace(INFO, f"{self.id:x} became follower at term {self.term}")

    def become_candidate(self) -> None:
        """Begin the next term with a vote for ourselves."""
        if self.state is LEADER:
            raise InvariantError("invalid transition [leader -> candidate]")
        self.reset(self.term + 1)
        self.vote = self.id
        self.state = CANDIDATE
        self.trace(INFO, f"{self.id:x} became candidate at term {self.term}")

    def become_pre_candidate(self) -> None:
        """Ask around before a campaign; neither term nor vote change."""
        if self.state is LEADER:
            raise InvariantError("invalid transition [leader -> pre-candidate]")
        self.tracker.reset_votes()
        self.lead = NONE
        self.state = PRE_CANDIDATE
        self.trace(INFO, f"{self.id:x} became pre-candidate at term {self.term}")

    def become_leader(self) -> None:
        """Lead, and append an empty entry: it commits what earlier terms have left."""
        if self.state is FOLLOWER:
            raise InvariantError("invalid transition [follower -> leader]")
        self.reset(self.term)
        self.lead = self.id
        self.state = LEADER
        ours = self.tracker.progress[self.id]
        ours.become_replicate()
        ours.recent_active = True
        # There may be a change in the log that is not applied: assume so.
        self.pending_conf_index = self.log.last_index()
        if not self.append_entries((Entry(0, 0),)):
            raise InvariantError("empty entry was dropped")
        self.trace(INFO, f"{self.id:x} became leader at term {self.term}")

    # Campaigning

    def promotable(self) -> bool:
        """Tell whether this node may become the leader."""
        progress = self.tracker.progress.get(self.id)
        if progress is None or progress.is_learner:
            return False
        return not self.log.has_next_or_in_progress_snapshot()

    def hup(self, campaign_type: CampaignType) -> None:
        """Campaign, unless there is a reason not to."""
        if self.state is LEADER:
            self.trace(DEBUG, f"{self.id:x} ignoring MsgHup because already leader")
        elif not self.promotable():
            self.trace(WARN, f"{self.id:x} is unpromotable and can not campaign")
        elif self._has_unapplied_conf_changes():
            self.trace(
                WARN,
                f"{self.id:x} cannot campaign at term {self.term} since there are still "
                "pending configuration changes to apply",
            )
        else:
            self.trace(INFO, f"{self.id:x} is starting a new election at term {self.term}")
            self.campaign(campaign_type)

    def _has_unapplied_conf_changes(self) -> bool:
        log = self.log
        if log.applied >= log.committed:
            return False
        pages = log.scan(log.applied + 1, log.committed + 1, log.max_applying_size)
        return any(entry.type != TYPE_NORMAL for page in pages for entry in page)

    def campaign(self, campaign_type: CampaignType) -> None:
        """Ask all voters. Our own vote counts when it is durable."""
        pre = campaign_type is CampaignType.PRE_ELECTION
        if pre:
            self.become_pre_candidate()
        else:
            self.become_candidate()
        term = self.term + 1 if pre else self.term
        index, log_term = self.log.last_index(), self.log.last_term()
        context = CAMPAIGN_TRANSFER if campaign_type is CampaignType.TRANSFER else b""
        request = MsgPreVote if pre else MsgVote
        response = MsgPreVoteResp if pre else MsgVoteResp
        for id_ in sorted(self.tracker.config.all_voters()):
            if id_ == self.id:
                self.msgs_after_append.append(response(id_, id_, term))
                continue
            self.trace(
                INFO,
                f"{self.id:x} [logterm: {log_term}, index: {index}] sent {request.__name__} "
                f"request to {id_:x} at term {self.term}",
            )
            self.send(request(id_, self.id, term, index, log_term, context))

    # The log

    def append_entries(self, entries: tuple[Entry, ...]) -> bool:
        """As leader: give entries their place; False if there is too much uncommitted."""
        size = payload_size(entries)
        if not self._increase_uncommitted_size(size):
            self.trace(
                WARN,
                f"{self.id:x} appending new entries to log would exceed uncommitted "
                "entry size limit; dropping proposal",
            )
            return False
        term = self.term
        index = self.log.last_index()
        placed = []
        for entry in entries:
            index += 1
            placed.append(Entry(term, index, entry.data, entry.type))
        self.log.append(placed)
        # We count as a member of the quorum once our own write is durable.
        self.msgs_after_append.append(MsgAppResp(self.id, self.id, term, index))
        return True

    def _increase_uncommitted_size(self, size: int) -> bool:
        """Empty proposals always pass, and so does any when nothing is uncommitted."""
        total = self.uncommitted_size + size
        if self.uncommitted_size > 0 and size > 0 and total > self.max_uncommitted_size:
            return False
        self.uncommitted_size = total
        return True

    def reduce_uncommitted_size(self, size: int) -> None:
        """`size` bytes were applied; some of them may be from before this leadership."""
        self.uncommitted_size = max(self.uncommitted_size - size, 0)

    def committed_entry_in_current_term(self) -> bool:
        """Tell whether the commit index is known to be no older than our leadership."""
        return self.log.term_or_zero(self.log.committed) == self.term

    def applied_to(self, index: int, size: int) -> None:
        """Note that entries up to `index` are applied; `size` bytes of them were in progress."""
        self.log.applied_to(max(index, self.log.applied), size)

    def may_leave_joint(self) -> bool:
        """Tell whether it is on us to leave a joint configuration, and possible now."""
        return (
            self.state is LEADER
            and self.tracker.config.auto_leave
            and self.log.applied >= self.pending_conf_index
        )
