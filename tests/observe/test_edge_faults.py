"""Faults of edges: what they do to frames, and that streams heal all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.messages import CommittedTo
from actors.wire import WIRE
from tests.observe.desk import Paper, Player, introduce
from transport.edge_faults import EdgeFaults, Rule, Verb

TAG = next(tag for tag, cls in WIRE.items() if cls is CommittedTo)


class Line:
    """A wire that keeps what was sent; its time is a number."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[bytes] = []
        self.faults = EdgeFaults(lambda: self.now, lambda: 0.5)

    def rule(self, verb: Verb, receiver: str = "", **fields: float) -> None:
        tag = int(fields.pop("tag", 0))
        self.faults.rules = (Rule(verb, receiver, tag, fields.pop("until", 10.0), **fields),)

    def send(self, *frames: bytes, receiver: str = "applier", stream: int = 1) -> None:
        for frame in frames:
            self.faults.send(receiver, TAG, stream, frame, self.sent.append)


@pytest.fixture
def line() -> Line:
    return Line()


def test_a_dropped_frame_never_arrives(line: Line) -> None:
    line.rule("drop")
    line.send(b"a")
    line.now = 10.0
    line.send(b"b")

    assert line.sent == [b"b"]
    assert line.faults.idle


def test_a_duplicate_arrives_twice(line: Line) -> None:
    line.rule("duplicate")
    line.send(b"a")

    assert line.sent == [b"a", b"a"]


def test_a_delay_keeps_the_order_of_all_that_follows(line: Line) -> None:
    line.rule("delay", seconds=0.2, until=0.1)
    line.send(b"a")
    line.now = 0.15
    line.send(b"b")
    assert (line.sent, line.faults.next_due, line.faults.idle) == ([], 0.2, False)

    line.now = 0.2
    line.faults.release(line.now, {"applier": 1})

    assert line.sent == [b"a", b"b"]
    assert line.faults.idle


def test_without_rules_what_was_held_goes_at_once(line: Line) -> None:
    line.rule("delay", seconds=60.0)
    line.send(b"a", b"b")
    line.faults.release(line.now, {"applier": 1})
    assert line.sent == []

    line.faults.rules = ()  # healed
    line.faults.release(line.now, {"applier": 1})

    assert line.sent == [b"a", b"b"]
    assert line.faults.idle


def test_a_frame_of_a_stream_that_is_over_is_forgotten(line: Line) -> None:
    line.rule("delay", seconds=0.2, until=0.1)
    line.send(b"a")
    line.now = 0.3
    line.send(b"b", stream=2)

    assert line.sent == [b"b"]


def test_reordering_swaps_neighbours(line: Line) -> None:
    line.rule("reorder")
    line.send(b"a", b"b", b"c", b"d")

    assert line.sent == [b"b", b"a", b"d", b"c"]


def test_rules_hit_only_what_they_name(line: Line) -> None:
    line.rule("drop", "applier", tag=TAG + 1)
    line.send(b"another type")
    line.rule("drop", "lessor")
    line.send(b"another receiver")
    line.rule("drop", ratio=0.4)
    line.send(b"spared by chance")
    line.rule("drop", ratio=0.6)
    line.send(b"not spared")

    assert len(line.sent) == 3
    assert line.faults.hit == 1


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Player, Player]]:
    paper = Paper(tmp_path)
    raft_node = paper.player("raft-node", "applier")
    applier = paper.player("applier", "raft-node")
    introduce(raft_node, applier)
    yield raft_node, applier
    paper.close()


@pytest.mark.parametrize("verb", ["drop", "duplicate", "reorder"])
def test_a_stream_is_opened_anew_after_it_was_broken(
    pair: tuple[Player, Player], verb: Verb
) -> None:
    raft_node, applier = pair
    faults = EdgeFaults(lambda: 0.0, lambda: 0.0)
    faults.rules = (Rule(verb, "applier", TAG, 1.0),)
    raft_node.links.faults = faults
    stream = applier.board.words[applier.board.edge("raft-node", "applier") + 8]
    raft_node.links.send("applier", CommittedTo(1))
    raft_node.links.send("applier", CommittedTo(2))
    faults.rules = ()
    raft_node.links.send("applier", CommittedTo(3))

    introduce(applier, raft_node)
    raft_node.links.send("applier", CommittedTo(4))

    assert applier.handle() == CommittedTo(4)
    assert applier.board.words[applier.board.edge("raft-node", "applier") + 8] > stream


def test_what_was_delayed_is_handled_in_order(pair: tuple[Player, Player]) -> None:
    raft_node, applier = pair
    faults = EdgeFaults(lambda: 0.0, lambda: 0.0)
    faults.rules = (Rule("delay", "", 0, 1.0, seconds=5.0),)
    raft_node.links.faults = faults
    for index in range(3):
        raft_node.links.send("applier", CommittedTo(index))
    assert not applier.links.socket.poll(20)
    assert raft_node.links.next_hello() == 5.0

    faults.rules = ()
    raft_node.links.tick(5.0)

    assert [applier.handle().index for _ in range(3)] == [0, 1, 2]
    assert raft_node.links.faults is None
