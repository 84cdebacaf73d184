"""What a leader does, one function per message."""

from __future__ import annotations

from raft.change import Change, ConfChangeV2, as_v2, decode
from raft.config import DEBUG, INFO, WARN, ReadOnlyOption
from raft.describe import describe_conf_change
from raft.errors import InvariantError, ProposalDroppedError
from raft.messages import (
    NONE,
    Message,
    MsgAppResp,
    MsgBeat,
    MsgCheckQuorum,
    MsgForgetLeader,
    MsgHeartbeatResp,
    MsgProp,
    MsgReadIndex,
    MsgReadIndexResp,
    MsgSnapStatus,
    MsgTransferLeader,
    MsgUnreachable,
)
from raft.node import TYPE_NORMAL, Raft
from raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from raft.quorum import VoteResult
from raft.replication import (
    bcast_append,
    bcast_heartbeat,
    maybe_commit,
    maybe_send_append,
    send_append,
    send_timeout_now,
)
from raft.roles import ReadState
from raft.state import Entry


def on_beat(r: Raft, _: MsgBeat) -> None:
    """Send heartbeats: the interval has passed."""
    bcast_heartbeat(r)


def on_check_quorum(r: Raft, _: MsgCheckQuorum) -> None:
    """Step down if no quorum was heard of since the last time."""
    if not r.tracker.quorum_active():
        r.trace(WARN, f"{r.id:x} stepped down to follower since quorum is not active")
        r.become_follower(r.term, NONE)
    for id_, progress in r.tracker.progress.items():
        if id_ != r.id:
            progress.recent_active = False


def on_forget_leader(r: Raft, _: MsgForgetLeader) -> None:
    """Ignore it: a leader knows who leads."""


def on_prop(r: Raft, message: MsgProp) -> None:
    """Append and replicate. Raises ProposalDroppedError."""
    entries = message.entries
    if not entries:
        raise InvariantError(f"{r.id:x} stepped empty MsgProp")
    if r.id not in r.tracker.progress:
        # Removed from the configuration, and about to step down.
        raise ProposalDroppedError
    if r.lead_transferee:
        r.trace(
            DEBUG,
            f"{r.id:x} [term {r.term}] transfer leadership to {r.lead_transferee:x} is in "
            "progress; dropping proposal",
        )
        raise ProposalDroppedError
    pending_conf_index = r.pending_conf_index
    for entry in entries:
        if entry.type != TYPE_NORMAL:
            entries = tuple(_check_conf_change(r, i, each) for i, each in enumerate(entries))
            break
    if not r.append_entries(entries):
        r.pending_conf_index = pending_conf_index
        raise ProposalDroppedError
    bcast_append(r)


def _check_conf_change(r: Raft, place: int, entry: Entry) -> Entry:
    """Return the entry, or an empty one if it is a change that may not be proposed now."""
    if entry.type == TYPE_NORMAL:
        return entry
    change = decode(entry.type, entry.data)
    refusal = _refusal(r, as_v2(change))
    if refusal and not r.disable_conf_change_validation:
        _trace_refusal(r, change, refusal)
        return Entry(0, 0)
    r.pending_conf_index = r.log.last_index() + place + 1
    return entry


def _refusal(r: Raft, change: ConfChangeV2) -> str:
    """Return why a change may not be proposed now, else nothing."""
    joint = bool(r.tracker.config.voters_outgoing)
    if r.pending_conf_index > r.log.applied:
        return (
            f"possible unapplied conf change at index {r.pending_conf_index} "
            f"(applied to {r.log.applied})"
        )
    if joint and change.changes:
        return "must transition out of joint config first"
    if not joint and not change.changes:
        return "not in joint state; refusing empty conf change"
    return ""


def _trace_refusal(r: Raft, change: Change, refusal: str) -> None:
    r.trace(
        INFO,
        f"{r.id:x} ignoring conf change {describe_conf_change(change)} at config "
        f"{r.tracker.config}: {refusal}",
    )


# Replication


