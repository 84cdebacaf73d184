"""The real raft node, watched."""

from __future__ import annotations

from typing import Any

from actors.raft_node import RaftNode
from raft.messages import MsgStorageAppend, PeerMessage
from raft.raw_node import RawNode


class SimRaftNode(RaftNode):
    """actors.raft_node.RaftNode; what it writes and sends is shown to the checkers."""

    _node: RawNode

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.member = context.process.member

    def on_start(self) -> None:
        """Start; raft says nothing to others before it is ticked."""
        super().on_start()
        self._add = self._outbox.add
        self._outbox.add = self._adding  # type: ignore[method-assign]

    @property
    def core(self) -> RawNode:
        """The raft core; missing while it starts."""
        return self._node

    def _adding(self, message: PeerMessage) -> None:
        self.member.cluster.invariants.sending(self.member, self, message)
        self._add(message)

    def _install(self, order: MsgStorageAppend) -> None:
        super()._install(order)
        self.member.world.point("snapshot recorded", self.member)

    def _store(self, order: MsgStorageAppend, *, must_sync: bool) -> None:
        self.member.cluster.invariants.writing(self.member, self, order)
        super()._store(order, must_sync=must_sync)
