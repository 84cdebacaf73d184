"""Two snapshotters and a link that loses, doubles, delays and spoils what they say."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from actors.peer_codec import decode_peer, encode_peer
from actors.snapshot_receiver import SnapshotReceiver
from actors.snapshot_sender import SnapshotSender
from actors.snapshot_transfer import Chunk, Message, Offer, TransferError, decode, encode
from raft.messages import MsgSnap
from raft.state import Snapshot, SnapshotMetadata
from storage.files import Files, OsFiles
from storage.snapshot import sort_leftovers
from tests.storage.snapshot_bench import TERM, Database

LEADER = 1
FOLLOWER = 2
STEP_SECONDS = 0.002
Spoil = Callable[[int, bytes], list[bytes]]


def order(to: int = FOLLOWER, index: int = 1, term: int = TERM) -> MsgSnap:
    """Return what raft of the leader asks for: a snapshot of `index` or later."""
    return MsgSnap(to, LEADER, term, Snapshot(b"", SnapshotMetadata(index, TERM)))


def faithful(_: int, payload: bytes) -> list[bytes]:
    return [payload]


class Lossy:
    """Drops, doubles, spoils and reorders; the same again for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._held: list[bytes] = []

    def __call__(self, _: int, payload: bytes) -> list[bytes]:
        dice = self._chance.random()
        if dice < 0.05:
            return []
        if dice < 0.10:
            return [payload, payload]
        if dice < 0.15:
            at = self._chance.randrange(len(payload))
            return [payload[:at] + bytes([payload[at] ^ 16]) + payload[at + 1 :]]
        if dice < 0.20:
            return [payload[: self._chance.randrange(len(payload))]]
        if dice < 0.30:
            self._held.append(payload)
            return []
        held, self._held = self._held, []
        return [payload, *held]


class Member:
    """One member's snapshotter, in pieces; `restart` makes a new process of it."""

    def __init__(self, member_id: int, directory: Path, link: Link, files: Files) -> None:
        self.id = member_id
        self.directory = directory
        self.link = link
        self.files = files
        self.told: list[MsgSnap] = []
        self.ended: list[tuple[int, int, bool, str]] = []
        self.raft_node_lives = True
        self.applied = 0
        self.rate = 1 << 40
        self.rejected = 0
        self.start()

    def start(self) -> None:
        left = sort_leftovers(self.directory, self.files)
        self.sender = SnapshotSender(
            self.directory,
            self.files,
            self._emit,
            lambda *end: self.ended.append(end),
            leftover=left.outgoing,
            rate=self.rate,
        )
        self.receiver = SnapshotReceiver(
            self.directory,
            self.files,
            self._emit,
            self._deliver,
            own_id=lambda: self.id,
            applied_index=lambda: self.applied,
            leftover=left.incoming,
        )

    def restart(self) -> None:
        """Die and be born again: nothing but the files is left."""
        self.sender.close()
        self.receiver.close()
        self.start()

    def _emit(self, to: int, body: Message) -> bool:
        return self.link.send(self.id, to, encode(body))

    def _deliver(self, payload: bytes) -> bool:
        if self.raft_node_lives:
            message = decode_peer(payload)
            assert isinstance(message, MsgSnap)
            self.told.append(message)
        return self.raft_node_lives

    def take(self, sender: int, payload: bytes, now: float) -> None:
        try:
            body = decode(payload)
        except TransferError:
            self.rejected += 1
            return
        if isinstance(body, Offer | Chunk):
            self.receiver.received(sender, body, now)
        else:
            self.sender.received(sender, body, now)

    def tick(self, now: float) -> None:
        self.sender.tick(now)
        self.receiver.tick(now)


class Link:
    """All members and what is on its way between them; time passes in `run`."""

    def __init__(self, folder: Path, spoil: Spoil = faithful, files: Files | None = None) -> None:
        self.now = 100.0
        self.spoil = spoil
        self.bytes_sent = 0
        self.seen: list[tuple[int, int, bytes]] = []
        self._queue: list[tuple[int, int, bytes]] = []
        self.database = Database(folder / "leader" / "db")
        for name in ("follower", "third"):
            Database(folder / name / "db").close()
        own = files or OsFiles()
        self.leader = Member(LEADER, folder / "leader" / "db", self, OsFiles())
        self.follower = Member(FOLLOWER, folder / "follower" / "db", self, own)
        self.members = {LEADER: self.leader, FOLLOWER: self.follower}

    def send(self, sender: int, to: int, payload: bytes) -> bool:
        self.bytes_sent += len(payload)
        self.seen.append((sender, to, payload))
        self._queue += [(sender, to, copy) for copy in self.spoil(to, payload)]
        return True

    def step(self) -> None:
        """One moment: everything arrives, everybody ticks."""
        self.now += STEP_SECONDS
        queue, self._queue = self._queue, []
        for sender, to, payload in queue:
            if to in self.members:
                self.members[to].take(sender, payload, self.now)
        for member in self.members.values():
            member.tick(self.now)

    def run(self, until: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let time pass until something is so."""
        end = self.now + seconds
        while not until():
            assert self.now < end, "it never happened"
            self.step()

    def close(self) -> None:
        for member in self.members.values():
            member.sender.close()
            member.receiver.close()
        self.database.close()


def offers(link: Link) -> list[Offer]:
    """Return the Offers that were sent."""
    return [body for _, _, payload in link.seen if isinstance(body := decode(payload), Offer)]


def forged(message: MsgSnap, size: int = 10, checksum: bytes = b"c" * 32, number: int = 7) -> Offer:
    return Offer(number, size, checksum, encode_peer(message))
