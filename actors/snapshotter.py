"""Durable checkpoints, snapshot files and their transfer to and from other members, purging.

Owns      the checkpoints of the database; snapshot files while they are made, sent and received.
Receives  Committed from the applier: how far the database's own log has grown; SendSnapshot from
          the raft node; PeerReceived from the transport: what other members' snapshotters say.
Sends     Durable, SnapshotStatus and SnapshotReceived to the raft node, Checkpointed to the
          applier, PeerMessages to the transport.
Crashes   on a message of any other type. Jobs are idempotent: a new one goes on from the files.

The order that counts (RULES A8): the applied index is read first; only a checkpoint that copied
everything after that makes it durable. A busy database is an ordinary answer. What a received
snapshot goes through before raft is told of it stands in snapshot_receiver.py.
"""

from __future__ import annotations

import time
from typing import Any, Final

from actors.base import Actor, handles, run
from actors.messages import (
    Checkpointed,
    Committed,
    Durable,
    PeerMessages,
    PeerReceived,
    SendSnapshot,
    SnapshotReceived,
    SnapshotStatus,
)
from actors.metrics import ApplierMetric, Histogram, RaftMetric, SnapshotterMetric
from actors.peer_codec import decode_peer
from actors.snapshot_metrics import snapshot_times
from actors.snapshot_receiver import SnapshotReceiver
from actors.snapshot_sender import SnapshotSender
from actors.snapshot_transfer import Chunk, Message, Offer, TransferError, decode, encode
from raft.messages import MsgSnap
from storage.checkpoint import Checkpointer
from storage.database import DiskFullError, exists
from storage.files import default_files, scaled
from storage.snapshot import sort_leftovers
from storage.snapshot_purge import purge
from transport.context import ActorContext
from transport.counters import Cell
from transport.lanes import Lane
from transport.mailbox import Tick

FRAMES_MAX: Final = scaled(24_576)  # 96 MiB of 4 KiB pages
LOG_BYTES_MAX: Final = scaled(24 << 20)  # the raft node keeps in memory what is not durable
SECONDS_MAX: Final = 2.0
RETRY_SECONDS: Final = 0.2
PURGE_SECONDS: Final = 10.0
PROBLEM_SECONDS: Final = 1.0


