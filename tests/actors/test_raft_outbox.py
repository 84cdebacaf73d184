"""What leaves at once, and what is held back for a moment."""

from __future__ import annotations

from math import inf

from actors.messages import PeerMessages
from actors.peer_codec import decode_peer
from actors.raft_outbox import (
    CONFIRM_SECONDS,
    HOLD_SECONDS,
    REPEAT_SECONDS,
    SPARE_BYTES_MAX,
    SPARE_SECONDS,
    Outbox,
)
from raft.messages import MsgApp, MsgAppResp, MsgHeartbeat, MsgProp, MsgTimeoutNow, PeerMessage
from raft.state import Entry

ENTRY = (Entry(1, 6, b"x"),)
BEAT_SECONDS = 0.1


class Wire:
    """Catches what is sent."""

    def __init__(self) -> None:
        self.sent: list[PeerMessage] = []
        self.open = True
        self.probing: set[int] = set()
        self.spare: set[int] = set()
        self.committed = self.confirmed = 0

    def send(self, order: PeerMessages, items: int) -> bool:
        """Take one order."""
        if self.open:
            self.sent += [decode_peer(payload) for payload in order.payloads]
        return self.open

    def outbox(self) -> Outbox:
        """Return an outbox that sends here."""
        return Outbox(self.send, self, BEAT_SECONDS)

    def follows(self, member: int) -> bool:
        """Tell if what a member is sent is no probe."""
        return member not in self.probing

    def is_spare(self, member: int) -> bool:
        """Tell if a quorum comes together without a member."""
        return member in self.spare

    def missed(self, member: int) -> None:
        """A spare was needed after all."""
        self.spare = {2, 3} - {member}


def commit(member: int, index: int) -> MsgApp:
    """Return news of a commit alone."""
    return MsgApp(member, 1, 1, 1, 5, (), index)


def test_what_follows_a_gap_is_counted_in_full() -> None:
    wire = Wire()
    wire.spare = {2}
    outbox = wire.outbox()
    outbox.add(MsgApp(2, 1, 1, 1, 5, ENTRY, 5))
    outbox.flush(10.0)
    long = Entry(1, 9, bytes(SPARE_BYTES_MAX + 1))
    outbox.add(MsgApp(2, 1, 1, 1, 8, (long,), 5))

    assert outbox.flush(10.0) == (set(), inf)

    assert wire.sent == [MsgApp(2, 1, 1, 1, 5, ENTRY, 5), MsgApp(2, 1, 1, 1, 8, (long,), 5)]


