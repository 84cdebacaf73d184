"""Results that come before their commit: nobody is answered before it, nor by what is void."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import early as early_module
from actors.early import PASSED, Early
from actors.messages import Applied
from actors.metrics import ApplierMetric
from tests.actors.boards import make_board
from transport.counters import Cell


class Stage:
    """An Early whose board and clock are in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.board = make_board(folder)
        self.taken: list[int] = []
        self.pauses: list[float] = []
        self.callbacks: list[Callable[[], None]] = []
        self.early = Early(
            self.board, lambda message: self.taken.append(message.index), self._later
        )
        self.tell(ApplierMetric.ROLLBACKS, 1)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.pauses.append(seconds)
        self.callbacks.append(callback)

    def tell(self, word: ApplierMetric, value: int) -> None:
        self.board.set("applier", Cell.METRICS + word, value)

    def come(self, index: int, ahead: int = 0) -> None:
        self.early.add(Applied(index, index, [], ahead))

    def ring(self) -> None:
        due, self.callbacks = self.callbacks, []
        for callback in due:
            callback()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(early_module, "LOOK_NS", 0)
    return Stage(tmp_path)


def test_what_is_committed_is_taken_at_once(stage: Stage) -> None:
    stage.come(5)

    assert stage.taken == [5]
    assert not stage.callbacks


def test_what_comes_ahead_waits_until_its_index_is_applied(stage: Stage) -> None:
    stage.come(5, ahead=1)
    stage.ring()
    assert stage.taken == []

    stage.tell(ApplierMetric.APPLIED_INDEX, 5)
    stage.ring()

    assert stage.taken == [5]
    assert not stage.callbacks


def test_it_looks_ever_less_often(stage: Stage) -> None:
    stage.come(5, ahead=1)
    for _ in range(20):
        stage.ring()

    assert stage.pauses[:4] == [0.001, 0.002, 0.004, 0.008]
    assert max(stage.pauses) == early_module.LATER_SECONDS_MAX

    stage.tell(ApplierMetric.APPLIED_INDEX, 5)
    stage.ring()
    stage.come(6, ahead=1)

    assert stage.taken == [5]
    assert stage.pauses[-1] == 0.001


def test_a_commit_while_it_looks_is_seen_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_module, "LOOK_NS", 10_000_000_000)
    threading.Timer(0.05, stage.tell, [ApplierMetric.APPLIED_INDEX, 5]).start()

    stage.come(5, ahead=1)

    assert stage.taken == [5]
    assert not stage.callbacks


def test_what_was_rolled_back_is_never_taken_though_its_index_is_applied_later(
    stage: Stage,
) -> None:
    stage.come(5, ahead=1)

    stage.tell(ApplierMetric.ROLLBACKS, 2)
    stage.tell(ApplierMetric.APPLIED_INDEX, 9)
    stage.ring()

    assert stage.taken == []
    assert not stage.callbacks


def test_what_was_rolled_back_holds_up_nothing_behind_it(stage: Stage) -> None:
    stage.come(5, ahead=1)
    stage.tell(ApplierMetric.ROLLBACKS, 2)

    stage.come(5)

    assert stage.taken == [5]


def test_messages_are_taken_in_the_order_they_came(stage: Stage) -> None:
    stage.come(5, ahead=1)
    stage.come(6)
    assert stage.taken == []

    stage.tell(ApplierMetric.APPLIED_INDEX, 6)
    stage.ring()

    assert stage.taken == [5, 6]


def test_on_a_slow_disk_it_does_not_look_in_a_loop_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(early_module, "LOOK_NS", 9)
    monkeypatch.setattr("os.sched_yield", lambda: looked.append(1))
    monkeypatch.setattr("time.monotonic_ns", iter(range(0, 10**9, 1)).__next__)
    stage.come(1, ahead=1)
    stage.tell(ApplierMetric.APPLIED_INDEX, 1)
    stage.come(1)  # the applier says it once more
    assert looked
    looked.clear()

    for index in range(2, PASSED + 2):
        stage.come(index, ahead=1)
        stage.tell(ApplierMetric.APPLIED_INDEX, index)
        stage.ring()
    assert looked == []
    stage.come(PASSED + 2, ahead=1)

    assert looked
    assert stage.taken == [1, 1, *range(2, PASSED + 2)]
