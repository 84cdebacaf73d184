"""What clients ask for in pieces goes on together, and nobody waits long or in vain for ever."""

from __future__ import annotations

import pytest

from actors.gathering import PASSED_MAX, WAIT_SECONDS_MAX, Gathering

TOOK = 1 / 256  # exact, as all times here
WAIT = TOOK / 2


class Loop:
    """A loop that asks for each turn; `went` is what went on, and when."""

    def __init__(self, spacing: float = 0.0) -> None:
        self.gathering = Gathering()
        self.spacing = spacing
        self.now = 10.0
        self.waiting = 0
        self.went: list[int] = []

    def come(self, count: int) -> float:
        """Take up `count` more and end the turn."""
        self.waiting += count
        pause = self.gathering.pause(self.waiting, self.now, self.spacing)
        if self.waiting and not pause:
            self.went.append(self.waiting)
            self.waiting = 0
        return pause

    def answer(self, count: int) -> None:
        """Answer what went on, TOOK later."""
        self.now += TOOK
        self.gathering.answered(count)
        assert self.come(0) == 0.0

    def in_vain(self) -> bool:
        """Whether, of two that were answered, the first to ask again waits: the second does not."""
        self.answer(2)
        pause = self.come(1)
        self.now += pause
        self.come(0)
        assert self.waiting == 0
        return pause > 0


def test_as_many_as_were_answered_go_on_together() -> None:
    loop = Loop()
    loop.come(10)
    loop.answer(10)

    assert loop.come(3) == WAIT
    loop.now += WAIT / 4
    assert loop.come(6) == WAIT * 3 / 4
    assert loop.come(1) == 0.0

    assert loop.went == [10, 10]


def test_who_was_not_answered_before_does_not_wait() -> None:
    loop = Loop()

    for _ in range(3):
        assert loop.come(1) == 0.0


def test_who_is_alone_never_waits() -> None:
    loop = Loop(spacing=0.01)

    for _ in range(3):
        loop.answer(1)
        assert loop.come(1) == 0.0


def test_others_are_waited_for_half_as_long_as_an_answer_takes_and_never_long() -> None:
    loop = Loop()
    loop.come(4)
    loop.answer(4)
    assert loop.come(1) == WAIT
    loop.now += WAIT
    loop.come(0)
    assert loop.went == [4, 1]

    slow = Loop()
    slow.come(4)
    slow.now += 1.0
    slow.answer(4)
    assert slow.come(1) == pytest.approx(WAIT_SECONDS_MAX)


def test_the_rest_does_not_wait_for_who_did_not_come() -> None:
    loop = Loop()
    loop.come(4)
    loop.answer(4)
    loop.now += loop.come(1)
    loop.come(0)

    assert loop.come(1) == 0.0

    assert loop.went == [4, 1, 1]


def test_where_nobody_comes_ever_fewer_wait() -> None:
    loop = Loop()
    loop.come(2)

    waited = [loop.in_vain() for _ in range(20 + 2 * PASSED_MAX)]

    assert [place for place, each in enumerate(waited) if each][:5] == [0, 2, 6, 14, 30]
    assert sum(waited) == 11


def test_who_comes_makes_up_for_who_did_not() -> None:
    loop = Loop()
    loop.come(2)
    assert loop.in_vain()
    assert not loop.in_vain()
    for _ in range(2):
        loop.answer(2)
        assert loop.come(1) == WAIT
        assert loop.come(1) == 0.0

    assert loop.in_vain()
    assert not loop.in_vain()
    loop.answer(2)
    assert loop.come(1) == WAIT, "one in vain is one piece that does not wait"


def test_where_cpus_are_busy_pieces_wait_whatever_comes_of_it() -> None:
    loop = Loop(spacing=2 * TOOK)
    loop.come(2)

    assert all(loop.in_vain() for _ in range(20))
