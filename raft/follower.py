"""What a follower does, one function per message."""

from __future__ import annotations

from dataclasses import replace

from raft import membership
from raft.config import DEBUG, ERROR, INFO, WARN, ReadOnlyOption
from raft.describe import describe_conf_state
from raft.errors import ProposalDroppedError
from raft.messages import (
    NONE,
    MsgApp,
    MsgAppResp,
    MsgForgetLeader,
    MsgHeartbeat,
    MsgHeartbeatResp,
    MsgProp,
    MsgReadIndex,
    MsgReadIndexResp,
    MsgSnap,
    MsgTimeoutNow,
    MsgTransferLeader,
)
from raft.node import Raft
from raft.roles import FOLLOWER, CampaignType, ReadState
from raft.state import Snapshot


def on_prop(r: Raft, message: MsgProp) -> None:
    """Pass it on to the leader. Raises ProposalDroppedError."""
    if r.lead == NONE:
        r.trace(INFO, f"{r.id:x} no leader at term {r.term}; dropping proposal")
        raise ProposalDroppedError
    if r.disable_proposal_forwarding:
        r.trace(
            INFO,
            f"{r.id:x} not forwarding to leader {r.lead:x} at term {r.term}; dropping proposal",
        )
        raise ProposalDroppedError
    r.send(MsgProp(r.lead, message.from_ or r.id, 0, message.entries))


def on_app(r: Raft, message: MsgApp) -> None:
    """Take entries from the leader."""
    _hear_of_leader(r, message.from_)
    handle_append_entries(r, message)


def on_heartbeat(r: Raft, message: MsgHeartbeat) -> None:
    """Note that the leader lives."""
    _hear_of_leader(r, message.from_)
    handle_heartbeat(r, message)


def on_snap(r: Raft, message: MsgSnap) -> None:
    """Take a snapshot: the leader's log no longer holds what we need."""
    _hear_of_leader(r, message.from_)
    handle_snapshot(r, message)


def _hear_of_leader(r: Raft, lead: int) -> None:
    r.election_elapsed = 0
    r.lead = lead


def on_transfer_leader(r: Raft, message: MsgTransferLeader) -> None:
    """Pass it on to the leader."""
    if r.lead == NONE:
        r.trace(INFO, f"{r.id:x} no leader at term {r.term}; dropping leader transfer msg")
        return
    r.send(MsgTransferLeader(r.lead, message.from_, r.term))


def on_forget_leader(r: Raft, _: MsgForgetLeader) -> None:
    """Be ready to vote, without a new term. Leases forbid it."""
    if r.read_only.option is ReadOnlyOption.LEASE_BASED:
        r.trace(ERROR, "ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
        return
    if r.lead != NONE:
        r.trace(INFO, f"{r.id:x} forgetting leader {r.lead:x} at term {r.term}")
        r.lead = NONE


def on_timeout_now(r: Raft, message: MsgTimeoutNow) -> None:
    """Campaign, as the leader has chosen us: no pre-vote, and leases don't count."""
    r.trace(
        INFO,
        f"{r.id:x} [term {r.term}] received MsgTimeoutNow from {message.from_:x} and starts "
        "an election to get leadership.",
    )
    r.hup(CampaignType.TRANSFER)


def on_read_index(r: Raft, message: MsgReadIndex) -> None:
    """Pass it on to the leader; without one it is dropped and asked again."""
    if r.lead == NONE:
        r.trace(INFO, f"{r.id:x} no leader at term {r.term}; dropping index reading msg")
        return
    if message.from_ == NONE:
        r.send(MsgReadIndex(r.lead, r.id, 0, message.context, r.term, r.read_only.heard))
    else:
        r.send(replace(message, to=r.lead))


def on_read_index_resp(r: Raft, message: MsgReadIndexResp) -> None:
    """Note the leader's answer to a read of ours, and what it says of others' reads.

    Unlike in etcd's raft it is as good as a heartbeat: what we say next of those reads tells the
    leader that until then we had heard of it, and that its lease has begun anew.
    """
    r.election_elapsed = 0
    if message.newest:
        r.read_only.heard = message.newest
    r.read_states.append(ReadState(message.index, message.context))


def handle_append_entries(r: Raft, message: MsgApp) -> None:
    """Append if the logs agree just before; else say where they may."""
    log = r.log
    if message.index < log.committed:
        # Out of date: what is committed equals the leader's.
        _acknowledge(r, message.from_, log.committed)
        return
    last = log.maybe_append(message.index, message.log_term, message.entries, message.commit)
    if last is not None:
        _acknowledge(r, message.from_, last)
        return
    r.trace(
        DEBUG,
        f"{r.id:x} [logterm: {log.term_or_zero(message.index)}, index: {message.index}] rejected "
        f"MsgApp [logterm: {message.log_term}, index: {message.index}] from {message.from_:x}",
    )
    # The leader's entries at and before `index` have at most log_term: ours with more can't match.
    hint = min(message.index, log.last_index())
    hint, hint_term = log.find_conflict_by_term(hint, message.log_term)
    r.msgs_after_append.append(
        MsgAppResp(message.from_, r.id, r.term, message.index, True, hint, hint_term)
    )


def handle_heartbeat(r: Raft, message: MsgHeartbeat) -> None:
    """Learn the commit index and answer."""
    r.log.commit_to(message.commit)
    r.send(MsgHeartbeatResp(message.from_, r.id, r.term, message.context))


def handle_snapshot(r: Raft, message: MsgSnap) -> None:
    """Begin anew behind the snapshot, if we need it."""
    metadata = message.snapshot.metadata
    restored = restore(r, message.snapshot)
    r.trace(
        INFO,
        f"{r.id:x} [commit: {r.log.committed}] {'restored' if restored else 'ignored'} snapshot "
        f"[index: {metadata.index}, term: {metadata.term}]",
    )
    _acknowledge(r, message.from_, r.log.last_index() if restored else r.log.committed)


def _acknowledge(r: Raft, to: int, index: int) -> None:
    r.msgs_after_append.append(MsgAppResp(to, r.id, r.term, index))


def restore(r: Raft, snapshot: Snapshot) -> bool:
    """Replace log and configuration by the snapshot's; False if it is of no use."""
    metadata = snapshot.metadata
    conf_state = metadata.conf_state
    log = r.log
    if metadata.index <= log.committed:
        return False
    if r.state is not FOLLOWER:
        # A leader would not follow itself; make sure it does not go on as one.
        r.trace(WARN, f"{r.id:x} attempted to restore snapshot as leader; should never happen")
        r.become_follower(r.term + 1, NONE)
        return False
    if r.id not in (*conf_state.voters, *conf_state.learners, *conf_state.voters_outgoing):
        r.trace(
            WARN,
            f"{r.id:x} attempted to restore snapshot but it is not in the ConfState "
            f"{describe_conf_state(conf_state)}; should never happen",
        )
        return False
    if log.match_term(metadata.index, metadata.term):
        r.trace(
            INFO,
            f"{r.id:x} [commit: {log.committed}, lastindex: {log.last_index()}, lastterm: "
            f"{log.last_term()}] fast-forwarded commit to snapshot [index: {metadata.index}, "
            f"term: {metadata.term}]",
        )
        log.commit_to(metadata.index)
        return False
    log.restore(snapshot)
    membership.restore(r, conf_state)
    r.trace(
        INFO,
        f"{r.id:x} [commit: {log.committed}, lastindex: {log.last_index()}, lastterm: "
        f"{log.last_term()}] restored snapshot [index: {metadata.index}, term: {metadata.term}]",
    )
    return True
