"""How a leader brings its log, its commit index and its heartbeats to the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.config import DEBUG
from raft.errors import (
    CompactedError,
    InvariantError,
    SnapshotTemporarilyUnavailableError,
    UnavailableError,
)
from raft.messages import MsgApp, MsgHeartbeat, MsgSnap, MsgTimeoutNow
from raft.progress import REPLICATE, Progress
from raft.size import payload_size
from raft.state import Entry

if TYPE_CHECKING:
    from raft.node import Raft


def maybe_commit(r: Raft) -> bool:
    """Commit what a quorum holds; True if that is more than before."""
    return r.log.maybe_commit(r.tracker.committed(), r.term)


def send_append(r: Raft, to: int) -> None:
    """Send a MsgApp, if only to tell the commit index."""
    maybe_send_append(r, to, send_if_empty=True)


def bcast_append(r: Raft) -> None:
    """Send a MsgApp to everybody that is not paused."""
    for id_ in r.tracker.progress:
        if id_ != r.id:
            maybe_send_append(r, id_, send_if_empty=True)


def maybe_send_append(r: Raft, to: int, *, send_if_empty: bool) -> bool:
    """Send the next entries, or a snapshot where they are gone; True if something was sent."""
    progress = r.tracker.progress[to]
    if progress.is_paused():
        return False
    prev_index = progress.next - 1
    entries: tuple[Entry, ...] = ()
    try:
        prev_term = r.log.term(prev_index)
        # A full window lets an empty MsgApp pass, so that the commit index is still told.
        if progress.state is not REPLICATE or not progress.inflights.full():
            entries = r.log.entries(progress.next, r.max_msg_size)
    except (CompactedError, UnavailableError):
        return _maybe_send_snapshot(r, to, progress)
    if not entries and not send_if_empty:
        return False
    committed = r.log.committed
    r.send(MsgApp(to, r.id, r.term, prev_term, prev_index, entries, committed))
    progress.sent_entries(len(entries), payload_size(entries))
    progress.sent_commit = committed
    return True


def _maybe_send_snapshot(r: Raft, to: int, progress: Progress) -> bool:
    if not progress.recent_active:
        r.trace(DEBUG, f"ignore sending snapshot to {to:x} since it is not recently active")
        return False
    try:
        snapshot = r.log.snapshot()
    except SnapshotTemporarilyUnavailableError:
        r.trace(
            DEBUG,
            f"{r.id:x} failed to send snapshot to {to:x} because snapshot is "
            "temporarily unavailable",
        )
        return False
    metadata = snapshot.metadata
    if metadata.index == 0:
        raise InvariantError("need non-empty snapshot")
    r.trace(
        DEBUG,
        f"{r.id:x} [firstindex: {r.log.first_index()}, commit: {r.log.committed}] sent "
        f"snapshot[index: {metadata.index}, term: {metadata.term}] to {to:x} [{progress}]",
    )
    progress.become_snapshot(metadata.index)
    r.trace(DEBUG, f"{r.id:x} paused sending replication messages to {to:x} [{progress}]")
    r.send(MsgSnap(to, r.id, r.term, snapshot))
    return True


def bcast_heartbeat(r: Raft) -> None:
    """Send a heartbeat to everybody, with the newest read that waits."""
    context = r.read_only.newest()
    for id_, progress in r.tracker.progress.items():
        if id_ == r.id:
            continue
        # Never more than the follower is known to hold: it may have lost what we think it has.
        commit = min(progress.match, r.log.committed)
        r.send(MsgHeartbeat(id_, r.id, r.term, commit, context))
        progress.sent_commit = commit


def send_timeout_now(r: Raft, to: int) -> None:
    """Tell the chosen successor to campaign."""
    r.send(MsgTimeoutNow(to, r.id, r.term))
