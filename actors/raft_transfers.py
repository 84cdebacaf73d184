"""Snapshots on their way to followers, and the log that is kept for them.

Who has installed a snapshot needs the entries after it, all that were appended while it was made,
sent and verified. They are kept until it has them, or for KEPT_SECONDS after the transfer (etcd's
releaseDelayAfterSnapshot): else a follower of a leader under load would be sent one snapshot after
the other. But they are not worth more memory than KEPT_BYTES_MAX.

A transfer that has failed, as the snapshotter says, is told to raft, which orders another one, only
after RETRY_SECONDS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from actors.messages import SendSnapshot, SnapshotStatus
from actors.peer_codec import encode_peer
from raft.messages import MsgSnap
from raft.raw_node import RawNode
from transport.log import Logger

KEPT_SECONDS: Final = 30.0
KEPT_BYTES_MAX: Final = 512 << 20
RETRY_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Kept:
    """The log behind `index` is kept for a member; after its transfer until it has `goal`.

    An index of inf keeps nothing: that had become too much.
    """

    index: float
    goal: int = 0
    until: float = inf


class Transfers:
    """Those a leader has ordered. Knows no clock."""

    def __init__(self, node: RawNode, send: Callable[[SendSnapshot], bool], log: Logger) -> None:
        """`send(order)` tells the snapshotter, False if there is none now."""
        self._node = node
        self._send = send
        self._log = log
        self._kept: dict[int, _Kept] = {}
        self._failed: dict[int, float] = {}  # when to tell raft

    def begin(self, snapshot: MsgSnap) -> None:
        """Have a snapshot sent. The file may be newer than the message, never older."""
        self._failed.pop(snapshot.to, None)
        self._kept[snapshot.to] = _Kept(snapshot.snapshot.metadata.index)
        if not self._send(SendSnapshot(snapshot.to, encode_peer(snapshot))):
            self._fail(snapshot.to)

    def over(self, status: SnapshotStatus, now: float) -> None:
        """A transfer has ended: the member goes on from there, or raft is to probe it again."""
        kept = self._kept.get(status.to)
        if not status.ok:
            self._kept.pop(status.to, None)
            self._failed[status.to] = now + RETRY_SECONDS
            return
        if kept is not None:
            kept.index = max(kept.index, status.index)
            kept.goal = self._node.raft.log.last_index()
            kept.until = now + KEPT_SECONDS
        self._node.report_snapshot(status.to, True)

    def restart(self) -> None:
        """Those under way are over: a new snapshotter does not know of them."""
        for member in [member for member, kept in self._kept.items() if kept.until == inf]:
            self._fail(member)

    def _fail(self, member: int) -> None:
        del self._kept[member]
        self._node.report_snapshot(member, False)

    def look(self, now: float) -> None:
        """Tell raft what is due, and keep nothing for who has it. To be called at each tick."""
        for member in [member for member, due in self._failed.items() if now >= due]:
            del self._failed[member]
            self._node.report_snapshot(member, False)
        followers = self._node.raft.tracker.progress if self._node.is_leader else {}
        for member, kept in list(self._kept.items()):
            if kept.until == inf:
                continue
            progress = followers.get(member)
            if progress is None or progress.match >= kept.goal or now >= kept.until:
                del self._kept[member]
            else:
                kept.index = max(kept.index, progress.match)

    def kept_from(self, memory_bytes: int) -> float:
        """Return the index behind which nothing may be cut; inf if all may.

        `memory_bytes` is what the log takes: if that is too much, nothing is kept any more.
        """
        needed = {member: kept for member, kept in self._kept.items() if kept.index < inf}
        if needed and memory_bytes > KEPT_BYTES_MAX:
            self._log.warning(
                "the log is no longer kept for snapshots under way: too much was written meanwhile",
                **{"remote-peer-ids": [f"{member:x}" for member in needed]},
            )
            for kept in needed.values():
                kept.index = inf
        return min((kept.index for kept in needed.values()), default=inf)
