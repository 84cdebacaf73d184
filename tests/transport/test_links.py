"""Streams between two actors, driven by hand over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from actors.messages import AppliedTo, Prune
from actors.wire import codec
from transport.counters import Board, Cell, Edge
from transport.links import HELLO_NEW_STREAM_AFTER, Links, Welcome


class Troupe:
    """Two neighbours, `applier` and `compactor`, whose time is a number."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.board = Board(run_dir / "board", create=["root", "applier", "compactor"])
        self.now = 0.0
        self.opened: list[tuple[str, str, int]] = []
        self.open_links: list[Links] = []

    def start(self, name: str, incarnation: int, have: int = 0) -> Links:
        self.board.set(name, Cell.INCARNATION, incarnation)
        other = "compactor" if name == "applier" else "applier"

        def welcome(receiver: str, peer_has: int) -> list[int]:
            self.opened.append((name, receiver, peer_has))
            return [peer_has]

        links = Links(
            board=self.board,
            name=name,
            incarnation=incarnation,
            run_dir=self.run_dir,
            neighbours=[other],
            codec=codec,
            have=lambda _: have,
            welcome=welcome,
            clock=lambda: self.now,
        )
        self.open_links.append(links)
        links.start()
        return links


def receive(links: Links, wait_ms: int = 500) -> list[Any]:
    """Return the messages that arrive until nothing has come for a moment."""
    got = []
    while links.socket.poll(wait_ms):
        accepted = links.accept(links.socket.recv())
        wait_ms = 20
        if accepted is not None:
            links.handled(accepted[0])
            got.append(accepted[1])
    return got


def meet(troupe: Troupe, one: Links, other: Links) -> None:
    troupe.now += 1.0
    one.tick(troupe.now)
    other.tick(troupe.now)
    for _ in range(3):
        receive(one, 100)
        receive(other, 100)


@pytest.fixture
def troupe(tmp_path: Path) -> Iterator[Troupe]:
    troupe = Troupe(tmp_path)
    yield troupe
    for links in troupe.open_links:
        links.close()


def test_a_sender_says_nothing_before_the_receiver_has_said_hello(troupe: Troupe) -> None:
    applier = troupe.start("applier", 1)

    assert not applier.is_open("compactor")
    assert not applier.send("compactor", Prune(1, 0))

    edge = troupe.board.edge("applier", "compactor")
    assert troupe.board.words[edge + Edge.DROPPED] == 1


def test_hello_opens_a_stream_whose_first_message_is_welcome(troupe: Troupe) -> None:
    applier = troupe.start("applier", 1)
    compactor = troupe.start("compactor", 1, have=42)

    receive(applier)
    welcome = receive(compactor)

    assert welcome == [Welcome("applier", 1, [42])]
    assert ("applier", "compactor", 42) in troupe.opened


def test_messages_arrive_in_order_and_depth_is_what_is_not_handled(troupe: Troupe) -> None:
    applier = troupe.start("applier", 1)
    compactor = troupe.start("compactor", 1)
    meet(troupe, applier, compactor)

    for rows in range(5):
        applier.send("compactor", Prune(rows, 0))
    depth = troupe.board.depth("compactor")
    got = receive(compactor)

    assert depth == 5
    assert got == [Prune(rows, 0) for rows in range(5)]
    assert troupe.board.depth("compactor") == 0


def test_a_message_for_a_dead_receiver_never_reaches_its_successor(troupe: Troupe) -> None:
    applier = troupe.start("applier", 1)
    dead = troupe.start("compactor", 1)
    meet(troupe, applier, dead)
    dead.close()
    for rows in range(3):
        applier.send("compactor", Prune(rows, 0))

    successor = troupe.start("compactor", 2)
    meet(troupe, applier, successor)
    applier.send("compactor", Prune(99, 0))

    assert receive(successor) == [Prune(99, 0)]


def test_what_a_dead_receiver_had_before_it_is_lost_and_no_depth(troupe: Troupe) -> None:
    applier = troupe.start("applier", 1)
    dead = troupe.start("compactor", 1)
    meet(troupe, applier, dead)
    for rows in range(7):
        applier.send("compactor", Prune(rows, 0))
    dead.handled("applier")
    dead.handled("applier")
    dead.close()
    before = troupe.board.depth("compactor")

    successor = troupe.start("compactor", 2)
    between = troupe.board.depth("compactor"), troupe.board.lost("applier", "compactor")
    applier.send("compactor", Prune(7, 0))  # into the dead stream: its sender has not heard yet
    meet(troupe, applier, successor)
    applier.send("compactor", Prune(99, 0))

    assert before == 5
    assert between == (0, 5)
    assert troupe.board.lost("applier", "compactor") == 6
    assert troupe.board.depth("compactor") == 1
    assert receive(successor) == [Prune(99, 0)]
    assert troupe.board.depth("compactor") == 0


