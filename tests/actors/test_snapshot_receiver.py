"""The receiving side: what it refuses, what it survives, and what it tells raft when."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import pytest

from actors.snapshot_receiver import IDLE_SECONDS_MAX, SYNC_BYTES, WAITING_MAX
from actors.snapshot_sender import LINGER_SECONDS
from actors.snapshot_transfer import Accept, Ack, Chunk, Done, Message, Offer, decode
from raft.messages import MsgSnap, MsgVote
from raft.state import ConfState, Snapshot, SnapshotMetadata
from storage.database import place, snapshot_name
from storage.files import Files, OsFiles
from storage.snapshot_purge import waiting
from tests.actors.snapshot_pair import FOLLOWER, LEADER, Link, forged, order
from tests.storage.snapshot_bench import CONF, TERM

FILES = OsFiles()
Start = Callable[..., Link]


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[Start]:
    links = []

    def start(puts: int = 2000, files: Files | None = None) -> Link:
        link = Link(tmp_path, files=files)
        links.append(link)
        if puts:
            link.database.put(puts, size=2000)
        return link

    yield start
    for link in links:
        link.close()


class Roomless(OsFiles):
    """A disk with next to no room."""

    def free_bytes(self, path: Path) -> int:
        return 1 << 20


def answers(link: Link) -> list[Message]:
    return [decode(payload) for sender, _, payload in link.seen if sender == FOLLOWER]


def partials(link: Link) -> list[str]:
    return [n for n in FILES.list(link.follower.directory) if n.startswith("snapshot")]


def announce(index: int = 50, term: int = TERM, to: int = FOLLOWER, from_: int = LEADER) -> MsgSnap:
    return MsgSnap(to, from_, term, Snapshot(b"", SnapshotMetadata(index, TERM, CONF)))


@pytest.mark.parametrize(
    "offer",
    [
        Offer(7, 10, b"c" * 32, b"garbage"),
        Offer(7, 10, b"c" * 32, b""),
        forged(announce(to=9)),
        forged(announce(from_=9)),
        forged(announce(index=0)),
        forged(announce(term=TERM - 1)),
        forged(announce(), size=0),
        forged(announce(), checksum=b"short"),
    ],
)
def test_an_offer_that_can_t_be_right_is_counted_and_begins_nothing(
    linked: Start, offer: Offer
) -> None:
    link = linked(puts=0)

    link.follower.receiver.received(LEADER, offer, link.now)

    assert link.follower.receiver.counts.rejected == 1
    assert link.follower.receiver.problem
    assert (len(link.follower.receiver), link.seen, partials(link)) == (0, [], [])


def test_an_offer_of_anything_but_a_snapshot_is_refused(linked: Start) -> None:
    from actors.peer_codec import encode_peer

    link = linked(puts=0)
    vote = encode_peer(MsgVote(FOLLOWER, LEADER, TERM, 1, 1))

    link.follower.receiver.received(LEADER, Offer(7, 10, b"c" * 32, vote), link.now)

    assert link.follower.receiver.counts.rejected == 1
    assert len(link.follower.receiver) == 0


def chunk(offset: int, data: bytes, number: int = 7) -> Chunk:
    return Chunk(number, offset, crc32(data), data)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (chunk(0, b"aaaa"), Ack(7, 4)),  # replayed
        (chunk(6, b"aaaa"), Accept(7, 4)),  # behind a gap
        (Chunk(7, 4, 1, b"aaaa"), Accept(7, 4)),  # damaged
        (chunk(4, b"a" * 97), Accept(7, 4)),  # longer than the file
        (chunk(4, b""), Accept(7, 4)),
        (chunk(-1, b"aaaa"), Ack(7, 4)),
        (chunk(4, b"aaaa", number=8), None),
    ],
)
def test_a_chunk_that_does_not_follow_changes_nothing(
    linked: Start, body: Chunk, answer: Message | None
) -> None:
    link = linked(puts=0)
    receiver = link.follower.receiver
    receiver.received(LEADER, forged(announce(), size=100), link.now)
    receiver.received(LEADER, chunk(0, b"good"), link.now)
    before = len(answers(link))

    receiver.received(LEADER, body, link.now)
    receiver.received(3, chunk(4, b"from another member"), link.now)

    assert answers(link)[before:] == ([answer] if answer else [])
    assert receiver.counts.rejected == 2
    (partial,) = partials(link)
    assert (link.follower.directory / partial).read_bytes() == b"good"


def test_a_file_that_is_not_what_was_announced_is_thrown_away_and_fetched_anew(
    linked: Start,
) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: link.follower.receiver.counts.received_bytes > 1 << 20)
    (partial,) = partials(link)
    with (link.follower.directory / partial).open("r+b") as file:
        file.seek(70_000)
        file.write(b"spoilt by the disk")

    link.run(lambda: bool(link.leader.ended))
    assert link.leader.ended[0] == (FOLLOWER, 2001, False, "the checksum differs")
    assert link.follower.told == []
    assert partials(link) == []
    link.leader.sender.start(order(), link.now)
    link.run(lambda: len(link.leader.ended) == 2)

    assert link.leader.ended[1][2]
    assert len(link.follower.told) == 1


class Full(OsFiles):
    """A disk with room for so many bytes."""

    room = 1 << 20
    error = errno.ENOSPC

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        if offset > self.room:
            raise OSError(self.error, "No space left on device")
        return super().pwrite(descriptor, parts, offset)


def test_a_full_disk_ends_the_transfer_and_gives_the_space_back(linked: Start) -> None:
    link = linked(files=Full())

    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))

    ((to, _, ok, reason),) = link.leader.ended
    assert (to, ok) == (FOLLOWER, False)
    assert "No space left" in reason
    assert partials(link) == []
    assert link.follower.receiver.counts.failed == 1


class NoSync(OsFiles):
    """A disk that fails to sync files."""

    def fdatasync(self, descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")


def test_nothing_is_told_of_a_file_that_could_not_be_synced(linked: Start) -> None:
    link = linked(files=NoSync())

    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))

    assert not link.leader.ended[0][2]
    assert link.follower.told == []
    assert not any(name.startswith("db.3") for name in FILES.list(link.follower.directory))


class Recording(OsFiles):
    """Remembers what was made durable when."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def fdatasync(self, descriptor: int) -> None:
        self.steps.append("content")
        super().fdatasync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self.steps.append("name")
        super().rename(old, new)

    def sync_directory(self, path: Path) -> None:
        self.steps.append("folder")
        super().sync_directory(path)


