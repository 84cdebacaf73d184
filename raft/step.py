"""The one door to a node: every message, local or from a peer, comes through step().

1. Term 0 is local, and passes.
2. A higher term makes us a follower of that term, with the exceptions of pre-votes and of votes
   that come while a leader's lease holds (Raft thesis, 4.2.3 and 9.6).
3. A lower term is ignored, but some senders must learn of ours so that they stop being stuck.
4. Votes and answers of our own disk are handled alike in every role; the rest is the role's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from raft import candidate, follower, leader
from raft.change import encode
from raft.config import DEBUG, INFO
from raft.errors import ProposalDroppedError
from raft.messages import (
    CAMPAIGN_TRANSFER,
    NONE,
    Message,
    MsgApp,
    MsgAppResp,
    MsgBeat,
    MsgCheckQuorum,
    MsgForgetLeader,
    MsgHeartbeat,
    MsgHeartbeatResp,
    MsgHup,
    MsgPreVote,
    MsgPreVoteResp,
    MsgProp,
    MsgReadIndex,
    MsgReadIndexResp,
    MsgSnap,
    MsgSnapStatus,
    MsgStorageAppendResp,
    MsgStorageApplyResp,
    MsgTimeoutNow,
    MsgTransferLeader,
    MsgUnreachable,
    MsgVote,
    MsgVoteResp,
)
from raft.node import Raft
from raft.roles import LEADER, CampaignType, StateType
from raft.size import NO_LIMIT, entries_size, payload_size
from raft.state import Entry, Snapshot

Handlers = Mapping[type[Message], Callable[[Raft, Any], None]]


def step(r: Raft, message: Message) -> None:
    """Take one message. Raises ProposalDroppedError for a proposal that can't be taken now."""
    term = message.term
    if term != r.term and term != 0:
        if term < r.term:
            _on_lower_term(r, message)
            return
        if not _on_higher_term(r, message):
            return
    handler = _HANDLERS[r.state].get(type(message))
    if handler is not None:
        handler(r, message)


def tick(r: Raft) -> None:
    """One tick of the clock has passed."""
    if r.state is LEADER:
        _tick_heartbeat(r)
        return
    r.election_elapsed += 1
    if r.election_elapsed >= r.randomized_election_timeout and r.promotable():
        r.election_elapsed = 0
        step(r, MsgHup(NONE, r.id, 0))


def _tick_heartbeat(r: Raft) -> None:
    r.heartbeat_elapsed += 1
    r.election_elapsed += 1
    if r.election_elapsed >= r.election_timeout:
        r.election_elapsed = 0
        if r.check_quorum:
            step(r, MsgCheckQuorum(NONE, r.id, 0))
        # The successor had its time.
        r.lead_transferee = NONE
        # The proposal to leave may have been dropped, for one because of that transfer, and nothing
        # else might ever be proposed.
        if r.may_leave_joint():
            _leave_joint(r)
    if r.state is LEADER and r.heartbeat_elapsed >= r.heartbeat_timeout:
        r.heartbeat_elapsed = 0
        step(r, MsgBeat(NONE, r.id, 0))


def _on_higher_term(r: Raft, message: Message) -> bool:
    """Enter the term of the message; False if it is to be ignored."""
    kind = type(message)
    if isinstance(message, MsgVote | MsgPreVote):
        leased = r.check_quorum and r.lead != NONE and r.election_elapsed < r.election_timeout
        if leased and message.context != CAMPAIGN_TRANSFER:
            _trace_vote(
                r,
                "ignored",
                message,
                "lease is not expired (remaining ticks: "
                f"{r.election_timeout - r.election_elapsed})",
            )
            return False
    if kind is MsgPreVote or (isinstance(message, MsgPreVoteResp) and not message.reject):
        # Nobody is in that term yet.
        return True
    r.trace(
        INFO,
        f"{r.id:x} [term: {r.term}] received a {kind.__name__} message with higher term from "
        f"{message.from_:x} [term: {message.term}]",
    )
    from_leader = kind is MsgApp or kind is MsgHeartbeat or kind is MsgSnap
    r.become_follower(message.term, message.from_ if from_leader else NONE)
    return True


def _on_lower_term(r: Raft, message: Message) -> None:
    if isinstance(message, MsgApp | MsgHeartbeat) and (r.check_quorum or r.pre_vote):
        # With leases or pre-votes our higher term might never reach that leader otherwise, as we
        # can't campaign against it: this makes it step down.
        r.msgs_after_append.append(MsgAppResp(message.from_, r.id, r.term))
    elif isinstance(message, MsgPreVote):
        # Its sender may be stuck at a lower term with the longer log.
        _trace_vote(r, "rejected", message)
        r.msgs_after_append.append(MsgPreVoteResp(message.from_, r.id, r.term, True))
    elif isinstance(message, MsgStorageAppendResp):
        # What a former term wrote may have been replaced since: another answer will say.
        if message.index:
            r.trace(
                INFO,
                f"{r.id:x} [term: {r.term}] ignored entry appends from a MsgStorageAppendResp "
                f"message with lower term [term: {message.term}]",
            )
        if message.snapshot is not None:
            _applied_snapshot(r, message.snapshot)
    else:
        r.trace(
            INFO,
            f"{r.id:x} [term: {r.term}] ignored a {type(message).__name__} message with lower "
            f"term from {message.from_:x} [term: {message.term}]",
        )


# In every role