def test_what_a_member_needs_to_catch_up_stays_in_as_many_messages() -> None:
    wire = Wire()
    outbox = wire.outbox()
    half = bytes(SPARE_BYTES_MAX // 2)
    messages = [
        MsgApp(2, 1, 1, 1, index, (Entry(1, index + 1, half), Entry(1, index + 2, half)), 5)
        for index in (5, 7, 9)
    ]
    for message in messages:
        outbox.add(message)

    outbox.flush(10.0)

    assert wire.sent == messages


def test_a_commit_alone_is_held_and_then_sent() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.has_clients(2, 9.9)
    outbox.add(commit(2, 5))

    dropped, again = outbox.flush(10.0)
    assert (dropped, again, wire.sent) == (set(), 10.0 + HOLD_SECONDS, [])
    assert outbox.flush(10.0 + HOLD_SECONDS) == (set(), inf)
    assert wire.sent == [commit(2, 5)]


def test_entries_carry_the_commit_that_was_held() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.add(commit(2, 5))
    outbox.flush(10.0)
    outbox.add(MsgApp(2, 1, 1, 1, 5, ENTRY, 5))

    assert outbox.flush(10.0) == (set(), inf)
    assert wire.sent == [MsgApp(2, 1, 1, 1, 5, ENTRY, 5)]


def test_newer_news_replaces_older_without_waiting_longer() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.has_clients(2, 9.9)
    outbox.add(commit(2, 5))
    outbox.flush(10.0)
    outbox.add(commit(2, 6))

    _, again = outbox.flush(10.001)
    assert again == 10.0 + HOLD_SECONDS
    outbox.flush(again)
    assert wire.sent == [commit(2, 6)]


def test_who_has_forwarded_a_proposal_is_told_of_its_commit_at_once() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.forwarded(3, 5)
    outbox.add(commit(2, 5))
    outbox.add(commit(3, 5))

    outbox.flush(10.0)
    assert wire.sent == [commit(3, 5)]
    outbox.add(commit(3, 6))
    outbox.flush(10.0)
    assert wire.sent == [commit(3, 5)]


def test_a_probe_and_a_heartbeat_are_never_held() -> None:
    wire = Wire()
    wire.probing = {2}
    outbox = wire.outbox()
    outbox.add(commit(2, 5))
    outbox.add(MsgHeartbeat(3, 1, 1, 5))

    outbox.flush(10.0)
    assert wire.sent == [commit(2, 5), MsgHeartbeat(3, 1, 1, 5)]


def test_what_cannot_be_sent_is_told() -> None:
    wire = Wire()
    wire.open = False
    outbox = wire.outbox()
    outbox.add(MsgHeartbeat(2, 1, 1, 5))
    outbox.add(MsgHeartbeat(3, 1, 1, 5))

    assert outbox.flush(10.0) == ({2, 3}, inf)


def test_what_a_leader_held_of_its_log_goes_when_it_leads_no_more() -> None:
    """It may lead no more because that is committed which removes it: nobody else knows yet."""
    wire = Wire()
    outbox = wire.outbox()
    outbox.add(commit(2, 5))
    outbox.flush(10.0)
    held = list(wire.sent)
    outbox.forget()

    outbox.flush(10.0)
    assert held == []
    assert wire.sent == [commit(2, 5)]
    assert not outbox.holding


def entries(member: int, first: int, last: int, commit: int) -> MsgApp:
    """Return entries [first, last]."""
    indexes = range(first, last + 1)
    return MsgApp(
        member, 1, 1, 1, first - 1, tuple(Entry(1, index, b"x") for index in indexes), commit
    )


def test_a_spare_member_gets_entries_together_in_one_message() -> None:
    wire = Wire()
    wire.spare = {3}
    outbox = wire.outbox()
    for member in (2, 3):
        outbox.add(entries(member, 6, 6, 5))
    assert outbox.flush(10.0) == (set(), 10.0 + SPARE_SECONDS)
    assert wire.sent == [entries(2, 6, 6, 5)]
    wire.committed = 6
    for member in (2, 3):
        outbox.add(entries(member, 7, 9, 6))
    outbox.add(MsgApp(3, 1, 1, 1, 9, (), 9))
    outbox.flush(10.001)
    assert wire.sent[1:] == [entries(2, 7, 9, 6)]

    outbox.flush(10.0 + SPARE_SECONDS)

    assert wire.sent[2:] == [entries(3, 6, 9, 9)]
    assert wire.spare == {3}


def test_a_spare_member_that_is_needed_is_asked_first_from_then_on() -> None:
    wire = Wire()
    wire.spare = {3}
    wire.committed = 5
    outbox = wire.outbox()
    outbox.add(entries(3, 6, 6, 5))
    outbox.flush(10.0)

    outbox.flush(10.0 + SPARE_SECONDS)

    assert wire.sent == [entries(3, 6, 6, 5)]
    assert wire.spare == {2}


def test_a_spare_member_with_clients_gets_entries_at_once() -> None:
    wire = Wire()
    wire.spare = {3}
    outbox = wire.outbox()
    outbox.add(entries(3, 6, 6, 5))
    outbox.flush(10.0)

    outbox.has_clients(3, 10.001)
    outbox.flush(10.001)
    outbox.add(entries(3, 7, 7, 5))
    outbox.flush(10.002)

    assert wire.sent == [entries(3, 6, 6, 5), entries(3, 7, 7, 5)]


def test_entries_that_do_not_follow_what_is_held_come_behind_it() -> None:
    wire = Wire()
    wire.spare = {3}
    outbox = wire.outbox()
    outbox.add(entries(3, 6, 7, 5))
    outbox.flush(10.0)
    outbox.add(entries(3, 7, 7, 5))
    outbox.flush(10.001)
    outbox.flush(10.001 + SPARE_SECONDS)

    assert wire.sent == [entries(3, 6, 7, 5), entries(3, 7, 7, 5)]


def test_nothing_overtakes_entries_that_are_held() -> None:
    wire = Wire()
    wire.spare = {3}
    outbox = wire.outbox()
    outbox.add(entries(3, 6, 7, 5))
    outbox.flush(10.0)
    outbox.add(MsgTimeoutNow(3, 1, 1))
    outbox.flush(10.001)

    assert wire.sent == [entries(3, 6, 7, 5), MsgTimeoutNow(3, 1, 1)]


def beat(member: int, position: int) -> MsgHeartbeat:
    """Return a heartbeat that asks for reads up to a position."""
    return MsgHeartbeat(member, 1, 1, 5, position.to_bytes(8, "little"))


def test_reads_are_confirmed_without_the_spare_member() -> None:
    wire = Wire()
    wire.spare = {3}
    outbox = wire.outbox()
    outbox.add(MsgHeartbeat(3, 1, 1, 5))
    outbox.flush(10.0)
    wire.sent.clear()
    outbox.add(beat(2, 1))
    outbox.add(beat(3, 1))
    assert outbox.flush(10.0) == (set(), 10.0 + CONFIRM_SECONDS)
    wire.confirmed = 1

    assert outbox.flush(10.001) == (set(), inf)
    assert wire.sent == [beat(2, 1)]


def test_a_spare_member_is_asked_when_reads_are_not_confirmed_in_time() -> None:
    wire = Wire()
    wire.spare = {3}
    outbox = wire.outbox()
    outbox.add(MsgHeartbeat(3, 1, 1, 5))
    outbox.flush(10.0)
    wire.sent.clear()
    outbox.add(beat(3, 1))
    outbox.flush(10.0)
    outbox.add(beat(3, 2))
    outbox.flush(10.005)

    outbox.flush(10.0 + CONFIRM_SECONDS)

    assert wire.sent == [beat(3, 2)]
    assert wire.spare == {2}


def test_a_member_that_asks_for_reads_confirms_ours_when_it_asks_again() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.add(MsgHeartbeat(2, 1, 1, 5))
    outbox.flush(10.0)
    wire.sent.clear()
    outbox.asks(2, 10.0)

    outbox.add(beat(2, 1))
    assert outbox.flush(10.0) == (set(), 10.0 + CONFIRM_SECONDS)
    wire.confirmed = 1
    outbox.flush(10.0 + 0.001)
    assert (wire.sent, outbox.holding) == ([], False)

    outbox.add(beat(2, 2))
    outbox.flush(10.0 + 0.002)
    outbox.flush(10.0 + 0.002 + CONFIRM_SECONDS)
    assert wire.sent == [beat(2, 2)], "it did not ask again"

    outbox.add(beat(2, 3))
    outbox.flush(10.0 + 0.003 + CONFIRM_SECONDS)
    assert wire.sent == [beat(2, 2), beat(2, 3)], "and is not expected to any more"


def test_a_spare_member_hears_a_heartbeat_in_each_interval() -> None:
    wire = Wire()
    wire.spare = {3}
    outbox = wire.outbox()
    for number in range(1, 101):
        outbox.add(beat(3, number))
        outbox.flush(10.0 + number * BEAT_SECONDS / 10)
        wire.confirmed = number

    assert len(wire.sent) in range(9, 13)


def test_of_the_heartbeats_of_one_turn_the_newest_leaves_alone() -> None:
    wire = Wire()
    outbox = wire.outbox()
    for position in (1, 2, 3):
        for member in (2, 3):
            outbox.add(MsgHeartbeat(member, 1, 1, 5, position.to_bytes(8, "little")))

    outbox.flush(10.0)

    assert [(beat.to, beat.context[0]) for beat in wire.sent if type(beat) is MsgHeartbeat] == [
        (2, 3),
        (3, 3),
    ]


def answer(index: int, *, reject: bool = False) -> MsgAppResp:
    """Return an answer to the leader, member 1."""
    return MsgAppResp(1, 2, 1, index, reject)


def test_an_answer_that_says_nothing_new_waits_a_moment() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.add(answer(5))
    outbox.flush(100.0)
    outbox.add(answer(5))
    assert outbox.flush(100.001) == (set(), 100.001 + REPEAT_SECONDS)
    outbox.add(answer(5))
    assert outbox.flush(100.002) == (set(), 100.001 + REPEAT_SECONDS)
    assert outbox.holding
    assert wire.sent == [answer(5)]

    assert outbox.flush(100.001 + REPEAT_SECONDS) == (set(), inf)

    assert wire.sent == [answer(5)] * 2
    assert not outbox.holding


def test_news_take_the_place_of_an_answer_that_waits() -> None:
    wire = Wire()
    outbox = wire.outbox()
    for index in (5, 5, 6):
        outbox.add(answer(index))
        outbox.flush(100.0)

    assert outbox.flush(101.0) == (set(), inf)
    assert wire.sent == [answer(5), answer(6)]


def test_rejections_are_never_held() -> None:
    wire = Wire()
    outbox = wire.outbox()
    answers = [answer(5), answer(7, reject=True), answer(7, reject=True), answer(5)]
    for each in answers:
        outbox.add(each)
        outbox.flush(100.0)

    assert wire.sent == answers


def test_an_answer_that_could_not_be_sent_is_news_once_more() -> None:
    wire = Wire()
    outbox = wire.outbox()
    wire.open = False
    outbox.add(answer(5))
    assert outbox.flush(100.0) == ({1}, inf)
    wire.open = True
    outbox.add(answer(5))
    outbox.flush(100.0)

    assert wire.sent == [answer(5)]


def test_an_answer_that_waits_goes_along_with_what_leaves() -> None:
    wire = Wire()
    outbox = wire.outbox()
    forwarded = MsgProp(1, 2, 1, (Entry(1, 0, b"x"),))
    for message in (answer(5), answer(5), forwarded):
        outbox.add(message)
        outbox.flush(100.0)

    assert wire.sent == [answer(5), forwarded, answer(5)]
