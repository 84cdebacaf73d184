"""A snapshot on its way from one member to another, whatever the link does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors import snapshot_sender
from actors.snapshot_sender import (
    FILES_MAX,
    LINGER_SECONDS,
    TRANSFERS_MAX,
)
from actors.snapshot_transfer import (
    CHUNK_BYTES,
    UNHEARD_SECONDS_MAX,
    WINDOW_BYTES,
    Accept,
    Ack,
    Chunk,
    Done,
    Offer,
    TransferError,
    decode,
    encode,
)
from raft.state import ConfState
from storage.database import open_installed, snapshot_name
from storage.files import OsFiles
from tests.actors.snapshot_pair import (
    FOLLOWER,
    LEADER,
    Link,
    Lossy,
    Member,
    faithful,
    offers,
    order,
)
from tests.storage.snapshot_bench import CONF, TERM, Database

FILES = OsFiles()
Start = Callable[..., Link]


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[Start]:
    links = []

    def start(puts: int = 2000, **how: object) -> Link:
        link = Link(tmp_path, **how)  # type: ignore[arg-type]
        links.append(link)
        if puts:
            link.database.put(puts, size=2000)
        return link

    yield start
    for link in links:
        link.close()


def chunks(link: Link) -> list[Chunk]:
    return [body for _, _, p in link.seen if isinstance(body := decode(p), Chunk)]


def arrived(link: Link) -> bool:
    return bool(link.leader.ended)


def holds_snapshot(member: Member) -> bool:
    """Whether the file that raft was told of is there, and is what the leader had."""
    metadata = member.told[-1].snapshot.metadata
    open_installed(member.directory, metadata.term, metadata.index).close()
    return True


def test_a_follower_gets_the_file_and_raft_hears_what_it_holds(linked: Start) -> None:
    link = linked()

    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link))

    assert link.leader.ended == [(FOLLOWER, 2001, True, "")]
    metadata = link.follower.told[0].snapshot.metadata
    assert (metadata.index, metadata.term, metadata.conf_state) == (2001, TERM, CONF)
    assert holds_snapshot(link.follower)
    assert [n for n in FILES.list(link.follower.directory) if n.startswith("snapshot")] == []


@pytest.mark.parametrize("seed", range(12))
def test_a_link_that_loses_doubles_spoils_and_reorders_does_no_harm(
    linked: Start, seed: int
) -> None:
    link = linked(spoil=Lossy(seed))

    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link), seconds=300)

    assert link.leader.ended == [(FOLLOWER, 2001, True, "")]
    assert holds_snapshot(link.follower)
    assert link.follower.receiver.counts.rejected + link.follower.rejected > 0


def test_the_follower_goes_on_where_it_was_after_its_restart(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: link.follower.receiver.counts.received_bytes > 1 << 20)

    link.follower.restart()
    link.run(lambda: arrived(link))

    assert link.leader.ended[0][2]
    size = offers(link)[0].size
    sent = sum(len(chunk.data) for chunk in chunks(link))
    assert sent <= size + 2 * WINDOW_BYTES
    assert holds_snapshot(link.follower)


def test_the_leader_goes_on_with_the_same_file_after_its_restart(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: link.follower.receiver.counts.received_bytes > 1 << 20)
    link.database.put(100)

    link.leader.restart()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link))

    assert link.leader.ended == [(FOLLOWER, 2001, True, "")]
    first, *_, last = offers(link)
    assert (first.checksum, first.id == last.id) == (last.checksum, False)
    assert sum(len(chunk.data) for chunk in chunks(link)) <= last.size + 2 * WINDOW_BYTES


def test_a_file_of_an_earlier_process_that_is_not_whole_is_made_anew(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: link.follower.receiver.counts.received_bytes > 1 << 20)
    link.leader.sender.close()
    (left,) = [n for n in FILES.list(link.leader.directory) if n.startswith("snapshot.out")]
    (link.leader.directory / left).write_bytes(b"torn")
    link.database.put(100)

    link.leader.start()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link))

    assert link.leader.ended == [(FOLLOWER, 2101, True, "")]
    assert holds_snapshot(link.follower)


def test_a_new_file_is_made_when_the_old_one_is_too_old(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link))
    link.database.put(10)

    link.leader.sender.start(order(index=2005), link.now)
    link.run(lambda: len(link.leader.ended) == 2)

    assert link.leader.ended[1] == (FOLLOWER, 2011, True, "")
    assert link.leader.sender.counts.made == 2


def test_one_file_serves_all_that_need_it_at_the_moment(linked: Start, tmp_path: Path) -> None:
    link = linked()
    third = Member(3, tmp_path / "third" / "db", link, FILES)
    link.members[3] = third

    link.leader.sender.start(order(to=2), link.now)
    link.leader.sender.start(order(to=3), link.now)
    link.run(lambda: len(link.leader.ended) == 2)

    assert sorted(link.leader.ended) == [(2, 2001, True, ""), (3, 2001, True, "")]
    assert link.leader.sender.counts.made == 1
    assert holds_snapshot(third)


def test_a_member_outside_of_the_files_configuration_gets_nothing(linked: Start) -> None:
    link = linked(puts=10)

    link.leader.sender.start(order(to=9), link.now)
    link.run(lambda: arrived(link))

    to, _, ok, reason = link.leader.ended[0]
    assert (to, ok) == (9, False)
    assert "configuration" in reason
    assert offers(link) == []


def test_a_database_behind_the_log_sends_nothing(linked: Start) -> None:
    link = linked(puts=10)

    link.leader.sender.start(order(index=500), link.now)
    link.run(lambda: arrived(link))

    assert link.leader.ended == [(FOLLOWER, 11, False, "the database is behind the log")]


def test_so_many_transfers_and_no_more(tmp_path: Path) -> None:
    everybody = ConfState(voters=tuple(range(1, 30)))
    database = Database(tmp_path / "leader" / "db", everybody)
    sender = Member(LEADER, tmp_path / "leader" / "db", _Nobody(), FILES)

    for to in range(2, 2 + TRANSFERS_MAX + 3):
        sender.sender.start(order(to=to), 100.0)

    refused = [to for to, _, ok, _ in sender.ended if not ok]
    assert refused == [2 + TRANSFERS_MAX + n for n in range(3)]
    assert len(sender.sender) == TRANSFERS_MAX
    sender.sender.close()
    database.close()


class _Nobody(Link):
    """A link into the void."""

    def __init__(self) -> None:
        self.seen = []

    def send(self, sender: int, to: int, payload: bytes) -> bool:
        self.seen.append((sender, to, payload))
        return True


def test_a_member_that_never_answers_is_given_up(linked: Start) -> None:
    link = linked(puts=10, spoil=lambda to, payload: [])

    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link), seconds=UNHEARD_SECONDS_MAX + 5)

    assert link.leader.ended == [(FOLLOWER, 11, False, "no answer")]
    assert 5 < len(offers(link)) < 30


def test_a_member_that_answers_and_gets_no_further_is_given_up_too(
    linked: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_sender, "STALLED_SECONDS_MAX", 2 * UNHEARD_SECONDS_MAX)
    link = linked(spoil=lambda to, p: [] if isinstance(decode(p), Chunk) else [p])

    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link), seconds=2 * UNHEARD_SECONDS_MAX + 10)

    assert link.leader.ended == [(FOLLOWER, 2001, False, "no progress")]
    assert len(chunks(link)) < 300


def test_no_more_than_a_window_is_on_its_way(linked: Start) -> None:
    link = linked(spoil=lambda to, p: [] if isinstance(decode(p), Ack) else [p])

    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(chunks(link)))
    for _ in range(20):
        link.step()

    assert sum(len(chunk.data) for chunk in chunks(link)) == WINDOW_BYTES


def test_the_rate_is_kept(linked: Start) -> None:
    link = linked()
    link.leader.rate = 1 << 20
    link.leader.restart()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(chunks(link)))
    began = link.now

    link.run(lambda: arrived(link))

    size = offers(link)[0].size
    assert size / (1 << 20) - 0.5 <= link.now - began <= size / (1 << 20) + 1.0


def test_making_a_file_leaves_as_much_time_to_others(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)

    first = link.leader.sender.tick(link.now)
    again = link.leader.sender.tick(link.now)

    assert first is not None
    assert first > link.now
    assert again == first  # nothing was done before its time


def test_a_file_nobody_needs_any_more_goes_after_a_while(linked: Start) -> None:
    link = linked(puts=10)
    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link))
    names = FILES.list(link.leader.directory)
    assert any(name.startswith("snapshot.out") for name in names)

    link.now += LINGER_SECONDS
    link.step()

    assert not any(n.startswith("snapshot") for n in FILES.list(link.leader.directory))
    assert link.leader.sender.tick(link.now) is None


def test_two_files_at_most_exist_however_many_are_asked_for(linked: Start, tmp_path: Path) -> None:
    link = linked(puts=10, spoil=lambda to, p: [p] if to == LEADER else [])
    for to in (2, 3):
        link.leader.sender.start(order(to=to, index=link.database.index), link.now)
        link.run(lambda count=to - 1: link.leader.sender.counts.made == count)  # type: ignore[misc]
        link.database.put(1)

    link.leader.sender.start(order(to=1, index=link.database.index), link.now)
    for _ in range(50):
        link.step()

    assert link.leader.sender.counts.made == FILES_MAX
    assert len([n for n in FILES.list(link.leader.directory) if "snapshot" in n]) == FILES_MAX


def test_an_order_for_the_same_member_again_begins_again_and_ends_once(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: link.follower.receiver.counts.received_bytes > 1 << 20)

    link.leader.sender.start(order(term=TERM + 1), link.now)
    link.run(lambda: arrived(link))

    assert link.leader.ended == [(FOLLOWER, 2001, True, "")]
    assert [message.term for message in link.follower.told] == [TERM + 1]
    assert sum(len(c.data) for c in chunks(link)) <= offers(link)[0].size + 2 * WINDOW_BYTES


@pytest.mark.parametrize(
    "body",
    [
        Accept(1, -1),
        Ack(1, 1 << 60),
        Done(2, True, ""),
        Offer(1, 5, b"c" * 32, b""),
    ],
)
def test_answers_that_make_no_sense_change_nothing(linked: Start, body: object) -> None:
    link = linked(puts=10, spoil=lambda to, p: [])
    link.leader.sender.start(order(), link.now)
    link.run(lambda: bool(offers(link)))
    number = offers(link)[0].id
    if isinstance(body, Accept | Ack):
        body = type(body)(number, body.offset)

    link.leader.sender.received(FOLLOWER, body, link.now)
    link.leader.sender.received(3, Done(number, True, ""), link.now)

    assert link.leader.ended == []
    assert link.leader.sender.counts.ignored == 2


def test_late_acks_after_a_repetition_still_count(linked: Start) -> None:
    link = linked(spoil=lambda to, p: [])
    sender = link.leader.sender
    sender.start(order(), link.now)
    link.run(lambda: bool(offers(link)))
    number = offers(link)[0].id
    sender.received(FOLLOWER, Accept(number, 0), link.now)
    sent = len(chunks(link))
    assert sent > 3

    sender.received(FOLLOWER, Accept(number, 0), link.now)  # said again: go back
    sender.received(FOLLOWER, Ack(number, 3 * CHUNK_BYTES), link.now)

    assert sender.counts.ignored == 0
    assert sender._transfers[FOLLOWER].acked == 3 * CHUNK_BYTES
    assert sender._transfers[FOLLOWER].sent >= 3 * CHUNK_BYTES


def test_repetitions_end_when_the_link_is_good_again(linked: Start) -> None:
    link = linked()
    link.leader.sender.start(order(), link.now)
    link.run(lambda: len(chunks(link)) > 8)
    link.spoil = lambda to, p: [p, p]
    for _ in range(2):
        link.step()
    link.spoil = faithful
    link.seen.clear()

    link.run(lambda: arrived(link))

    offsets = [chunk.offset for chunk in chunks(link)]
    assert len(offsets) == len(set(offsets))


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"\xc1", b"garbage", b"\x93\x02\x01", b"\x91\x63"),
        *(
            b"\x80",
            b"\x90",
            b"\xa0",
            b"\xc4\x00",
            b"\xc0",
            b"\x81\x00\x01",
            b"\x91\x90",
            b"\x91\x80",
        ),
    ],
)
def test_what_is_no_message_of_a_transfer_is_refused(payload: bytes) -> None:
    with pytest.raises(TransferError):
        decode(payload)


def test_fields_of_other_types_are_refused() -> None:
    for body in (
        Offer("7", 1, b"", b""),  # type: ignore[arg-type]
        Chunk(1, 0, 0, "text"),  # type: ignore[arg-type]
        Accept(1, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(TransferError):
            decode(encode(body))


def test_final_names_are_of_what_raft_was_told(linked: Start) -> None:
    link = linked(puts=10)
    link.leader.sender.start(order(), link.now)
    link.run(lambda: arrived(link))

    assert snapshot_name(TERM, 11) in FILES.list(link.follower.directory)
