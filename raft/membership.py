"""Putting configurations into force: from storage, from a snapshot, from an applied change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft import replication
from raft.conf_change import Change, Changer, Configured, as_v2
from raft.conf_change import restore as restore_configuration
from raft.config import INFO
from raft.messages import NONE
from raft.roles import LEADER
from raft.state import ConfState
from raft.tracker import Tracker

if TYPE_CHECKING:
    from raft.node import Raft


def restore(r: Raft, conf_state: ConfState) -> None:
    """Begin anew with a stored configuration. Raises ConfChangeError."""
    r.tracker = Tracker(r.tracker.max_inflight, r.tracker.max_inflight_bytes)
    configured = restore_configuration(
        conf_state,
        last_index=r.log.last_index(),
        max_inflight=r.tracker.max_inflight,
        max_inflight_bytes=r.tracker.max_inflight_bytes,
    )
    switch_to_config(r, configured)


def apply_conf_change(r: Raft, change: Change) -> ConfState:
    """Put an applied change into force. Raises ConfChangeError and then changes nothing."""
    changer = Changer(
        r.tracker.config,
        r.tracker.progress,
        last_index=r.log.last_index(),
        max_inflight=r.tracker.max_inflight,
        max_inflight_bytes=r.tracker.max_inflight_bytes,
    )
    return switch_to_config(r, changer.apply(as_v2(change)))


def switch_to_config(r: Raft, configured: Configured) -> ConfState:
    """Put a configuration into force and draw the consequences."""
    tracker = r.tracker
    tracker.switch(*configured)
    r.trace(INFO, f"{r.id:x} switched to configuration {tracker.config}")
    conf_state = tracker.config.conf_state()
    ours = tracker.progress.get(r.id)
    r.is_learner = ours is not None and ours.is_learner
    if r.state is not LEADER:
        return conf_state
    if ours is None or r.is_learner:
        # A leader that is removed goes on until its removal is known to a quorum, unless told
        # otherwise: it doesn't count itself meanwhile (raft paper, 6).
        if r.step_down_on_removal:
            r.become_follower(r.term, NONE)
        return conf_state
    if not conf_state.voters:
        return conf_state
    if replication.maybe_commit(r):
        # A smaller quorum can commit more than the larger one did.
        replication.bcast_append(r)
    else:
        # New members are probed at once, the others are sent nothing new.
        for id_ in tracker.progress:
            if id_ != r.id:
                replication.maybe_send_append(r, id_, send_if_empty=False)
    if r.lead_transferee and r.lead_transferee not in tracker.config.all_voters():
        r.lead_transferee = NONE
    return conf_state
