"""The receiving side of snapshot transfers: one at a time, from whoever leads the newest term.

Knows no clock and no socket: times are given (seconds, CLOCK_MONOTONIC), messages go out by a
callback. `tick` works for about a millisecond and says when it wants to be called again.

Order (RULES A4): all bytes -> verified -> synced -> final name -> folder synced -> the raft node is
told -> only then Done. Whoever dies in between leaves a file whose name says how far it got.

Invariants: one transfer under way; nothing is written but to its partial file; a file that is
complete is never written to again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.peer_codec import encode_peer
from actors.snapshot_transfer import (
    Accept,
    Ack,
    Chunk,
    Done,
    Message,
    Offer,
    TransferError,
    announced_in,
    is_sound,
)
from raft.messages import MsgSnap
from raft.state import Snapshot, SnapshotMetadata
from storage.database import place
from storage.files import Files
from storage.snapshot import (
    SPARE_BYTES,
    UNREADABLE,
    Announced,
    SnapshotError,
    publish,
    read_facts,
    verify,
)
from storage.snapshot_purge import waiting

SYNC_BYTES: Final = 16 << 20
IDLE_SECONDS_MAX: Final = 60.0
WAITING_MAX: Final = 2
"""Complete files that may wait for the raft node or the applier; no more are taken then."""
TELL_SECONDS: Final = 0.1


@dataclass(slots=True, eq=False)
class _Incoming:
    """A file on its way here: bytes below `offset` are written, those below `synced` durable."""

    sender: int
    id: int
    announced: Announced
    message: MsgSnap
    payload: bytes
    path: Path
    descriptor: int
    offset: int
    began: float
    heard: float
    synced: int = 0
    verifying: Generator[None, None, None] | None = None


@dataclass(slots=True)
class ReceiverCounts:
    """What the receiver has done, for the board."""

    received: int = 0
    failed: int = 0
    received_bytes: int = 0
    rejected: int = 0
    receiving_seconds: float = 0.0


class SnapshotReceiver:
    """See the module docstring."""

    def __init__(
        self,
        directory: Path,
        files: Files,
        emit: Callable[[int, Message], bool],
        deliver: Callable[[bytes], bool],
        *,
        own_id: Callable[[], int],
        applied_index: Callable[[], int],
        leftover: Announced | None = None,
        goes_on: Callable[[], None] = lambda: None,
    ) -> None:
        """`emit(to, message)` sends or drops; `deliver(payload)` tells the raft node, False if not.

        `own_id` and `applied_index` are this member's, `applied_index` perhaps an older one;
        `leftover` is a half-received file: an offer of the same goes on with it. `goes_on()` is
        called in what takes long.
        """
        self._directory = directory
        self._files = files
        self._emit = emit
        self._deliver = deliver
        self._own_id = own_id
        self._applied_index = applied_index
        self._leftover = leftover
        self._goes_on = goes_on
        self._incoming: _Incoming | None = None
        self._telling: tuple[int, int, bytes] | None = None
        self.counts = ReceiverCounts()
        self.problem = ""
        """Why something was rejected last; the owner logs it, now and then, and clears it."""

    def __len__(self) -> int:
        return int(self._incoming is not None)

    def received(self, sender: int, body: object, now: float) -> None:
        """Take an Offer or a Chunk of a member."""
        if isinstance(body, Chunk):
            self._chunk(sender, body, now)
        elif isinstance(body, Offer):
            try:
                self._offer(sender, body, announced_in(body, sender, self._own_id()), now)
            except TransferError as error:
                self.reject(sender, str(error))
        else:
            self.reject(sender, f"a {type(body).__name__} for a receiver")

    def reject(self, sender: int, reason: str) -> None:
        """Count something that can't be used."""
        self.counts.rejected += 1
        self.problem = f"{sender:x}: {reason}"

    def tick(self, now: float) -> float | None:
        """Verify and deliver what is due; return when to be called again (None: never)."""
        if self._telling is not None:
            self._tell()
        incoming = self._incoming
        if incoming is not None and incoming.verifying is not None:
            self._verify(incoming, now)
        elif incoming is not None and now - incoming.heard >= IDLE_SECONDS_MAX:
            self._abandon(incoming)  # its bytes stay: the sender may come back
        if self._telling is not None:
            return now + TELL_SECONDS
        if self._incoming is None:
            return None
        return now if self._incoming.verifying else self._incoming.heard + IDLE_SECONDS_MAX

    def close(self) -> None:
        """Stop everything; a half-received file stays for a successor."""
        if self._incoming is not None:
            self._abandon(self._incoming)

    # --- offers -----------------------------------------------------------------------------------

    def _offer(self, sender: int, offer: Offer, message: MsgSnap, now: float) -> None:
        metadata = message.snapshot.metadata
        announced = Announced(metadata.index, metadata.term, offer.size, offer.checksum)
        current = self._incoming
        if current is not None and (current.sender, current.id) == (sender, offer.id):
            current.heard = now
            self._emit(sender, Accept(offer.id, current.offset))
        elif self._holds(announced):
            # Nothing to fetch. Raft is told all the same: its answer is what the leader waits for.
            self._telling = sender, offer.id, offer.payload
            self._tell()
        elif current is not None and message.term < current.message.term:
            self.reject(sender, f"an offer of term {message.term} beside a newer one")
            self._emit(sender, Done(offer.id, False, "a newer leader sends a snapshot"))
        elif (
            len(names := waiting(self._directory, self._applied_index(), self._files))
            >= WAITING_MAX
        ):
            self._tell_of(max(names, key=lambda name: place(name)[1]), message)
            self._emit(sender, Done(offer.id, False, "other snapshots wait to be installed"))
        else:
            if current is not None:
                self._abandon(current)
                self._emit(current.sender, Done(current.id, False, "replaced by a newer one"))
            self._begin(sender, offer, announced, message, now)

    def _holds(self, announced: Announced) -> bool:
        """Tell whether a snapshot is here, or what it holds is applied."""
        if announced.index <= self._applied_index():
            return True
        if not (self._directory / announced.final_name).exists():
            return False
        # Complete and verified, but whoever named it may have died before the name was durable.
        self._files.sync_directory(self._directory)
        return True

    def _tell_of(self, name: str, message: MsgSnap) -> None:
        """Tell raft of a complete file in the name of who leads now.

        Raft takes no snapshot of a leader of another term, and may have died with what it was told.
        What is in the file is committed, whoever has sent it.
        """
        term, index = place(name)
        try:
            found = read_facts(self._directory / name)
        except UNREADABLE as error:
            self.problem = f"{name}: {error}"
            return
        if found[:2] != (index, term) or term > message.term:
            self.problem = f"{name}: holds index {found[0]} of term {found[1]}"
        else:
            self._files.sync_directory(self._directory)  # as in _holds
            metadata = SnapshotMetadata(index, term, found[2])
            snapshot = Snapshot(message.snapshot.data, metadata)
            told = MsgSnap(message.to, message.from_, message.term, snapshot)
            self._deliver(encode_peer(told))

    def _begin(
        self, sender: int, offer: Offer, announced: Announced, message: MsgSnap, now: float
    ) -> None:
        leftover, self._leftover = self._leftover, None
        if leftover is not None and leftover != announced:
            self._files.unlink(self._directory / leftover.partial_name)
            leftover = None
        path = self._directory / announced.partial_name
        try:
            if (
                not leftover
                and self._files.free_bytes(self._directory) < announced.size + SPARE_BYTES
            ):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            descriptor = self._files.open(path) if leftover else self._files.create(path)
        except OSError as error:
            self._leftover = leftover
            self.counts.failed += 1
            self._emit(sender, Done(offer.id, False, str(error)))
            return
        offset = min(self._files.size(descriptor), announced.size)
        self._incoming = _Incoming(
            sender=sender,
            id=offer.id,
            announced=announced,
            message=message,
            payload=offer.payload,
            path=path,
            descriptor=descriptor,
            offset=offset,
            began=now,
            heard=now,
        )
        self._emit(sender, Accept(offer.id, offset))
        if offset == announced.size:
            self._complete(self._incoming)

    # --- chunks -----------------------------------------------------------------------------------

    def _chunk(self, sender: int, chunk: Chunk, now: float) -> None:
        incoming = self._incoming
        if incoming is None or (incoming.sender, incoming.id) != (sender, chunk.id):
            self.reject(sender, "a chunk of no transfer under way")
            return
        incoming.heard = now
        if chunk.offset < incoming.offset:
            self.reject(sender, f"a chunk at {chunk.offset} again, after {incoming.offset}")
        elif chunk.offset > incoming.offset or not is_sound(chunk, incoming.announced.size):
            self.reject(sender, f"a chunk at {chunk.offset} that does not fit or is damaged")
            self._emit(sender, Accept(chunk.id, incoming.offset))
            return
        elif not self._write(incoming, chunk.data):
            return
        self._emit(sender, Ack(chunk.id, incoming.offset))
        if incoming.offset == incoming.announced.size and incoming.verifying is None:
            self._complete(incoming)

    def _write(self, incoming: _Incoming, data: bytes) -> bool:
        """Append to the partial file; False if the disk refused, and the transfer is over."""
        try:
            self._files.pwrite(incoming.descriptor, [data], incoming.offset)
            incoming.offset += len(data)
            if incoming.offset - incoming.synced >= SYNC_BYTES:
                self._files.fdatasync(incoming.descriptor)  # little by little: no storm at the end
                incoming.synced = incoming.offset
        except OSError as error:
            # Full, or failing: what was written can't be believed, and nothing depends on it.
            self._fail(incoming, str(error))
            return False
        self.counts.received_bytes += len(data)
        return True

    # --- the end ----------------------------------------------------------------------------------

    def _complete(self, incoming: _Incoming) -> None:
        self._files.close(incoming.descriptor)
        incoming.descriptor = -1
        conf_state = incoming.message.snapshot.metadata.conf_state
        incoming.verifying = verify(
            incoming.path, incoming.announced, conf_state, self._files, self._goes_on
        )

    def _verify(self, incoming: _Incoming, now: float) -> None:
        assert incoming.verifying is not None
        try:
            next(incoming.verifying)
        except StopIteration:
            self._finish(incoming, now)
        except (SnapshotError, OSError) as error:
            self._fail(incoming, str(error))

    def _finish(self, incoming: _Incoming, now: float) -> None:
        try:
            publish(self._directory, incoming.announced, self._files)
        except OSError as error:
            self._fail(incoming, str(error))
            return
        self._incoming = None
        self.counts.received += 1
        self.counts.receiving_seconds = now - incoming.began
        self._telling = incoming.sender, incoming.id, incoming.payload
        self._tell()

    def _tell(self) -> None:
        """Tell the raft node, until it takes it; then the sender."""
        assert self._telling is not None
        sender, transfer, payload = self._telling
        if self._deliver(payload):
            self._telling = None
            self._emit(sender, Done(transfer, True, ""))

    def _fail(self, incoming: _Incoming, reason: str) -> None:
        """End a transfer and forget what came: none of it can be believed."""
        self._abandon(incoming)
        self._leftover = None
        if incoming.path.exists():
            self._files.unlink(incoming.path)
        self.counts.failed += 1
        self.problem = f"{incoming.sender:x}: {reason}"
        self._emit(incoming.sender, Done(incoming.id, False, reason))

    def _abandon(self, incoming: _Incoming) -> None:
        self._incoming = None
        self._leftover = incoming.announced
        if incoming.verifying is not None:
            incoming.verifying.close()
        if incoming.descriptor >= 0:
            self._files.close(incoming.descriptor)
