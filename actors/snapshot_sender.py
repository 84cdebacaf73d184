"""The sending side of snapshot transfers: one file serves all followers that need it.

Knows no clock and no socket: times are given (seconds, CLOCK_MONOTONIC), messages go out by a
callback. `tick` works for about a millisecond and says when it wants to be called again.

Invariants: at most TRANSFERS_MAX members are served, each by one transfer; at most FILES_MAX files
exist; every SendSnapshot ends in exactly one call of `finished`, unless the same member is asked
for again before that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from zlib import crc32

from actors.peer_codec import encode_peer
from actors.snapshot_transfer import (
    CHUNK_BYTES,
    RETRY_SECONDS,
    RETRY_SECONDS_MAX,
    UNHEARD_SECONDS_MAX,
    WINDOW_BYTES,
    Accept,
    Ack,
    Chunk,
    Done,
    Message,
    Offer,
)
from raft.messages import MsgSnap
from raft.state import Snapshot, SnapshotMetadata
from storage.database import DiskFullError
from storage.files import Files
from storage.snapshot import SnapshotFile, make, recheck

TRANSFERS_MAX: Final = 16
FILES_MAX: Final = 2
RATE_BYTES_MAX: Final = 48 << 20
"""Bytes a second over all transfers: the leader's clients come first."""
BURST_SECONDS: Final = 0.01
LINGER_SECONDS: Final = 30.0
STALLED_SECONDS_MAX: Final = 600.0
"""A receiver that answers, but gets no further for so long, is given up."""

Finished = Callable[[int, int, bool, str], None]


@dataclass(slots=True, eq=False)
class _File:
    """A file with an open descriptor. `unused_since` counts while no transfer needs it."""

    facts: SnapshotFile
    descriptor: int
    unused_since: float


@dataclass(slots=True, eq=False)
class _Transfer:
    """One file on its way to one member: `acked <= sent <= reached <= size`.

    Bytes below `acked` are there; `reached` is how far it ever got, before it went back.
    """

    id: int
    to: int
    file: _File
    payload: bytes
    began: float
    heard: float
    advanced: float
    repeat_at: float
    acked: int = 0
    sent: int = 0
    reached: int = 0
    accepted: bool = False
    rewound: bool = False
    pause: float = RETRY_SECONDS


@dataclass(slots=True)
class SenderCounts:
    """What the sender has done, for the board. `seconds` are of transfers that went well."""

    made: int = 0
    sent_bytes: int = 0
    repeated: int = 0
    ignored: int = 0
    making_seconds: list[float] = field(default_factory=list)
    sending_seconds: list[float] = field(default_factory=list)


