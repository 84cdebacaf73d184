"""Reads wait for what makes them fresh, and for nothing else; a view and a clock are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from actors.reads import Reads
from kv.errors import COMPACTED, LEADER_CHANGED, TIMEOUT, EtcdError, Status

TIMEOUT_SECONDS = 7.0


class View:
    """A moment of the database."""

    def __init__(self, applied_index: int) -> None:
        self.applied_index = applied_index


class Reader:
    """A database that is an applied index."""

    def __init__(self) -> None:
        self.applied_index = 0
        self.views = 0

    @contextmanager
    def view(self) -> Iterator[View]:
        self.views += 1
        yield View(self.applied_index)


class Asker:
    """A call; notes at which applied index it was served, or the status it failed with."""

    def __init__(self) -> None:
        self.closed = False
        self.outcomes: list[Any] = []

    def serve(self, view: View, call: Any) -> None:
        assert call is self
        self.closed = True
        self.outcomes.append(view.applied_index)

    def fail(self, status: Status) -> None:
        self.closed = True
        self.outcomes.append(status)


class Desk:
    """Reads over a fake reader, and the ids it asked the raft node for."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.asked: list[int] = []
        self.reads = Reads(self.reader, self.asked.append, TIMEOUT_SECONDS)  # type: ignore[arg-type]

    def ask(self, *, serializable: bool = False) -> Asker:
        asker = Asker()
        self.reads.add(asker, asker.serve, serializable=serializable)  # type: ignore[arg-type]
        return asker


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_all_reads_of_a_turn_share_one_index(desk: Desk) -> None:
    askers = [desk.ask() for _ in range(5)]

    desk.reads.flush(0.0)
    desk.reads.confirmed(desk.asked[0], 0)

    assert len(desk.asked) == 1
    assert [asker.outcomes for asker in askers] == [[0]] * 5


def test_who_was_answered_is_waited_for_to_ask_again(desk: Desk) -> None:
    for _ in range(2):
        desk.ask()
    desk.reads.flush(0.0)
    desk.reads.confirmed(desk.asked[0], 0)
    desk.reads.flush(0.001)

    desk.ask()
    now = desk.ask(serializable=True)
    assert desk.reads.flush(0.001) == 0.0005
    assert (len(desk.asked), now.outcomes) == (1, [0])
    desk.ask()
    assert desk.reads.flush(0.00125) == 0.0

    assert len(desk.asked) == 2


def test_a_serializable_read_asks_nobody(desk: Desk) -> None:
    asker = desk.ask(serializable=True)

    desk.reads.flush(0.0)

    assert (desk.asked, asker.outcomes) == ([], [0])


def test_a_read_waits_until_the_database_holds_its_index(desk: Desk) -> None:
    asker = desk.ask()
    desk.reads.flush(0.0)

    desk.reads.confirmed(1, 10)
    desk.reader.applied_index = 9
    desk.reads.wake()
    early = list(asker.outcomes)
    desk.reader.applied_index = 12
    desk.reads.wake()

    assert early == []
    assert asker.outcomes == [12]


def test_an_index_confirmed_for_an_earlier_turn_serves_no_later_read(desk: Desk) -> None:
    first = desk.ask()
    desk.reads.flush(0.0)
    second = desk.ask()
    desk.reads.flush(0.1)

    desk.reads.confirmed(desk.asked[0], 0)

    assert (first.outcomes, second.outcomes) == ([0], [])


def test_after_a_new_raft_node_the_old_ids_confirm_nothing_that_was_asked_again(desk: Desk) -> None:
    asker = desk.ask()
    desk.reads.flush(0.0)

    desk.reads.ask_again()
    desk.reads.confirmed(desk.asked[0], 0)
    early = list(asker.outcomes)
    desk.reads.confirmed(desk.asked[1], 0)

    assert desk.asked == [1, 2]
    assert (early, asker.outcomes) == ([], [0])


def test_an_unanswered_index_is_asked_for_again_and_counted(desk: Desk) -> None:
    desk.ask()
    desk.reads.flush(0.0)

    retries = [desk.reads.late(tenth / 10) for tenth in range(12)]

    assert sum(retries) == 2
    assert desk.asked == [1, 2, 3]


def test_a_read_past_its_timeout_is_told_and_forgotten(desk: Desk) -> None:
    unconfirmed = desk.ask()
    desk.reads.flush(0.0)
    desk.reads.confirmed(1, 5)
    parked_since = desk.ask()
    desk.reads.flush(0.0)

    desk.reads.late(TIMEOUT_SECONDS)

    assert (unconfirmed.outcomes, parked_since.outcomes) == ([TIMEOUT], [TIMEOUT])
    assert len(desk.reads) == 0
    assert desk.reads.failed == 2


def test_what_a_late_read_is_told_depends_on_when_it_was_asked(desk: Desk) -> None:
    told: list[float] = []

    def timed_out(start: float) -> Status:
        told.append(start)
        return LEADER_CHANGED

    desk.reads.timed_out = timed_out
    asker = desk.ask()
    desk.reads.flush(3.0)

    desk.reads.late(3.0 + TIMEOUT_SECONDS)

    assert (asker.outcomes, told) == ([LEADER_CHANGED], [3.0])


def test_a_lost_word_of_the_applier_holds_up_no_read(desk: Desk) -> None:
    asker = desk.ask()
    desk.reads.flush(0.0)
    desk.reads.confirmed(1, 5)
    desk.reader.applied_index = 5  # and the message that says so is lost

    desk.reads.late(0.05)

    assert asker.outcomes == [5]


def test_a_gateway_without_reads_opens_no_view(desk: Desk) -> None:
    desk.reads.flush(0.0)
    desk.reads.wake()
    desk.reads.late(1.0)

    assert desk.reader.views == 0


def test_a_call_that_is_over_is_not_served(desk: Desk) -> None:
    asker = desk.ask(serializable=True)
    asker.closed = True

    desk.reads.flush(0.0)

    assert asker.outcomes == []


def test_a_refused_read_is_answered_with_its_status_and_the_others_are_served(desk: Desk) -> None:
    refused, other = Asker(), Asker()

    def refuse(view: Any, call: Any) -> None:
        raise EtcdError(COMPACTED)

    desk.reads.add(refused, refuse, serializable=True)  # type: ignore[arg-type]
    desk.reads.add(other, other.serve, serializable=True)  # type: ignore[arg-type]
    desk.reads.flush(0.0)

    assert (refused.outcomes, other.outcomes) == ([COMPACTED], [0])


def test_a_read_may_ask_for_another_while_it_is_served(desk: Desk) -> None:
    second = Asker()

    def serve(view: Any, call: Any) -> None:
        desk.reads.add(second, second.serve, serializable=True)  # type: ignore[arg-type]

    desk.reads.add(Asker(), serve, serializable=True)  # type: ignore[arg-type]
    desk.reads.flush(0.0)
    early = list(second.outcomes)
    desk.reads.flush(0.0)

    assert (early, second.outcomes) == ([], [0])


def test_an_answer_to_a_gateway_that_has_died_confirms_nothing_of_its_successor() -> None:
    asked: list[int] = []
    before = Reads(None, asked.append, TIMEOUT_SECONDS, incarnation=1)  # type: ignore[arg-type]
    after = Reads(None, asked.append, TIMEOUT_SECONDS, incarnation=2)  # type: ignore[arg-type]
    for reads in (before, before, before, after):
        reads.add(Asker(), lambda view, call: None, serializable=False)  # type: ignore[arg-type]
        reads.flush(0.0)

    after.confirmed(asked[2], 7)

    assert len(after) == 1
    assert asked == sorted(asked)
