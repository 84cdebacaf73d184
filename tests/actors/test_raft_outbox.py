"""What leaves at once, and what is held back for a moment."""

from __future__ import annotations

from actors.messages import PeerMessages
from actors.peer_codec import decode_peer
from actors.raft_outbox import HOLD_SECONDS, Outbox
from raft.messages import MsgApp, MsgHeartbeat, PeerMessage
from raft.state import Entry

ENTRY = (Entry(1, 6, b"x"),)


class Wire:
    """Catches what is sent."""

    def __init__(self) -> None:
        self.sent: list[PeerMessage] = []
        self.open = True
        self.probing: set[int] = set()

    def send(self, order: PeerMessages, items: int) -> bool:
        """Take one order."""
        if self.open:
            self.sent += [decode_peer(payload) for payload in order.payloads]
        return self.open

    def outbox(self) -> Outbox:
        """Return an outbox that sends here."""
        return Outbox(self.send, lambda member: member not in self.probing)


def commit(member: int, index: int) -> MsgApp:
    """Return news of a commit alone."""
    return MsgApp(member, 1, 1, 1, 5, (), index)


def test_a_commit_alone_is_held_and_then_sent() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.add(commit(2, 5))

    dropped, again = outbox.flush(10.0)
    assert (dropped, again, wire.sent) == (set(), 10.0 + HOLD_SECONDS, [])
    assert outbox.flush(10.0 + HOLD_SECONDS) == (set(), None)
    assert wire.sent == [commit(2, 5)]


def test_entries_carry_the_commit_that_was_held() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.add(commit(2, 5))
    outbox.flush(10.0)
    outbox.add(MsgApp(2, 1, 1, 1, 5, ENTRY, 5))

    assert outbox.flush(10.0) == (set(), None)
    assert wire.sent == [MsgApp(2, 1, 1, 1, 5, ENTRY, 5)]


def test_newer_news_replaces_older_without_waiting_longer() -> None:
    wire = Wire()
    outbox = wire.outbox()
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

    assert outbox.flush(10.0) == ({2, 3}, None)


def test_a_deposed_leader_sends_no_old_news() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.add(commit(2, 5))
    outbox.flush(10.0)
    outbox.forget()

    outbox.flush(11.0)
    assert wire.sent == []