def on_hup(r: Raft, _: MsgHup) -> None:
    """Start an election."""
    r.hup(CampaignType.PRE_ELECTION if r.pre_vote else CampaignType.ELECTION)


def on_vote(r: Raft, message: MsgVote | MsgPreVote) -> None:
    """Vote for whoever comes first in its term with a log that holds all that ours does."""
    pre = isinstance(message, MsgPreVote)
    response = MsgPreVoteResp if pre else MsgVoteResp
    can_vote = (
        r.vote == message.from_
        or (r.vote == NONE and r.lead == NONE)
        or (pre and message.term > r.term)
    )
    # A learner votes when asked: it may have been promoted without knowing it yet.
    if can_vote and r.log.is_up_to_date(message.index, message.log_term):
        _trace_vote(r, "cast", message)
        # The term asked for, not ours: a pre-vote is about a term we are not in.
        r.msgs_after_append.append(response(message.from_, r.id, message.term))
        if not pre:
            r.election_elapsed = 0
            r.vote = message.from_
    else:
        _trace_vote(r, "rejected", message)
        r.msgs_after_append.append(response(message.from_, r.id, r.term, True))


def on_storage_append_resp(r: Raft, message: MsgStorageAppendResp) -> None:
    """Our own writes are durable."""
    if message.index:
        r.log.unstable.stable_to(message.index, message.log_term)
    if message.snapshot is not None:
        _applied_snapshot(r, message.snapshot)


def on_storage_apply_resp(r: Raft, message: MsgStorageApplyResp) -> None:
    """Our own state machine has applied entries."""
    entries = message.entries
    if entries:
        size = 0 if r.log.max_applying_size >= NO_LIMIT else entries_size(entries)
        _applied_to(r, entries[-1].index, size)
        r.reduce_uncommitted_size(payload_size(entries))


def _applied_snapshot(r: Raft, snapshot: Snapshot) -> None:
    index = snapshot.metadata.index
    r.log.unstable.stable_snap_to(index)
    _applied_to(r, index, 0)


def _applied_to(r: Raft, index: int, size: int) -> None:
    r.applied_to(index, size)
    if r.may_leave_joint():
        _leave_joint(r)


def _leave_joint(r: Raft) -> None:
    kind, data = encode(None)
    try:
        step(r, MsgProp(NONE, r.id, 0, (Entry(0, 0, data, kind),)))
    except ProposalDroppedError as error:
        r.trace(
            DEBUG,
            "not initiating automatic transition out of joint configuration "
            f"{r.tracker.config}: {error}",
        )
    else:
        r.trace(
            INFO,
            f"initiating automatic transition out of joint configuration {r.tracker.config}",
        )


def _trace_vote(r: Raft, verb: str, message: MsgVote | MsgPreVote, reason: str = "") -> None:
    last = r.log.last_index()
    r.trace(
        INFO,
        f"{r.id:x} [logterm: {r.log.last_term()}, index: {last}, vote: {r.vote:x}] {verb} "
        f"{type(message).__name__} {'for' if verb == 'cast' else 'from'} {message.from_:x} "
        f"[logterm: {message.log_term}, index: {message.index}] at term {r.term}"
        + (f": {reason}" if reason else ""),
    )


_ANY: Final[Handlers] = {
    MsgHup: on_hup,
    MsgVote: on_vote,
    MsgPreVote: on_vote,
    MsgStorageAppendResp: on_storage_append_resp,
    MsgStorageApplyResp: on_storage_apply_resp,
}
_FOLLOWER: Final[Handlers] = {
    MsgProp: follower.on_prop,
    MsgApp: follower.on_app,
    MsgHeartbeat: follower.on_heartbeat,
    MsgSnap: follower.on_snap,
    MsgTransferLeader: follower.on_transfer_leader,
    MsgForgetLeader: follower.on_forget_leader,
    MsgTimeoutNow: follower.on_timeout_now,
    MsgReadIndex: follower.on_read_index,
    MsgReadIndexResp: follower.on_read_index_resp,
}
_CANDIDATE: Final[Handlers] = {
    MsgProp: candidate.on_prop,
    MsgApp: candidate.on_app,
    MsgHeartbeat: candidate.on_heartbeat,
    MsgSnap: candidate.on_snap,
    MsgVoteResp: candidate.on_vote_resp,
    MsgPreVoteResp: candidate.on_pre_vote_resp,
    MsgTimeoutNow: candidate.on_timeout_now,
}
_LEADER: Final[Handlers] = {
    MsgBeat: leader.on_beat,
    MsgCheckQuorum: leader.on_check_quorum,
    MsgProp: leader.on_prop,
    MsgReadIndex: leader.on_read_index,
    MsgForgetLeader: leader.on_forget_leader,
    MsgAppResp: leader.on_app_resp,
    MsgHeartbeatResp: leader.on_heartbeat_resp,
    MsgSnapStatus: leader.on_snap_status,
    MsgUnreachable: leader.on_unreachable,
    MsgTransferLeader: leader.on_transfer_leader,
}
_HANDLERS: Final[Mapping[StateType, Handlers]] = {
    StateType.FOLLOWER: {**_ANY, **_FOLLOWER},
    StateType.CANDIDATE: {**_ANY, **_CANDIDATE},
    StateType.PRE_CANDIDATE: {**_ANY, **_CANDIDATE},
    StateType.LEADER: {**_ANY, **_LEADER},
}
"""What is not named is ignored in that role."""