def on_app_resp(r: Raft, message: MsgAppResp) -> None:
    """Learn that a follower, or our own disk, has taken entries or refused them."""
    progress = r.tracker.progress.get(message.from_)
    if progress is None:
        _trace_stranger(r, message)
        return
    progress.recent_active = True
    if message.reject:
        _on_app_rejected(r, progress, message)
        return
    if message.index > r.log.last_index():
        r.trace(INFO, f"{r.id:x} ignoring an acknowledgement of what was not sent: {message}")
        return
    if not progress.maybe_update(message.index) and not (
        # A probe that found the logs equal: nothing is new, but now it is known.
        progress.match == message.index and progress.state is PROBE
    ):
        return
    _advance_state(r, progress, message)
    if maybe_commit(r):
        release_pending_reads(r)
        bcast_append(r)
    elif message.from_ != r.id and progress.can_bump_commit(r.log.committed):
        send_append(r, message.from_)
    if message.from_ == r.id:
        return
    # The window may have room for more than one message now.
    while maybe_send_append(r, message.from_, send_if_empty=False):
        pass
    if message.from_ == r.lead_transferee and progress.match == r.log.last_index():
        r.trace(
            INFO,
            f"{r.id:x} sent MsgTimeoutNow to {message.from_:x} after received MsgAppResp",
        )
        send_timeout_now(r, message.from_)


def _advance_state(r: Raft, progress: Progress, message: MsgAppResp) -> None:
    if progress.state is REPLICATE:
        progress.inflights.free_le(message.index)
    elif progress.state is PROBE:
        progress.become_replicate()
    elif progress.match + 1 >= r.log.first_index():
        # Caught up to where our log begins, by whatever snapshot.
        r.trace(
            DEBUG,
            f"{r.id:x} recovered from needing snapshot, resumed sending replication messages "
            f"to {message.from_:x} [{progress}]",
        )
        progress.become_probe()
        progress.become_replicate()


def _on_app_rejected(r: Raft, progress: Progress, message: MsgAppResp) -> None:
    """Go back to where the logs may agree, skipping whole terms that can't."""
    r.trace(
        DEBUG,
        f"{r.id:x} received MsgAppResp(rejected, hint: (index {message.reject_hint}, term "
        f"{message.log_term})) from {message.from_:x} for index {message.index}",
    )
    hint = message.reject_hint
    if message.log_term > 0:
        hint, _ = r.log.find_conflict_by_term(hint, message.log_term)
    if progress.maybe_decr_to(message.index, hint):
        r.trace(DEBUG, f"{r.id:x} decreased progress of {message.from_:x} to [{progress}]")
        if progress.state is REPLICATE:
            progress.become_probe()
        send_append(r, message.from_)


def on_heartbeat_resp(r: Raft, message: MsgHeartbeatResp) -> None:
    """Note that a follower lives: it may be sent to again, and reads may be confirmed."""
    progress = r.tracker.progress.get(message.from_)
    if progress is None:
        _trace_stranger(r, message)
        return
    progress.recent_active = True
    progress.msg_app_flow_paused = False
    # A probe goes out even when nothing is missing: its answer ends the probing.
    if progress.match < r.log.last_index() or progress.state is PROBE:
        send_append(r, message.from_)
    _acknowledge_reads(r, message.from_, message.context)


def on_snap_status(r: Raft, message: MsgSnapStatus) -> None:
    """End the sending of a snapshot: probe behind it, or again where we were."""
    progress = r.tracker.progress.get(message.from_)
    if progress is None:
        _trace_stranger(r, message)
        return
    if progress.state is not SNAPSHOT:
        return
    if message.reject:
        progress.pending_snapshot = 0
    progress.become_probe()
    r.trace(
        DEBUG,
        f"{r.id:x} snapshot {'failed' if message.reject else 'succeeded'}, resumed sending "
        f"replication messages to {message.from_:x} [{progress}]",
    )
    # Wait for its MsgAppResp, or for a heartbeat interval if it failed.
    progress.msg_app_flow_paused = True


