"""The flight recorder and the histograms: what they hold, and that anyone can read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.messages import CommittedTo, Propose
from actors.observing import FLUSH_TAG, NOTED_NS, TICK_TAG
from control.recorder import duration, recorder
from tests.observe.desk import Paper, Player, introduce
from transport.counters import RECORDS, Board
from transport.latency import BUCKETS, Durations, Latency, quantile, read
from transport.recorder import Kind, Recorder, records


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[Paper]:
    made = Paper(tmp_path)
    yield made
    made.close()


@pytest.fixture
def pair(paper: Paper) -> tuple[Player, Player]:
    """A gateway and a raft node that know each other."""
    gateway = paper.player("gateway-0", "raft-node")
    raft_node = paper.player("raft-node", "gateway-0")
    introduce(gateway, raft_node)
    return gateway, raft_node


def test_a_message_is_recorded_at_both_ends(paper: Paper, pair: tuple[Player, Player]) -> None:
    gateway, raft_node = pair

    gateway.links.send("raft-node", Propose(7, 41, 3, b"secret"), 3)
    raft_node.handle()

    sent = records(paper.board, "gateway-0")[-1]
    received = records(paper.board, "raft-node")[-1]
    assert (sent.kind, received.kind) == (Kind.OUT, Kind.IN)
    assert (sent.correlation, received.correlation) == (41, 41)
    assert (sent.sequence, sent.items, sent.size) == (
        received.sequence,
        received.items,
        received.size,
    )
    assert sent.items == 3
    assert sent.size > len(b"secret")
    assert received.wait_ns == 1000
    assert received.work_ns > 0
    assert received.time_ns == sent.time_ns + 1000


def test_a_handler_that_never_ends_leaves_an_unfinished_record(
    paper: Paper, pair: tuple[Player, Player]
) -> None:
    gateway, raft_node = pair
    gateway.links.send("raft-node", Propose(7, 1, 1, b""))

    raft_node.begin()

    last = recorder(paper.view(), "raft-node")[-1]
    assert (last["type"], last["unfinished"], last["work_ns"]) == ("Propose", True, None)


def test_the_recorder_holds_no_payload(paper: Paper, pair: tuple[Player, Player]) -> None:
    gateway, raft_node = pair

    gateway.links.send("raft-node", Propose(7, 1, 1, b"pa55word"))
    raft_node.handle()

    assert b"pa55word" not in (paper.run_dir / "board").read_bytes()


def test_the_oldest_records_make_room(paper: Paper) -> None:
    ring = Recorder(paper.board, "applier", 1)

    for sequence in range(RECORDS + 10):
        ring.note(Kind.IN, 6, 2, sequence, 1, 1, 0, sequence)

    found = records(paper.board, "applier")
    assert [record.sequence for record in found] == list(range(10, RECORDS + 10))


def test_a_new_incarnation_goes_on_where_the_dead_one_ended(paper: Paper) -> None:
    Recorder(paper.board, "applier", 1).note(Kind.IN, 6, 2, 5, 1, 1, 0, 10)

    Recorder(Board(paper.run_dir / "board"), "applier", 2).note(Kind.IN, 6, 2, 0, 1, 1, 0, 20)

    found = records(paper.board, "applier")
    assert [(record.number, record.incarnation) for record in found] == [(1, 1), (2, 2)]


def test_recorders_and_histograms_of_actors_do_not_overlap(paper: Paper) -> None:
    for name in paper.board.names:
        first = paper.board.latency(name)
        for word in range(first, first + 196):
            paper.board.words[word] = 1
        ring = Recorder(paper.board, name, 1)
        for _ in range(RECORDS):
            ring.note(Kind.OUT, 1, 1, 1, 1, 1, 1, 1)

    for name in paper.board.names:
        assert read(paper.board, name, Latency.FLUSH).counts == (1,) * BUCKETS
        assert len(records(paper.board, name)) == RECORDS
        assert paper.board.depth(name) == 0


def test_waiting_and_working_are_counted_per_message(
    paper: Paper, pair: tuple[Player, Player]
) -> None:
    gateway, raft_node = pair
    for number in range(10):
        gateway.links.send("raft-node", Propose(7, number, 1, b""))
        raft_node.handle()

    sample = paper.view().sample("raft-node")

    assert sample.wait.count == sample.work.count == 10
    assert sample.wait.sum_ns == 10 * 1000
    assert sample.wait.counts[(1000).bit_length()] == 10
    assert sample.busy_ns == sample.work.sum_ns > 0


def test_a_flush_is_recorded_when_it_ends_a_batch_or_takes_long(
    paper: Paper, pair: tuple[Player, Player]
) -> None:
    gateway, raft_node = pair
    now = time.monotonic_ns()
    raft_node.observer.ends(0, FLUSH_TAG, time.monotonic_ns())
    before = len(records(paper.board, "raft-node"))
    gateway.links.send("raft-node", Propose(7, 1, 1, b""))
    raft_node.handle()

    raft_node.observer.ends(0, FLUSH_TAG, now)
    raft_node.observer.ends(0, TICK_TAG, now - NOTED_NS)

    kinds = [(record.kind, record.tag) for record in records(paper.board, "raft-node")[before:]]
    assert kinds == [(Kind.IN, 3), (Kind.LOCAL, FLUSH_TAG), (Kind.LOCAL, TICK_TAG)]
    assert read(paper.board, "raft-node", Latency.FLUSH).count == 1


def test_nothing_is_written_while_it_is_switched_off(
    paper: Paper, pair: tuple[Player, Player]
) -> None:
    gateway, raft_node = pair
    before = len(records(paper.board, "raft-node"))
    raft_node.observer.switch(on=False)

    gateway.links.send("raft-node", Propose(7, 1, 1, b""))
    raft_node.handle()
    raft_node.observer.ends(0, FLUSH_TAG, 0)

    assert len(records(paper.board, "raft-node")) == before
    assert paper.view().sample("raft-node").wait.count == 0

    raft_node.observer.switch(on=True)
    gateway.links.send("raft-node", Propose(7, 2, 1, b""))
    raft_node.handle()
    assert records(paper.board, "raft-node")[-1].correlation == 2


def test_what_an_edge_has_no_room_for_is_recorded_as_dropped(
    paper: Paper, pair: tuple[Player, Player]
) -> None:
    gateway, _ = pair

    while gateway.links.send("raft-node", CommittedTo(1)):
        pass

    assert records(paper.board, "gateway-0")[-1].kind == Kind.DROPPED
    assert paper.view().sample("raft-node").dropped == 1


def test_depth_and_rates_of_a_flooded_actor_are_exact(
    paper: Paper, pair: tuple[Player, Player]
) -> None:
    gateway, raft_node = pair
    before = paper.view().sample("raft-node")

    for number in range(700):
        assert gateway.links.send("raft-node", Propose(7, number, 2, b"x"), 2)
    for _ in range(300):
        raft_node.handle()

    view = paper.view()
    after, waiting = view.sample("raft-node"), view.waiting("raft-node")
    assert after.depth == 400
    assert after.handled - before.handled == 300
    assert [one.sequence for one in waiting] == list(range(701 - RECORDS, 701))
    assert after.oldest_seconds == pytest.approx(waiting[0].age_seconds, abs=1.0)
    assert {one.type for one in waiting} == {"Propose"}


def test_quantiles_are_interpolated_in_powers_of_two() -> None:
    counts = [0] * BUCKETS
    counts[11] = 100  # 1024 to 2047 ns
    counts[21] = 1

    assert quantile(counts, 0.5) == pytest.approx(1024 + 1024 * 0.505, abs=2)
    assert 1 << 20 <= (quantile(counts, 1.0) or 0) <= 1 << 21
    assert quantile([0] * BUCKETS, 0.5) is None
    assert Durations((0, 3), 3).since(Durations((0, 1), 1)) == Durations((0, 2), 2)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (None, ""),
        (900, "900 ns"),
        (4100, "4 us"),
        (12_000_000, "12.0 ms"),
        (3_200_000_000, "3.20 s"),
    ],
)
def test_durations_are_told_in_fitting_units(nanoseconds: int | None, text: str) -> None:
    assert duration(nanoseconds) == text
