"""Lanes of a link between two members: what is sent in one never queues behind another."""

from __future__ import annotations

from enum import IntEnum


class Lane(IntEnum):
    """Who gets a payload, and by which connection it goes. Append-only: peers may be newer."""

    CONTROL = 0
    """raft: heartbeats, votes, read indexes, small answers."""
    APPEND = 1
    """raft: MsgApp, its answers, forwarded proposals."""
    SNAPSHOT = 2
    """snapshotter: chunks and their answers."""
    LEASE = 3
    """lessor: keep-alives and questions for the primary lessor. Shares CONTROL's connection."""
