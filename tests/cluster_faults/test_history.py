"""The checker accepts what one store can do and nothing else."""

from __future__ import annotations

import pytest

from tests.cluster_faults.history import (
    History,
    HistoryError,
    KeyState,
    Kind,
    Operation,
    Outcome,
    State,
)
from tests.cluster_faults.second_opinion import judge

A1: State = {b"a": KeyState(b"1", 2, 2, 1)}
A2: State = {b"a": KeyState(b"2", 2, 3, 2)}
EMPTY: State = {}


def ok(kind: Kind, value: bytes, times: tuple[float, float], revision: int) -> Operation:
    made = Operation(kind, b"a", value, called=times[0], returned=times[1], revision=revision)
    made.outcome = Outcome.OK
    return made


def put(value: bytes, times: tuple[float, float], revision: int) -> Operation:
    return ok(Kind.PUT, value, times, revision)


def get(found: State, times: tuple[float, float], revision: int) -> Operation:
    made = ok(Kind.GET, b"", times, revision)
    made.found = dict(found)
    return made


def unknown(kind: Kind, value: bytes, called: float) -> Operation:
    return Operation(kind, b"a", value, called=called, returned=called + 1)


def check(timeline: list[State], *operations: Operation) -> History:
    """Check by our own means; the other checker must agree wherever it can."""
    history = History()
    history._revision, history._floor = 1, 1
    history.check_against(timeline, list(operations))
    assert judge(1, timeline[0], operations)
    return history


def test_writes_and_reads_in_their_order_are_accepted() -> None:
    check(
        [EMPTY, A1, A2, EMPTY],
        put(b"1", (0, 1), 2),
        get(A1, (1.5, 4), 2),  # overlaps the second put: may see either
        put(b"2", (2, 3), 3),
        Operation(Kind.DELETE, b"a", b"", 0, "", 5, 6, Outcome.OK, "", 4, 1),
        get(EMPTY, (7, 8), 4),
    )


def test_a_write_of_unknown_fate_may_have_an_effect_or_none() -> None:
    without = check([EMPTY], unknown(Kind.PUT, b"1", 0))
    effective = check([EMPTY, A1], unknown(Kind.PUT, b"1", 0), get(A1, (9, 10), 2))

    assert len(without.open) == 1
    assert (effective.open, effective.found_unknown) == ([], 1)


def test_a_write_of_unknown_fate_may_show_in_a_later_check() -> None:
    history = check([EMPTY], unknown(Kind.PUT, b"1", 0))

    history.check_against([EMPTY, A1], [])

    assert history.found_unknown == 1


def swap(compare: int, succeeded: bool, revision: int, found: State = EMPTY) -> Operation:
    made = ok(Kind.SWAP, b"2", (4, 5), revision)
    made.compare, made.succeeded, made.found = compare, succeeded, dict(found)
    return made


def test_a_swap_is_told_by_what_it_compared() -> None:
    first = put(b"1", (0, 1), 2)

    check([EMPTY, A1, A2], first, swap(2, True, 3))
    check([EMPTY, A1], first, swap(9, False, 2, A1))
    with pytest.raises(HistoryError, match="succeeded over"):
        check([EMPTY, A1, A2], first, swap(9, True, 3))
    with pytest.raises(HistoryError, match="failed over"):
        check([EMPTY, A1], first, swap(2, False, 2, A1))


@pytest.mark.parametrize(
    ("timeline", "operations", "complaint"),
    [
        ([EMPTY], [put(b"1", (0, 1), 2)], "acknowledged at revision 2 and lost"),
        ([EMPTY, A1], [], "put by nobody"),
        ([EMPTY, A1, EMPTY], [put(b"1", (0, 1), 2)], "nobody asked for"),
        ([EMPTY, A1, A1], [put(b"1", (0, 1), 2)], "changed"),
        # the same put twice
        (
            [EMPTY, A1, {b"a": KeyState(b"1", 2, 3, 2)}],
            [put(b"1", (0, 1), 2)],
            "put by nobody",
        ),
        ([EMPTY, A1], [put(b"1", (0, 1), 3)], "is the effect of"),
        ([EMPTY, {b"a": KeyState(b"1", 2, 2, 7)}], [put(b"1", (0, 1), 2)], "revision 2 made"),
        # one revision for two
        ([EMPTY, A1], [put(b"1", (0, 1), 2), put(b"2", (0, 1), 2)], "one revision for"),
        # a stale read, and one from the future
        (
            [EMPTY, A1, A2],
            [put(b"1", (0, 1), 2), put(b"2", (2, 3), 3), get(A1, (4, 5), 2)],
            "ordered before revision 3",
        ),
        (
            [EMPTY, A1, A2],
            [put(b"1", (0, 1), 2), put(b"2", (6, 7), 3), get(A2, (4, 5), 3)],
            "ordered before revision 3",
        ),
        # reads that go back
        (
            [EMPTY, A1, A2],
            [
                put(b"1", (0, 1), 2),
                put(b"2", (2, 9), 3),
                get(A2, (3, 4), 3),
                get(A1, (5, 6), 2),
            ],
            "ordered before revision 3",
        ),
        # a write that takes effect before it was asked for
        (
            [EMPTY, A1, A2],
            [put(b"2", (0, 1), 3), unknown(Kind.PUT, b"1", 2)],
            "ordered before revision 3",
        ),
        ([EMPTY, A1], [put(b"1", (0, 1), 2), get(A2, (2, 3), 2)], "expected"),
        ([EMPTY, A1], [put(b"1", (0, 1), 2), get(A1, (2, 3), 7)], "outside revisions"),
    ],
)
def test_what_no_store_does_is_found(
    timeline: list[State], operations: list[Operation], complaint: str
) -> None:
    with pytest.raises(HistoryError, match=complaint):
        check(timeline, *operations)


def test_an_operation_that_failed_for_certain_has_no_effect() -> None:
    refused = unknown(Kind.PUT, b"1", 0)
    refused.outcome = Outcome.FAILED

    with pytest.raises(HistoryError, match="put by nobody"):
        check([EMPTY, A1], refused)
