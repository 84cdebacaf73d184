"""A gateway's session: batches, credit, retries, the mark."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from actors.messages import Propose
from actors.proposals import (
    BATCH_REQUESTS_MAX,
    CREDIT_REQUESTS,
    QUEUE_BYTES_MAX,
    QUEUE_MAX,
    RETRY_SECONDS,
    Proposals,
    SessionClosedError,
)
from kv.batch import Batch, Op, decode_batch
from kv.errors import COMPACTED, SESSION_CLOSED, TIMEOUT, TIMEOUT_DUE_TO_LEADER_FAIL, Status

SESSION = 77


class Asker:
    """Waits for one result."""

    def __init__(self) -> None:
        self.closed = False
        self.outcomes: list[Any] = []

    def answered(self, revision: int, body: bytes) -> None:
        self.outcomes.append((revision, body))

    def fail(self, status: Status) -> None:
        self.closed = True
        self.outcomes.append(status)


class Wire:
    """Takes what is proposed."""

    def __init__(self) -> None:
        self.sent: list[Propose] = []

    def __call__(self, message: Propose) -> bool:
        self.sent.append(message)
        return True

    def batches(self) -> list[Batch]:
        return [decode_batch(message.batch) for message in self.sent]


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def proposals(wire: Wire) -> Proposals:
    made = Proposals(SESSION, wire, lambda asker, r, b: asker.answered(r, b), timeout=7.0)
    made.open = True
    return made


def put_all(proposals: Proposals, count: int) -> list[Asker]:
    askers = [Asker() for _ in range(count)]
    for number, asker in enumerate(askers):
        proposals.add(Op.PUT, b"put %d" % number, asker)
    return askers


def test_everything_of_a_turn_is_one_message(proposals: Proposals, wire: Wire) -> None:
    put_all(proposals, 10)

    proposals.flush(0.0)

    assert [message.count for message in wire.sent] == [10]
    assert wire.batches()[0].requests == [b"put %d" % n for n in range(10)]
    assert wire.batches()[0].first_id == 1


def test_who_was_answered_is_waited_for_to_ask_again(proposals: Proposals, wire: Wire) -> None:
    put_all(proposals, 4)
    proposals.flush(0.0)
    proposals.applied(1, [2, 3, 4, 5])
    proposals.flush(0.001)

    put_all(proposals, 1)
    assert proposals.flush(0.001) == 0.0005
    put_all(proposals, 3)
    assert proposals.flush(0.00125) == 0.0

    assert [message.count for message in wire.sent] == [4, 4]


def test_a_revocation_takes_along_what_waits_for_more(proposals: Proposals, wire: Wire) -> None:
    put_all(proposals, 4)
    proposals.flush(0.0)
    proposals.applied(1, [2, 3, 4, 5])
    put_all(proposals, 1)
    assert proposals.flush(0.001) > 0

    proposals.add(Op.LEASE_REVOKE, b"revoke", Asker())
    assert proposals.flush(0.001) == 0.0

    assert [message.count for message in wire.sent] == [4, 2]


def test_results_reach_those_who_asked_in_order(proposals: Proposals) -> None:
    askers = put_all(proposals, 3)
    proposals.flush(0.0)

    proposals.applied(1, [2, [3, b"body"], -COMPACTED.number])

    assert [asker.outcomes for asker in askers] == [[(2, b"")], [(3, b"body")], [COMPACTED]]


def test_a_copy_of_an_answer_is_ignored(proposals: Proposals) -> None:
    (asker,) = put_all(proposals, 1)
    proposals.flush(0.0)
    proposals.applied(1, [2])

    proposals.applied(1, [2])

    assert asker.outcomes == [(2, b"")]


def test_nothing_is_proposed_before_the_session_is_open(proposals: Proposals, wire: Wire) -> None:
    proposals.open = False
    put_all(proposals, 1)

    proposals.flush(0.0)

    assert wire.sent == []


def test_the_credit_bounds_what_is_outstanding(proposals: Proposals, wire: Wire) -> None:
    put_all(proposals, CREDIT_REQUESTS + 10)

    proposals.flush(0.0)
    outstanding = sum(message.count for message in wire.sent)
    proposals.applied(1, [2] * BATCH_REQUESTS_MAX)
    proposals.flush(0.0)

    assert outstanding == CREDIT_REQUESTS
    assert wire.sent[-1].count == 10


def test_a_request_nobody_waits_for_is_not_proposed(proposals: Proposals, wire: Wire) -> None:
    first, second = put_all(proposals, 2)
    first.closed = True

    proposals.flush(0.0)

    assert wire.batches()[0].requests == [b"put 1"]
    proposals.applied(1, [5])
    assert second.outcomes == [(5, b"")]


def test_a_retry_is_the_same_batch_under_the_same_number(proposals: Proposals, wire: Wire) -> None:
    put_all(proposals, 2)
    proposals.flush(0.0)

    assert proposals.late(0.4) == []
    due = proposals.late(0.6)
    proposals.retry(due[0][0], 0.6)

    assert due == [(1, 2)]
    assert wire.sent[1] == wire.sent[0]


def test_retries_become_rarer(proposals: Proposals) -> None:
    put_all(proposals, 1)
    proposals.flush(0.0)

    times = [t / 10 for t in range(60) if proposals.late(t / 10)]

    assert times == [0.5, 1.5, 3.5]


def test_a_call_past_its_timeout_is_told_but_the_batch_stays(proposals: Proposals) -> None:
    (asker,) = put_all(proposals, 1)
    proposals.flush(0.0)

    proposals.late(7.0)

    assert asker.outcomes == [TIMEOUT]
    assert list(proposals.unanswered()) == [(1, 1)]


def test_what_a_late_call_is_told_depends_on_when_it_came(wire: Wire) -> None:
    told: list[float] = []

    def timed_out(start: float) -> Status:
        told.append(start)
        return TIMEOUT_DUE_TO_LEADER_FAIL

    proposals = Proposals(SESSION, wire, lambda *_: None, timeout=7.0, timed_out=timed_out)
    proposals.open = True
    (proposed,) = put_all(proposals, 1)
    proposals.flush(3.0)
    proposals.open = False
    (queued,) = put_all(proposals, 1)
    proposals.late(4.0)

    proposals.late(11.0)

    assert proposed.outcomes == queued.outcomes == [TIMEOUT_DUE_TO_LEADER_FAIL]
    assert sorted(told) == [3.0, 4.0]


def test_the_mark_is_the_lowest_number_not_answered(proposals: Proposals, wire: Wire) -> None:
    put_all(proposals, 1)
    proposals.flush(0.0)
    put_all(proposals, 1)
    proposals.flush(0.0)
    proposals.applied(1, [2])

    put_all(proposals, 1)
    proposals.flush(0.0)

    assert [batch.mark for batch in wire.batches()] == [1, 1, 2]


def test_an_idle_session_tells_its_mark_once(proposals: Proposals, wire: Wire) -> None:
    put_all(proposals, 1)
    proposals.flush(0.0)
    proposals.applied(1, [2])

    for tenth in range(40):
        proposals.tell_mark(tenth / 10)

    assert len(wire.sent) == 2
    assert wire.batches()[1].mark == 2
    assert wire.batches()[1].requests == []


def test_a_new_raft_node_is_sent_everything_unanswered_in_order(
    proposals: Proposals, wire: Wire
) -> None:
    for _ in range(3):
        put_all(proposals, 1)
        proposals.flush(0.0)
    proposals.applied(2, [2])
    wire.sent.clear()

    again = proposals.propose_again(1.0)

    assert again == 2
    assert [message.first_id for message in wire.sent] == [1, 3]


def test_a_session_that_was_closed_answers_nobody_and_says_so(proposals: Proposals) -> None:
    askers = put_all(proposals, 2)
    proposals.flush(0.0)

    with pytest.raises(SessionClosedError):
        proposals.applied(1, [-SESSION_CLOSED.number] * 2)

    assert [asker.outcomes for asker in askers] == [[], []]


def test_a_session_whose_opening_is_refused_is_not_used(proposals: Proposals) -> None:
    proposals.check([5])

    with pytest.raises(SessionClosedError):
        proposals.check([-SESSION_CLOSED.number])


def test_a_call_that_never_left_the_queue_is_told_after_its_timeout(
    proposals: Proposals, wire: Wire
) -> None:
    proposals.open = False
    proposals.late(0.0)
    (asker,) = put_all(proposals, 1)
    proposals.late(0.05)

    proposals.late(7.0)
    early = list(asker.outcomes)
    proposals.late(7.05)

    assert early == []
    assert asker.outcomes == [TIMEOUT]
    assert len(proposals) == 0
    assert wire.sent == []


def test_only_what_is_too_old_leaves_the_queue(proposals: Proposals) -> None:
    proposals.open = False
    (old,) = put_all(proposals, 1)
    proposals.late(0.0)
    (young,) = put_all(proposals, 1)
    proposals.late(1.0)

    proposals.late(7.5)
    proposals.open = True
    proposals.flush(7.5)

    assert (old.outcomes, young.outcomes) == ([TIMEOUT], [])
    assert list(proposals.unanswered()) == [(1, 1)]


def test_requests_that_left_the_queue_in_time_are_not_expired(proposals: Proposals) -> None:
    proposals.open = False
    first = put_all(proposals, 3)
    proposals.late(0.0)
    proposals.open = True
    proposals.flush(0.1)
    proposals.applied(1, [2, 3, 4])
    proposals.open = False
    second = put_all(proposals, 3)

    proposals.late(7.0)

    assert [asker.outcomes for asker in first] == [[(2, b"")], [(3, b"")], [(4, b"")]]
    assert [asker.outcomes for asker in second] == [[], [], []]


def test_the_queue_is_bounded_in_requests_and_in_bytes(proposals: Proposals) -> None:
    proposals.open = False
    value = b"v" * (1 << 20)

    for _ in range(QUEUE_BYTES_MAX // len(value)):
        assert not proposals.refuses(Op.PUT)
        proposals.add(Op.PUT, value, Asker())
    full = proposals.refuses(Op.PUT)
    proposals.open = True
    proposals.flush(0.0)

    assert full
    assert not proposals.refuses(Op.PUT)


def test_a_revocation_goes_before_everything_else_and_finds_room(
    proposals: Proposals, wire: Wire
) -> None:
    proposals.open = False
    put_all(proposals, QUEUE_MAX)
    full = proposals.refuses(Op.PUT), proposals.refuses(Op.LEASE_REVOKE)
    proposals.add(Op.LEASE_REVOKE, b"revoke", Asker())

    proposals.open = True
    proposals.flush(0.0)

    assert full == (True, False)
    assert wire.batches()[0].requests[:2] == [b"revoke", b"put 0"]


def test_a_revocation_is_not_refused_for_what_is_not_carried_out_yet(proposals: Proposals) -> None:
    assert proposals.refuses(Op.PUT, overloaded=True)
    assert not proposals.refuses(Op.LEASE_REVOKE, overloaded=True)


def test_revocations_are_bounded_too(proposals: Proposals) -> None:
    proposals.open = False
    for _ in range(QUEUE_MAX):
        proposals.add(Op.LEASE_REVOKE, b"", Asker())

    assert proposals.refuses(Op.LEASE_REVOKE)
    assert not proposals.refuses(Op.PUT)


def test_a_revocation_that_never_left_the_queue_is_told_after_its_timeout(
    proposals: Proposals,
) -> None:
    proposals.open = False
    (queued,) = put_all(proposals, 1)
    proposals.late(1.0)
    revocation = Asker()
    proposals.add(Op.LEASE_REVOKE, b"", revocation)
    proposals.late(2.0)

    proposals.late(8.0)
    first = [*queued.outcomes], [*revocation.outcomes]
    proposals.late(9.0)

    assert first == ([TIMEOUT], [])
    assert revocation.outcomes == [TIMEOUT]


def test_a_new_leader_is_asked_again_as_often_as_the_first(proposals: Proposals) -> None:
    proposals.add(Op.PUT, b"put", Asker())
    proposals.flush(0.0)
    for second in range(60):
        proposals.late(float(second))

    proposals.propose_again(60.0)

    assert proposals.late(60.0 + RETRY_SECONDS) != []


def test_nothing_waits_for_a_retry_longer_than_a_few_seconds(proposals: Proposals) -> None:
    proposals.add(Op.PUT, b"put", Asker())
    proposals.flush(0.0)

    retried = [second for second in range(60) if proposals.late(float(second))]

    assert max(later - earlier for earlier, later in itertools.pairwise(retried)) <= 4