def test_raft_is_told_when_everything_is_durable_and_the_sender_after_that(linked: Start) -> None:
    files = Recording()
    link = linked(puts=10, files=files)
    deliver = link.follower.receiver._deliver

    def delivered(payload: bytes) -> bool:
        files.steps.append("told")
        return deliver(payload)

    link.follower.receiver._deliver = delivered
    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))

    assert files.steps == ["content", "name", "folder", "told"]


def test_a_big_file_is_synced_little_by_little(
    linked: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actors import snapshot_receiver

    files = Recording()
    link = linked(files=files)
    assert SYNC_BYTES > 1 << 20
    monkeypatch.setattr(snapshot_receiver, "SYNC_BYTES", 1 << 20)

    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))

    assert files.steps.count("content") == 6  # 6 MiB: five on the way, one for all


def test_a_raft_node_that_is_away_is_told_later_and_the_sender_waits(linked: Start) -> None:
    link = linked(puts=10)
    link.follower.raft_node_lives = False
    link.leader.sender.start(order(), link.now)
    link.run(lambda: snapshot_name(TERM, 11) in FILES.list(link.follower.directory))
    for _ in range(100):
        link.step()
    assert link.leader.ended == []

    link.follower.raft_node_lives = True
    link.run(lambda: bool(link.leader.ended))

    assert [m.snapshot.metadata.index for m in link.follower.told] == [11]
    assert link.leader.ended[0][2]


def test_a_file_that_is_complete_is_not_fetched_again(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))
    link.follower.restart()
    link.bytes_sent = 0

    link.leader.sender.start(order(), link.now)
    link.run(lambda: len(link.leader.ended) == 2)

    assert link.leader.ended[1] == (FOLLOWER, 2001, True, "")
    assert len(link.follower.told) == 2  # raft may have died before it wrote its record
    assert link.bytes_sent < 10_000


def test_a_replayed_transfer_of_what_is_applied_writes_nothing(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))
    replay = [payload for sender, _, payload in link.seen if sender == LEADER]
    link.follower.applied = 2001
    name = link.follower.directory / snapshot_name(TERM, 2001)
    name.unlink()  # as if purged since
    before = FILES.list(link.follower.directory)

    for payload in replay:
        link.follower.take(LEADER, payload, link.now)

    assert FILES.list(link.follower.directory) == before
    assert len(link.follower.receiver) == 0


