"""What a candidate or pre-candidate does, one function per message."""

from __future__ import annotations

from raft import follower
from raft.config import DEBUG, INFO
from raft.errors import ProposalDroppedError
from raft.messages import (
    NONE,
    MsgApp,
    MsgHeartbeat,
    MsgPreVoteResp,
    MsgProp,
    MsgSnap,
    MsgTimeoutNow,
    MsgVoteResp,
)
from raft.node import Raft
from raft.quorum import VoteResult
from raft.replication import bcast_append
from raft.roles import CANDIDATE, PRE_CANDIDATE, CampaignType


def on_prop(r: Raft, _: MsgProp) -> None:
    """Nobody leads. Raises ProposalDroppedError."""
    r.trace(INFO, f"{r.id:x} no leader at term {r.term}; dropping proposal")
    raise ProposalDroppedError


def on_app(r: Raft, message: MsgApp) -> None:
    """Somebody else has won this term."""
    r.become_follower(message.term, message.from_)
    follower.handle_append_entries(r, message)


def on_heartbeat(r: Raft, message: MsgHeartbeat) -> None:
    """Somebody else has won this term."""
    r.become_follower(message.term, message.from_)
    follower.handle_heartbeat(r, message)


def on_snap(r: Raft, message: MsgSnap) -> None:
    """Somebody else has won this term."""
    r.become_follower(message.term, message.from_)
    follower.handle_snapshot(r, message)


def on_vote_resp(r: Raft, message: MsgVoteResp) -> None:
    """Count a vote for the leadership; a late one of an earlier role is ignored."""
    if r.state is CANDIDATE:
        _count(r, message)


def on_pre_vote_resp(r: Raft, message: MsgPreVoteResp) -> None:
    """Count a promise of a vote."""
    if r.state is PRE_CANDIDATE:
        _count(r, message)


def _count(r: Raft, message: MsgVoteResp | MsgPreVoteResp) -> None:
    name = type(message).__name__
    rejection = " rejection" if message.reject else ""
    r.trace(INFO, f"{r.id:x} received {name}{rejection} from {message.from_:x} at term {r.term}")
    r.tracker.record_vote(message.from_, not message.reject)
    granted, rejected, result = r.tracker.tally_votes()
    r.trace(
        INFO,
        f"{r.id:x} has received {granted} {name} votes and {rejected} vote rejections",
    )
    if result is VoteResult.WON:
        if r.state is PRE_CANDIDATE:
            r.campaign(CampaignType.ELECTION)
        elif r.id in r.tracker.votes:
            r.become_leader()
            bcast_append(r)
        # Else its own term and vote are not durable: one that leads without and forgets them could
        # be elected a second time for the same term, and give an index another entry.
    elif result is VoteResult.LOST:
        # In a pre-election the term is still the old one, and its leader may live.
        r.become_follower(r.term, NONE)


def on_timeout_now(r: Raft, message: MsgTimeoutNow) -> None:
    """Already at it."""
    r.trace(
        DEBUG,
        f"{r.id:x} [term {r.term} state {r.state}] ignored MsgTimeoutNow from {message.from_:x}",
    )
