"""Snapshotter and transport, reduced to what raft sees of them.

A checkpoint makes the database durable now and then and tells the raft node. A snapshot is one
message that takes long: made from a committed state, carried by the network or lost, written and
synced by the other snapshotter, then reported to both raft nodes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from actors.messages import (
    Durable,
    PeerMessages,
    PeerReceived,
    SendSnapshot,
    SnapshotReceived,
    SnapshotStatus,
)
from actors.peer_codec import decode_peer, encode_peer
from raft.messages import MsgSnap
from raft.state import Snapshot, SnapshotMetadata
from storage.database import snapshot_name
from transport.mailbox import Tick

if TYPE_CHECKING:
    from tests.sim.process import Process


class SimTransport:
    """Passes messages on to the network. What is under way when it dies is lost."""

    tick_seconds = 1e6

    def __init__(self, process: Process) -> None:
        self._member = process.member

    def on_start(self) -> None:
        """Nothing to do."""

    def have(self, sender: str) -> int:
        """Nothing is kept."""
        return 0

    def on_receive(self, message: object) -> None:
        """Send what the raft node has for others."""
        if isinstance(message, PeerMessages):
            network = self._member.cluster.network
            for to, lane, payload in zip(message.to, message.lanes, message.payloads, strict=True):
                network.send(self._member, to, PeerReceived([self._member.id], [lane], [payload]))


class SimSnapshotter:
    """See the module docstring."""

    tick_seconds = 0.7

    def __init__(self, process: Process) -> None:
        self._process = process
        self._member = process.member
        self._world = process.world

    def on_start(self) -> None:
        """Nothing to do."""

    def have(self, sender: str) -> int:
        """Nothing is kept."""
        return 0

    def welcome(self, receiver: str, have: int) -> list[int]:
        """Nothing to tell."""
        return []

    def on_receive(self, message: object) -> None:
        """Take orders of the raft node."""
        if isinstance(message, SendSnapshot):
            self._send(message)
        elif isinstance(message, Tick) and self._world.often(0.7):
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make the database durable and say how far."""
        self._process.moment()
        index, term = self._member.database.checkpoint()
        self._process.moment()
        self._tell(Durable(index, term))

    def _tell(self, message: object) -> None:
        self._member.edges.send("snapshotter", "raft-node", message)

    # --- sending ----------------------------------------------------------------------------------

    def _send(self, order: SendSnapshot) -> None:
        asked = decode_peer(order.payload)
        assert isinstance(asked, MsgSnap)
        data = self._member.database.store.committed
        state = data.state
        if state.progress.applied_index < asked.snapshot.metadata.index:
            self._world.point("snapshot asked before it is applied")
            self._over(order.to, 0, self._process.incarnation, ok=False)
            return
        metadata = SnapshotMetadata(
            state.progress.applied_index, state.progress.applied_term, state.conf_state
        )
        message = replace(asked, snapshot=Snapshot(b"", metadata))
        self._world.point("snapshot sent")
        seconds = self._world.chance.choice((0.01, 0.1, 1.0, 3.0)) * self._world.chance.random()
        incarnation = self._process.incarnation
        self._world.after(seconds, self._arrive, order.to, message, data, incarnation)

    def _arrive(self, to: int, message: MsgSnap, data: Any, incarnation: int) -> None:
        if self._process.incarnation != incarnation or not self._process.alive:
            return
        cluster = self._member.cluster
        receiver = cluster.members[to].processes["snapshotter"]
        index = message.snapshot.metadata.index
        if not receiver.alive or not cluster.network.passes(self._member.id, to):
            self._world.point("snapshot lost on its way")
            self._over(to, index, incarnation, ok=False)
            return
        with receiver.running():
            receiver.actor.take(message, data)
        heard = cluster.network.passes(to, self._member.id)
        self._world.after(0.001, self._over, to, index, incarnation, heard)

    def _over(self, to: int, index: int, incarnation: int, ok: bool) -> None:
        if self._process.incarnation == incarnation and self._process.alive:
            self._tell(SnapshotStatus(to, index, ok))

    def take(self, message: MsgSnap, data: Any) -> None:
        """Write and sync a snapshot file, then tell the raft node."""
        metadata = message.snapshot.metadata
        self._process.moment()
        self._member.database.files.setdefault(snapshot_name(metadata.term, metadata.index), data)
        self._process.moment()
        self._tell(SnapshotReceived(encode_peer(message)))
        self._world.point("snapshot received", self._member)
