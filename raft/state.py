"""What raft keeps on disk: entries, hard state, configuration and snapshot metadata.

Field names and meaning are raftpb's. An entry of trouped carries a *batch* of client requests
as one gateway sent it, so the cost of consensus is paid per batch and not per request.
"""

from __future__ import annotations

from enum import IntEnum

from raft.message import message


class EntryType(IntEnum):
    """raftpb.EntryType."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


@message
class Entry:
    """One place in the log. `data` is opaque to raft; empty data marks a new leader's no-op."""

    term: int
    index: int
    data: bytes = b""
    type: int = EntryType.NORMAL


@message
class HardState:
    """What must be on disk before any message that depends on it leaves: raft paper, figure 2."""

    term: int = 0
    vote: int = 0
    commit: int = 0


@message
class ConfState:
    """The configuration at an index; ids sorted ascending. `voters_outgoing` only while joint."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


@message
class SnapshotMetadata:
    """The log is covered up to `index` (of `term`) by durable state with this configuration."""

    index: int = 0
    term: int = 0
    conf_state: ConfState = ConfState()


@message
class Snapshot:
    """The application's state up to `metadata.index`. Index 0 is "no snapshot"."""

    data: bytes = b""
    metadata: SnapshotMetadata = SnapshotMetadata()