class SnapshotSender:
    """See the module docstring."""

    def __init__(
        self,
        directory: Path,
        files: Files,
        emit: Callable[[int, Message], bool],
        finished: Finished,
        *,
        leftover: Path | None = None,
        rate: int = RATE_BYTES_MAX,
    ) -> None:
        """`emit(to, message)` sends or drops; `finished(to, index, ok, reason)` ends an order.

        `leftover` is a file that an earlier process made: it is used if it is still whole.
        """
        self._directory = directory
        self._storage = files
        self._emit = emit
        self._finished = finished
        self._leftover = leftover
        self._rate = rate
        self._ids = random.SystemRandom()
        self._files: list[_File] = []
        self._waiting: dict[int, MsgSnap] = {}
        self._transfers: dict[int, _Transfer] = {}
        self._making: Generator[None, None, SnapshotFile | None] | None = None
        self._making_began = 0.0
        self._next_step = 0.0
        self._next_chunk = 0.0
        self.counts = SenderCounts()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._transfers)

    def start(self, message: MsgSnap, now: float) -> None:
        """Send a file at least as new as a MsgSnap says to its receiver."""
        to = message.to
        self._waiting.pop(to, None)
        if to in self._transfers:  # a new raft node, or a new term: what was sent is not lost
            self._forget(self._transfers[to], now)
        if len(self) >= TRANSFERS_MAX:
            self._finished(to, message.snapshot.metadata.index, False, "too many transfers")
            return
        fitting = [file for file in self._files if _fits(file.facts, message)]
        if fitting:
            newest = max(fitting, key=lambda file: file.facts.index)
            self._begin(message, newest, now)
        else:
            self._waiting[to] = message

    def received(self, sender: int, body: object, now: float) -> None:
        """Take an answer of a receiver; what belongs to no transfer is counted and ignored."""
        transfer = self._transfers.get(sender)
        if not isinstance(body, Accept | Ack | Done) or transfer is None or body.id != transfer.id:
            self.counts.ignored += 1
            return
        if isinstance(body, Done):
            self._end(transfer, body.ok, body.reason, now)
        elif isinstance(body, Accept):
            self._accepted(transfer, body.offset, now)
        else:
            self._acked(transfer, body.offset, now)

    def tick(self, now: float) -> float | None:
        """Make, send and repeat what is due; return when to be called again (None: never)."""
        self._step_making(now)
        for transfer in list(self._transfers.values()):
            self._look_after(transfer, now)
        self._send_chunks(now)
        self._drop_unused(now)
        return self._next_time()

    def close(self) -> None:
        """Stop everything; files that were made stay for a successor."""
        if self._making is not None:
            self._making.close()
        for file in self._files:
            self._storage.close(file.descriptor)
        self._files.clear()

    # --- files ------------------------------------------------------------------------------------

    def _step_making(self, now: float) -> None:
        if self._making is None:
            if not self._waiting or not self._room(now):
                return
            self._making_began = now
            if self._leftover is not None:
                self._making = recheck(self._leftover, self._storage)
            else:
                self._making = make(self._directory, self._storage)
        if now < self._next_step:
            return
        started = time.monotonic()
        try:
            next(self._making)
        except StopIteration as stop:
            self._made(stop.value, now)
        except DiskFullError:
            self._making = None
            self._refuse_waiting("no space for the snapshot file")
        else:
            # As long again for others: a copy takes one core's time, and the disk's.
            self._next_step = now + (time.monotonic() - started)

    def _made(self, facts: SnapshotFile | None, now: float) -> None:
        self._making = None
        rechecked, self._leftover = self._leftover, None
        if facts is None:  # the leftover is not whole
            assert rechecked is not None
            self._storage.unlink(rechecked)
            return
        if rechecked is None:
            self.counts.made += 1
            self.counts.making_seconds.append(now - self._making_began)
        file = _File(facts, self._storage.open(facts.path), now)
        self._files.append(file)
        waiting, self._waiting = self._waiting, {}
        for to, message in waiting.items():
            if _fits(facts, message):
                self._begin(message, file, now)
            elif rechecked is not None:
                self._waiting[to] = message
            else:
                reason = "the receiver is not in the snapshot's configuration"
                if facts.holds_member(to):
                    reason = "the database is behind the log"
                self._finished(to, facts.index, False, reason)

    def _room(self, now: float) -> bool:
        """Tell whether one more file may be made; an idle one makes place."""
        self._drop_unused(now, linger=0.0)
        return len(self._files) < FILES_MAX

    def _refuse_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for to, message in waiting.items():
            self._finished(to, message.snapshot.metadata.index, False, reason)

    def _drop_unused(self, now: float, linger: float = LINGER_SECONDS) -> None:
        used = {id(transfer.file) for transfer in self._transfers.values()}
        for file in list(self._files):
            if id(file) in used:
                file.unused_since = now
            elif now - file.unused_since >= linger:
                self._files.remove(file)
                self._storage.close(file.descriptor)
                self._storage.unlink(file.facts.path)

    # --- transfers --------------------------------------------------------------------------------

    def _begin(self, message: MsgSnap, file: _File, now: float) -> None:
        facts = file.facts
        metadata = SnapshotMetadata(facts.index, facts.term, facts.conf_state)
        own = MsgSnap(
            message.to, message.from_, message.term, Snapshot(message.snapshot.data, metadata)
        )
        transfer = _Transfer(
            id=self._ids.getrandbits(63),
            to=message.to,
            file=file,
            payload=encode_peer(own),
            began=now,
            heard=now,
            advanced=now,
            repeat_at=now,
        )
        self._transfers[message.to] = transfer
        self._look_after(transfer, now)

    def _accepted(self, transfer: _Transfer, offset: int, now: float) -> None:
        transfer.heard = now
        if not 0 <= offset <= transfer.file.facts.size:
            self.counts.ignored += 1
            return
        if not transfer.accepted or offset != transfer.acked:
            # Less than was acknowledged: a restarted receiver lost what was not on its disk.
            transfer.accepted = True
            transfer.acked = transfer.sent = offset
            transfer.reached = max(transfer.reached, offset)
            self._advanced(transfer, now)
        elif not transfer.rewound:  # said for every chunk behind a gap; the first one counts
            transfer.rewound = True
            if transfer.sent > offset:
                self.counts.repeated += 1
            transfer.sent = offset
        self._send_chunks(now)

    def _acked(self, transfer: _Transfer, offset: int, now: float) -> None:
        transfer.heard = now
        if not transfer.accepted or not transfer.acked <= offset <= transfer.reached:
            self.counts.ignored += 1
        elif offset > transfer.acked:
            transfer.acked = offset
            transfer.sent = max(transfer.sent, offset)
            self._advanced(transfer, now)
            self._send_chunks(now)

    def _advanced(self, transfer: _Transfer, now: float) -> None:
        transfer.advanced = now
        transfer.rewound = False
        transfer.pause = RETRY_SECONDS
        transfer.repeat_at = now + transfer.pause

    def _look_after(self, transfer: _Transfer, now: float) -> None:
        """Repeat what got no answer; give up what gets none for too long."""
        if now - transfer.heard >= UNHEARD_SECONDS_MAX:
            self._end(transfer, False, "no answer", now)
        elif now - transfer.advanced >= STALLED_SECONDS_MAX:
            self._end(transfer, False, "no progress", now)
        elif now >= transfer.repeat_at:
            facts = transfer.file.facts
            transfer.repeat_at = now + transfer.pause
            transfer.pause = min(2 * transfer.pause, RETRY_SECONDS_MAX)
            transfer.rewound = False
            self._emit(
                transfer.to, Offer(transfer.id, facts.size, facts.checksum, transfer.payload)
            )

    def _send_chunks(self, now: float) -> None:
        """Send in turns what windows and rate allow."""
        self._next_chunk = max(self._next_chunk, now - BURST_SECONDS)
        going = [transfer for transfer in self._transfers.values() if _may_send(transfer)]
        while going and self._next_chunk <= now:
            for transfer in list(going):
                if self._next_chunk > now:
                    break
                if not self._send_chunk(transfer):
                    going.clear()
                    break
                if not _may_send(transfer):
                    going.remove(transfer)

    def _send_chunk(self, transfer: _Transfer) -> bool:
        file, offset = transfer.file, transfer.sent
        length = min(CHUNK_BYTES, file.facts.size - offset)
        data = self._storage.pread(file.descriptor, length, offset)
        assert len(data) == length, f"{file.facts.path} has been cut"
        self._next_chunk += length / self._rate
        if not self._emit(transfer.to, Chunk(transfer.id, offset, crc32(data), data)):
            return False  # dropped here: the timer repeats it
        transfer.sent += length
        transfer.reached = max(transfer.reached, transfer.sent)
        self.counts.sent_bytes += length
        return True

    def _end(self, transfer: _Transfer, ok: bool, reason: str, now: float) -> None:
        self._forget(transfer, now)
        if ok:
            self.counts.sending_seconds.append(now - transfer.began)
        self._finished(transfer.to, transfer.file.facts.index, ok, reason)

    def _forget(self, transfer: _Transfer, now: float) -> None:
        del self._transfers[transfer.to]
        transfer.file.unused_since = now

    def _next_time(self) -> float | None:
        times = [transfer.repeat_at for transfer in self._transfers.values()]
        if self._making is not None or (self._waiting and len(self._files) < FILES_MAX):
            times.append(self._next_step)
        if any(map(_may_send, self._transfers.values())):
            times.append(self._next_chunk)
        times += [file.unused_since + LINGER_SECONDS for file in self._files]
        return min(times, default=None)


def _fits(facts: SnapshotFile, message: MsgSnap) -> bool:
    return facts.index >= message.snapshot.metadata.index and facts.holds_member(message.to)


def _may_send(transfer: _Transfer) -> bool:
    size = transfer.file.facts.size
    return transfer.accepted and transfer.sent < min(size, transfer.acked + WINDOW_BYTES)