def test_the_leader_of_a_newer_term_replaces_an_older_one(linked: Start) -> None:
    link = linked(puts=0)
    receiver = link.follower.receiver
    receiver.received(LEADER, forged(announce(60), checksum=b"a" * 32, number=1), link.now)

    newer = announce(50, term=TERM + 1, from_=3)
    receiver.received(3, forged(newer, checksum=b"b" * 32, number=2), link.now)
    older = forged(announce(70), checksum=b"d" * 32, number=3)
    receiver.received(LEADER, older, link.now)

    first, replaced, second, refused = answers(link)
    assert (first, second) == (Accept(1, 0), Accept(2, 0))
    assert isinstance(replaced, Done)
    assert (replaced.id, replaced.ok) == (1, False)
    assert isinstance(refused, Done)
    assert (refused.id, refused.ok) == (3, False)
    assert len(partials(link)) == 1
    assert "3-50" in partials(link)[0]


def test_no_more_is_taken_than_may_wait_for_the_applier(linked: Start) -> None:
    link = linked(puts=0)
    for index in range(100, 100 + WAITING_MAX):
        (link.follower.directory / snapshot_name(TERM, index)).write_bytes(b"complete")

    link.follower.receiver.received(LEADER, forged(announce(200)), link.now)

    (answer,) = answers(link)
    assert isinstance(answer, Done)
    assert not answer.ok
    assert partials(link) == []


def test_raft_is_told_anew_of_files_that_wait_without_its_knowing(linked: Start) -> None:
    """What a leader of an older term sent is not taken by raft, and a raft node may die untold."""
    link = linked()
    for times in range(1, WAITING_MAX + 1):
        link.leader.sender.start(order(index=link.database.index), link.now)
        link.run(lambda times=times: len(link.leader.ended) == times)  # type: ignore[misc]
        link.now += LINGER_SECONDS + 1.0  # the next needs a newer file
        link.step()
        link.database.put(20)
    link.follower.restart()
    link.follower.told.clear()

    link.leader.sender.start(order(index=link.database.index, term=TERM + 5), link.now)
    link.run(lambda: len(link.leader.ended) == WAITING_MAX + 1)

    assert not link.leader.ended[-1][2]
    (told,) = link.follower.told
    newest = max(place(name)[1] for name in waiting(link.follower.directory, 0, OsFiles()))
    assert (told.from_, told.term) == (LEADER, TERM + 5)
    assert told.snapshot.metadata == SnapshotMetadata(newest, TERM, CONF)
    link.follower.applied = newest
    link.leader.sender.start(order(index=link.database.index, term=TERM + 5), link.now)
    link.run(lambda: len(link.leader.ended) == WAITING_MAX + 2)
    assert link.leader.ended[-1][2]


def test_a_snapshot_for_which_there_is_no_room_is_refused_before_it_is_sent(
    linked: Start,
) -> None:
    link = linked(puts=10, files=Roomless())

    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))

    assert link.leader.ended[0][2:] == (False, "[Errno 28] No space left on device")
    assert partials(link) == []


def test_a_sender_that_goes_away_is_forgotten_but_not_its_bytes(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: link.follower.receiver.counts.received_bytes > 1 << 20)
    del link.members[LEADER]

    link.run(lambda: not len(link.follower.receiver), seconds=IDLE_SECONDS_MAX + 1)
    assert len(partials(link)) == 1
    link.members[LEADER] = link.leader
    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))

    assert link.leader.ended[0][2]
    accepted = [a.offset for a in answers(link) if isinstance(a, Accept)]
    assert max(accepted) > 1 << 20


def test_a_configuration_of_another_moment_is_refused(linked: Start) -> None:
    link = linked(puts=10)
    spoilt = ConfState(voters=(1, 2))

    def spoil(to: int, payload: bytes) -> list[bytes]:
        from actors.peer_codec import decode_peer
        from actors.snapshot_transfer import encode

        body = decode(payload)
        if isinstance(body, Offer):
            message = decode_peer(body.payload)
            assert isinstance(message, MsgSnap)
            metadata = message.snapshot.metadata
            lie = SnapshotMetadata(metadata.index, metadata.term, spoilt)
            lied = MsgSnap(message.to, message.from_, message.term, Snapshot(b"", lie))
            return [encode(forged(lied, body.size, body.checksum, body.id))]
        return [payload]

    link.spoil = spoil
    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(link.leader.ended))

    assert not link.leader.ended[0][2]
    assert link.follower.told == []