class Snapshotter(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self._directory = context.data_dir / "member" / "db"
        self._files = default_files()
        self._checkpointer: Checkpointer | None = None
        self._sender: SnapshotSender | None = None
        self._receiver: SnapshotReceiver | None = None
        self._latest = Committed(applied_index=0, frames=0)
        self._durable_index = 0
        self._copied = 0  # frames of the database's log that the last checkpoint had done with
        self._log_bytes = self.board.block("raft-node") + Cell.METRICS + RaftMetric.WAL_BYTES
        self._bytes_before = self._words[self._log_bytes]
        self._next = 0.0
        self._next_purge = time.monotonic() + PURGE_SECONDS
        self._next_problem = 0.0
        self._took = Histogram(self.board, self.name, SnapshotterMetric.CHECKPOINT)
        self._making_took = snapshot_times(self.board, SnapshotterMetric.MAKE)
        self._sending_took = snapshot_times(self.board, SnapshotterMetric.SEND)
        self._receiving_took = snapshot_times(self.board, SnapshotterMetric.RECEIVE)

    @handles(Committed)
    def committed(self, message: Committed) -> None:
        """Note the growth; a big one starts a checkpoint at the end of the batch."""
        self._latest = message
        if message.frames < self._copied:  # it has begun anew
            self._copied = 0
        if self._has_grown():
            self.actor_inbox.wake_at(self._next)

    def _has_grown(self) -> bool:
        grown = self._words[self._log_bytes] - self._bytes_before
        return self._latest.frames - self._copied >= FRAMES_MAX or grown >= LOG_BYTES_MAX

    @handles(SendSnapshot)
    def send_snapshot(self, message: SendSnapshot) -> None:
        """Send a file to a member; the raft node hears how it ended."""
        order = decode_peer(message.payload)
        assert isinstance(order, MsgSnap), f"an order to send a {type(order).__name__}"
        assert order.to == message.to, f"an order for {message.to:x} names {order.to:x}"
        if not self._open():
            self._sending_finished(message.to, 0, False, "there is no database yet")
            return
        assert self._sender is not None
        self.log.info("sending database snapshot", **{"remote-peer-id": f"{message.to:x}"})
        self._sender.start(order, time.monotonic())
        self.actor_inbox.wake_at(time.monotonic())

    @handles(PeerReceived)
    def peer_received(self, message: PeerReceived) -> None:
        """Hand on what other members' snapshotters say; what can't be read is counted."""
        if not self._open():
            return  # they repeat it
        assert self._sender is not None
        assert self._receiver is not None
        now = time.monotonic()
        for sender, payload in zip(message.senders, message.payloads, strict=True):
            try:
                body = decode(payload)
            except TransferError as error:
                self._receiver.reject(sender, str(error))
                continue
            if isinstance(body, Offer | Chunk):
                self._receiver.received(sender, body, now)
            else:
                self._sender.received(sender, body, now)
        self.actor_inbox.wake_at(now)

    @handles(Tick)
    def tick(self, message: Tick) -> None:
        """Checkpoint, transfer and purge what is due."""
        if self._latest.applied_index > self._durable_index:
            due = self._next if self._has_grown() else self._next + SECONDS_MAX
            if message.now >= due:
                self._checkpoint()
        if self._open():
            self._transfer(time.monotonic())
        if message.now >= self._next_purge:
            self._next_purge = message.now + PURGE_SECONDS
            self._purge()

    # --- checkpoints ------------------------------------------------------------------------------

    def _living(self) -> Checkpointer | None:
        """Return a connection to the file that CURRENT names; None if there is none yet."""
        if self._checkpointer is None:
            if not exists(self._directory):
                return None
            self._checkpointer = Checkpointer(self._directory)
        elif self._checkpointer.reopen():
            self._copied = 0
        return self._checkpointer

    def _checkpoint(self) -> None:
        checkpointer = self._living()
        if checkpointer is None:
            return
        started = time.monotonic_ns()
        logged = self._words[self._log_bytes]
        self._next = time.monotonic() + RETRY_SECONDS
        try:
            result = checkpointer.run()
        except DiskFullError:
            return  # nothing is durable by it; the applier says that space is missing
        self._took.observe(time.monotonic_ns() - started)
        self.count(SnapshotterMetric.CHECKPOINTS)
        self._copied = max(0, self._latest.frames - result.frames_left)
        self.send("applier", Checkpointed(result.frames_left))
        if result.durable_index is not None and result.durable_index > self._durable_index:
            self._durable_index = result.durable_index
            self._bytes_before = logged
            self.metric(SnapshotterMetric.DURABLE_INDEX, result.durable_index)
            self.send("raft-node", Durable(result.durable_index, result.durable_term))

    # --- snapshots --------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Make the two sides of transfers once there is a database; tell if there is."""
        if self._sender is not None:
            return True
        if not exists(self._directory):
            return False
        left = sort_leftovers(self._directory, self._files)
        raft = self.board.block("raft-node") + Cell.METRICS + RaftMetric.MEMBER_ID
        applier = self.board.block("applier") + Cell.METRICS + ApplierMetric.APPLIED_INDEX
        self._sender = SnapshotSender(
            self._directory,
            self._files,
            self._emit,
            self._sending_finished,
            leftover=left.outgoing,
        )
        self._receiver = SnapshotReceiver(
            self._directory,
            self._files,
            self._emit,
            self._deliver,
            own_id=lambda: self._words[raft],
            applied_index=lambda: self._words[applier],
            leftover=left.incoming,
            goes_on=self.note_progress,
        )
        return True

    def _emit(self, to: int, body: Message) -> bool:
        payload = encode(body)
        return self.send("transport", PeerMessages([to], [int(Lane.SNAPSHOT)], [payload]))

    def _deliver(self, payload: bytes) -> bool:
        return self.send("raft-node", SnapshotReceived(payload))

    def _sending_finished(self, to: int, index: int, ok: bool, reason: str) -> None:
        self.count(SnapshotterMetric.SENT if ok else SnapshotterMetric.SEND_FAILURES)
        named = {"remote-peer-id": f"{to:x}"}
        if ok:
            self.log.info("sent database snapshot", **named, snapshot_index=index)
        else:
            self.log.warning(
                "failed to send database snapshot",
                **named,
                snapshot_index=index,
                error=reason,
            )
        self.send("raft-node", SnapshotStatus(to, index, ok))

    def _transfer(self, now: float) -> None:
        assert self._sender is not None
        assert self._receiver is not None
        times = [self._sender.tick(now), self._receiver.tick(now)]
        for when in times:
            if when is not None:
                self.actor_inbox.wake_at(when)
        self._note_transfers(self._sender, self._receiver, now)

    def _note_transfers(
        self, sender: SnapshotSender, receiver: SnapshotReceiver, now: float
    ) -> None:
        sent, received = sender.counts, receiver.counts
        self.metric(SnapshotterMetric.SENDING, len(sender))
        self.metric(SnapshotterMetric.RECEIVING, len(receiver))
        if received.received:
            self.log.info(
                "received and saved database snapshot",
                took=f"{received.receiving_seconds:.6f}s",
            )
            self._receiving_took.observe(received.receiving_seconds)
        self.count(SnapshotterMetric.FILES_MADE, sent.made)
        self.count(SnapshotterMetric.SENT_BYTES, sent.sent_bytes)
        self.count(SnapshotterMetric.RECEIVED, received.received)
        self.count(SnapshotterMetric.RECEIVE_FAILURES, received.failed)
        self.count(SnapshotterMetric.RECEIVED_BYTES, received.received_bytes)
        self.count(SnapshotterMetric.REJECTED, received.rejected + sent.ignored)
        for seconds in sent.making_seconds:
            self._making_took.observe(seconds)
        for seconds in sent.sending_seconds:
            self._sending_took.observe(seconds)
        sender.counts, receiver.counts = type(sent)(), type(received)()
        if receiver.problem and now >= self._next_problem:
            self._next_problem = now + PROBLEM_SECONDS
            self.log.warning("rejected from a peer's snapshotter", error=receiver.problem)
            receiver.problem = ""

    def _purge(self) -> None:
        """Remove databases that snapshots have replaced, as soon as nobody has them open."""
        checkpointer = self._living()
        if checkpointer is None:
            return
        applied = checkpointer.applied_index()  # before CURRENT is looked at, see snapshot_purge
        removed = purge(self._directory, applied, self._files, checkpointer.generation)
        if removed:
            self.count(SnapshotterMetric.PURGED, len(removed))
            self.log.info("purged database files", files=removed)

    def stats(self) -> dict[str, Any]:
        """Return how far the checkpoints are, and what is under way."""
        return {
            "durable_index": self._durable_index,
            "frames_left": max(0, self._latest.frames - self._copied),
            "sending": len(self._sender) if self._sender is not None else 0,
            "receiving": len(self._receiver) if self._receiver is not None else 0,
        }


def main(context: ActorContext) -> None:
    """Run the snapshotter of one member."""
    run(Snapshotter, context)
