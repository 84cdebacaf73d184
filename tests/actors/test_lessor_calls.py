"""A gateway's questions to the lessor: asked once a turn, again when lost, never for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from actors import lease_calls
from actors.lease_calls import BATCH_MAX, LeaseCalls
from actors.messages import LeaseAsk, LeaseKind
from kv.errors import NO_LEADER, REQUEST_TOO_MANY_REQUESTS, TIMEOUT, Status
from kv.lease import AGAIN, UNKNOWN


class Asker:
    """Implements LeaseAnswer."""

    def __init__(self) -> None:
        self.closed = False
        self.answers: list[Any] = []
        self.settled = 0

    def told(self, token: Any, seconds: int) -> None:
        self.answers.append((token, seconds))

    def refused(self, token: Any, status: Status) -> None:
        self.answers.append((token, status))

    def settle(self) -> None:
        self.settled += 1


class View:
    """A view of a database with some leases."""

    def __init__(self, *leases: int) -> None:
        self._leases = leases

    def lease(self, lease_id: int) -> object | None:
        return object() if lease_id in self._leases else None


class Desk:
    def __init__(self) -> None:
        self.sent: list[LeaseAsk] = []
        self.reads: list[tuple[Any, Callable[[Any, Any], None]]] = []
        self.timers: list[Callable[[], None]] = []
        self.leader = True
        self.calls = LeaseCalls(
            "gateway-0",
            self._send,
            lambda call, serve: self.reads.append((call, serve)),
            lambda seconds, callback: self.timers.append(callback),
            lambda: self.leader,
            timeout=7.0,
        )
        self.asker = Asker()

    def _send(self, message: LeaseAsk) -> bool:
        self.sent.append(message)
        return True

    def ask(self, *leases: int, now: float = 0.0) -> list[int]:
        """Ask for leases; return the questions' ids."""
        for lease in leases:
            self.calls.ask(LeaseKind.RENEW, lease, self.asker, f"lease {lease}")
        self.calls.flush(now)
        return self.sent[-1].ids

    def read(self, view: View) -> None:
        """Serve all reads."""
        reads, self.reads = self.reads, []
        for call, serve in reads:
            serve(view, call)

    def ring(self, now: float) -> None:
        """Let all timers ring."""
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()
        self.calls.flush(now)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_questions_of_a_turn_are_one_message_and_answers_settle_once(desk: Desk) -> None:
    ids = desk.ask(5, 6, 7)

    desk.calls.told(ids, [10, 20, 30])

    assert len(desk.sent) == 1
    assert desk.sent[0].leases == [5, 6, 7]
    assert desk.asker.answers == [("lease 5", 10), ("lease 6", 20), ("lease 7", 30)]
    assert desk.asker.settled == 1
    assert len(desk.calls) == 0


def test_very_many_questions_go_in_several_messages(desk: Desk) -> None:
    desk.ask(*range(1, BATCH_MAX + 2))

    assert [len(message.ids) for message in desk.sent] == [BATCH_MAX, 1]


def test_an_answer_that_comes_twice_counts_once(desk: Desk) -> None:
    ids = desk.ask(5)

    desk.calls.told(ids, [10])
    desk.calls.told(ids, [10])

    assert desk.asker.answers == [("lease 5", 10)]


def test_unknown_is_believed_when_the_database_does_not_have_it_either(desk: Desk) -> None:
    ids = desk.ask(5)

    desk.calls.told(ids, [UNKNOWN])
    assert desk.asker.answers == []
    desk.read(View())

    assert desk.asker.answers == [("lease 5", UNKNOWN)]
    assert desk.asker.settled == 1
    assert len(desk.calls) == 0


def test_a_lease_that_the_database_has_is_asked_for_again(desk: Desk) -> None:
    ids = desk.ask(5)
    desk.calls.told(ids, [UNKNOWN])

    desk.read(View(5))
    desk.ring(0.1)
    desk.calls.told(desk.sent[-1].ids, [10])

    assert desk.asker.answers == [("lease 5", 10)]


def test_a_lessor_that_is_not_primary_is_asked_again_until_the_timeout(desk: Desk) -> None:
    desk.ask(5)
    for turn in range(1, 80):
        desk.calls.told(desk.sent[-1].ids, [AGAIN])
        desk.ring(turn / 10)
        desk.calls.late(turn / 10)

    assert desk.asker.answers == [("lease 5", TIMEOUT)]
    assert len(desk.calls) == 0


def test_a_question_that_is_answered_again_at_once_and_again_is_given_up_without_a_leader(
    desk: Desk,
) -> None:
    desk.leader = False
    desk.ask(5)
    for turn in range(1, 80):
        if desk.asker.answers:
            break
        desk.calls.told(desk.sent[-1].ids, [AGAIN])
        desk.ring(turn / 10)

    assert desk.asker.answers == [("lease 5", NO_LEADER)]
    assert turn == 71
    assert len(desk.calls) == 0


@pytest.mark.parametrize(("leader", "status"), [(True, TIMEOUT), (False, NO_LEADER)])
def test_without_an_answer_it_is_asked_again_and_given_up_in_the_end(
    desk: Desk, leader: bool, status: Status
) -> None:
    desk.leader = leader
    desk.ask(5)
    for turn in range(80):
        desk.calls.late(turn / 10)

    assert len(desk.sent) == 14  # every half second of seven
    assert desk.asker.answers == [("lease 5", status)]
    assert len(desk.calls) == 0


def test_a_new_lessor_is_asked_at_once(desk: Desk) -> None:
    ids = desk.ask(5)

    desk.calls.ask_again(0.1)
    desk.calls.flush(0.1)

    assert [message.ids for message in desk.sent] == [ids, ids]


def test_what_nobody_waits_for_is_forgotten(desk: Desk) -> None:
    first, second, third = desk.ask(5, 6, 7)
    desk.asker.closed = True

    desk.calls.told([first], [AGAIN])
    desk.calls.told([second], [UNKNOWN])
    desk.calls.late(1.0)
    desk.read(View(6))

    assert len(desk.calls) == 0
    assert len(desk.sent) == 1
    assert third


def test_a_read_that_fails_ends_the_question(desk: Desk) -> None:
    ids = desk.ask(5)
    desk.calls.told(ids, [UNKNOWN])
    ((question, _),) = desk.reads

    question.fail(TIMEOUT)

    assert desk.asker.answers == [("lease 5", TIMEOUT)]
    assert len(desk.calls) == 0


def test_more_questions_than_there_is_room_for_are_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_calls, "WAITING_MAX", 2)

    desk.ask(5, 6, 7)

    assert desk.asker.answers == [("lease 7", REQUEST_TOO_MANY_REQUESTS)]
    assert desk.sent[0].leases == [5, 6]