def test_what_was_accepted_before_a_stream_ended_is_no_part_of_the_next(troupe: Troupe) -> None:
    applier = troupe.start("applier", 1)
    compactor = troupe.start("compactor", 1)
    meet(troupe, applier, compactor)
    for rows in range(3):
        applier.send("compactor", Prune(rows, 0))
    accepted = 0
    while accepted < 3 and compactor.socket.poll(500):
        accepted += compactor.accept(compactor.socket.recv()) is not None
    compactor.reopen("applier")
    meet(troupe, applier, compactor)

    for rows in range(4):
        applier.send("compactor", Prune(rows, 0))
    for _ in range(accepted):
        compactor.handled("applier")

    assert accepted == 3
    assert troupe.board.depth("compactor") == 4
    assert troupe.board.lost("applier", "compactor") == 0


def test_what_a_dead_sender_sent_and_was_not_taken_is_lost(troupe: Troupe) -> None:
    first = troupe.start("applier", 1)
    compactor = troupe.start("compactor", 1)
    meet(troupe, first, compactor)
    first.close()
    edge = troupe.board.edge("applier", "compactor")
    troupe.board.words[edge + Edge.SENT] += 4  # as if four had been in its pipe when it was killed

    second = troupe.start("applier", 2)
    meet(troupe, second, compactor)

    assert troupe.board.depth("compactor") == 0
    assert troupe.board.lost("applier", "compactor") == 4


def test_a_gap_is_never_passed_over(troupe: Troupe, monkeypatch: pytest.MonkeyPatch) -> None:
    applier = troupe.start("applier", 1)
    compactor = troupe.start("compactor", 1)
    meet(troupe, applier, compactor)
    applier._outgoing["compactor"].sequence += 1  # as if one message had been lost

    applier.send("compactor", Prune(1, 0))
    applier.send("compactor", Prune(2, 0))
    before = receive(compactor)
    receive(applier)
    after = receive(compactor)
    applier.send("compactor", Prune(3, 0))

    assert before == []
    assert after == [Welcome("applier", 1, [0])]
    assert receive(compactor) == [Prune(3, 0)]
    edge = troupe.board.edge("applier", "compactor")
    assert troupe.board.words[edge + Edge.GAPS] == 1
    assert troupe.board.lost("applier", "compactor") == 3


def test_a_restarted_sender_is_asked_for_a_new_stream(troupe: Troupe) -> None:
    first = troupe.start("applier", 1)
    compactor = troupe.start("compactor", 1)
    meet(troupe, first, compactor)
    first.close()

    second = troupe.start("applier", 2)
    meet(troupe, second, compactor)
    second.send("compactor", Prune(7, 0))

    assert receive(compactor) == [Prune(7, 0)]


def test_an_unanswered_hello_is_repeated_and_in_the_end_under_a_new_stream(troupe: Troupe) -> None:
    compactor = troupe.start("compactor", 1)
    first = compactor._incoming["applier"].stream

    for _ in range(HELLO_NEW_STREAM_AFTER + 1):
        troupe.now += 1.0
        compactor.tick(troupe.now)

    assert compactor._incoming["applier"].stream > first
    assert compactor.next_hello() is not None


def test_a_repeated_hello_opens_no_second_stream_however_often_the_sender_died(
    troupe: Troupe,
) -> None:
    compactor = troupe.start("compactor", 1)
    for incarnation in range(1, HELLO_NEW_STREAM_AFTER + 2):
        applier = troupe.start("applier", incarnation)
        receive(compactor, 100)
        troupe.opened.clear()
        for _ in range(2):  # nothing was answered within HELLO_SECONDS_MIN, nor a while after
            troupe.now += 0.01
            compactor.tick(troupe.now)

        receive(applier, 100)
        applier.send("compactor", Prune(1, 0))

        assert troupe.opened == [("applier", "compactor", 0)]
        assert Prune(1, 0) in receive(compactor, 100)  # what a stream before it had would be lost


def test_a_full_edge_drops_and_counts_and_never_waits(troupe: Troupe) -> None:
    applier = troupe.start("applier", 1)
    compactor = troupe.start("compactor", 1)
    meet(troupe, applier, compactor)
    out = applier._outgoing["compactor"].socket
    assert out is not None
    compactor.socket.close(linger=0)
    message = AppliedTo(1)

    refused = next(n for n in range(200_000) if not applier.send("compactor", message))

    assert refused >= 1000
    edge = troupe.board.edge("applier", "compactor")
    assert troupe.board.words[edge + Edge.DROPPED] >= 1
    assert out.getsockopt(zmq.LINGER) == 0