def on_unreachable(r: Raft, message: MsgUnreachable) -> None:
    """Messages to a follower are being lost: stop streaming."""
    progress = r.tracker.progress.get(message.from_)
    if progress is None:
        _trace_stranger(r, message)
        return
    if progress.state is REPLICATE:
        progress.become_probe()
    r.trace(
        DEBUG,
        f"{r.id:x} failed to send message to {message.from_:x} because it is unreachable "
        f"[{progress}]",
    )


def on_transfer_leader(r: Raft, message: MsgTransferLeader) -> None:
    """Hand the leadership over: no more proposals, bring the successor up to date, tell it."""
    progress = r.tracker.progress.get(message.from_)
    if progress is None:
        _trace_stranger(r, message)
        return
    if progress.is_learner:
        r.trace(DEBUG, f"{r.id:x} is learner. Ignored transferring leadership")
        return
    successor, previous = message.from_, r.lead_transferee
    where = f"{r.id:x} [term {r.term}]"
    if previous == successor:
        r.trace(
            INFO,
            f"{where} transfer leadership to {successor:x} is in progress, ignores request "
            f"to same node {successor:x}",
        )
        return
    if previous:
        r.lead_transferee = NONE
        r.trace(INFO, f"{where} abort previous transferring leadership to {previous:x}")
    if successor == r.id:
        r.trace(DEBUG, f"{r.id:x} is already leader. Ignored transferring leadership to self")
        return
    r.trace(INFO, f"{where} starts to transfer leadership to {successor:x}")
    # It has one election timeout to succeed.
    r.election_elapsed = 0
    r.lead_transferee = successor
    if progress.match == r.log.last_index():
        send_timeout_now(r, successor)
        r.trace(
            INFO,
            f"{r.id:x} sends MsgTimeoutNow to {successor:x} immediately as {successor:x} "
            "already has up-to-date log",
        )
    else:
        send_append(r, successor)


# Reads


def on_read_index(r: Raft, message: MsgReadIndex) -> None:
    """Answer with the commit index once it is certain that it is the newest.

    Until an entry of this term is committed the commit index may be older than what an earlier
    leader has committed (Raft thesis, 6.4): reads wait, also with a single voter.
    """
    if message.follows == r.term:
        _acknowledge_reads(r, message.from_, message.acknowledges)
    if r.committed_entry_in_current_term():
        _confirm_read(r, message)
    else:
        r.pending_read_index_messages.append(message)


def release_pending_reads(r: Raft) -> None:
    """Take up the reads that waited for the first commit of this term."""
    if r.pending_read_index_messages and r.committed_entry_in_current_term():
        waiting, r.pending_read_index_messages = r.pending_read_index_messages, []
        for message in waiting:
            _confirm_read(r, message)


def needs_round(r: Raft, message: MsgReadIndex) -> bool:
    """Tell whether a quorum's word for this read is still to come (see read_only.py)."""
    if r.tracker.singleton == r.id or r.read_only.option is ReadOnlyOption.LEASE_BASED:
        return False
    if message.follows != r.term:
        return True
    return r.tracker.vote_result({r.id: True, message.from_: True}) is not VoteResult.WON


def _confirm_read(r: Raft, message: MsgReadIndex) -> None:
    committed = r.log.committed
    if not needs_round(r, message):
        respond_to_read(r, message, committed)
        return
    r.read_only.add_request(committed, message)
    r.read_only.recv_ack(r.id, r.read_only.newest())
    bcast_heartbeat(r)


def _acknowledge_reads(r: Raft, from_: int, position: bytes) -> None:
    if r.read_only.option is not ReadOnlyOption.SAFE or not position:
        return
    r.read_only.recv_ack(from_, position)
    for request, index in r.read_only.maybe_advance(r.tracker.config):
        respond_to_read(r, request, index)


def respond_to_read(r: Raft, request: MsgReadIndex, index: int) -> None:
    """Give the index to whoever asked."""
    if request.from_ in (NONE, r.id):
        r.read_states.append(ReadState(index, request.context))
    else:
        newest = r.read_only.newest()
        r.send(MsgReadIndexResp(request.from_, r.id, r.term, index, request.context, newest))


def _trace_stranger(r: Raft, message: Message) -> None:
    r.trace(DEBUG, f"{r.id:x} no progress available for {message.from_:x}")
