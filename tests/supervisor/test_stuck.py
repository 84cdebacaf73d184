"""Stuck or busy: judged by the board alone, at given times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.spec import ChildSpec
from supervisor.stuck import NANOSECONDS, Stuck, StuckDetector, is_stopped
from transport.counters import Board, Cell, State

TAG = 6
SPEC = ChildSpec(
    name="applier",
    module="toy",
    exit_code=82,
    reason="a toy",
    stuck_after=5.0,
    start_within=60.0,
    allowances={TAG: 15.0},
)
Look = Callable[[float], Stuck | None]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """A board with one child that runs."""
    made = Board(tmp_path / "board", create=["root", "applier"])
    made.set("applier", Cell.STATE, State.RUNNING)
    return made


@pytest.fixture
def look(board: Board) -> Look:
    """Look at the child four times a second up to a moment; return the last verdict."""
    detector = StuckDetector(board)
    detector.started("applier", 100.0)
    at = [100.0]

    def until(moment: float) -> Stuck | None:
        verdict = None
        while at[0] <= moment:
            detector.look_begins(at[0])
            verdict = detector.judge(SPEC, at[0])
            at[0] += 0.25
        return verdict

    return until


def test_a_child_whose_loop_turns_is_never_stuck(board: Board, look: Look) -> None:
    for second in range(101, 120):
        board.words[board.block("applier") + Cell.LOOPS] += 1
        assert look(second) is None


def test_a_child_without_a_turn_is_stuck_after_its_time(look: Look) -> None:
    assert look(105.0) is None
    assert look(105.25) == Stuck(5.25, 0)


def test_one_more_turn_gives_it_its_time_again(board: Board, look: Look) -> None:
    look(104.0)
    board.words[board.block("applier") + Cell.LOOPS] += 1

    assert look(109.0) is None
    assert look(109.75) is not None


def test_a_message_has_the_time_its_type_is_allowed(board: Board, look: Look) -> None:
    board.set("applier", Cell.SINCE_NS, 101 * NANOSECONDS)
    board.set("applier", Cell.TAG, TAG)

    assert look(116.0) is None
    assert look(116.25) == Stuck(15.25, TAG)


def test_a_message_that_is_not_in_the_table_has_the_childs_time(board: Board, look: Look) -> None:
    board.set("applier", Cell.SINCE_NS, 101 * NANOSECONDS)
    board.set("applier", Cell.TAG, TAG + 1)

    assert look(106.0) is None
    assert look(106.25) == Stuck(5.25, TAG + 1)


def test_a_child_that_is_still_starting_has_longer(board: Board, look: Look) -> None:
    board.set("applier", Cell.STATE, State.STARTING)

    assert look(160.0) is None
    assert look(160.25) is not None


def test_a_stopped_process_is_found_after_the_childs_time_whatever_it_was_doing(
    board: Board,
) -> None:
    detector = StuckDetector(board, stopped=lambda pid: pid == 77)
    detector.started("applier", 100.0)
    board.set("applier", Cell.SINCE_NS, 101 * NANOSECONDS)
    board.set("applier", Cell.TAG, TAG)
    board.set("applier", Cell.PID, 77)

    for moment in range(100, 107):
        detector.look_begins(moment)
    early = detector.judge(SPEC, 106.0)
    late = detector.judge(SPEC, 106.5)
    board.set("applier", Cell.PID, 78)
    busy = detector.judge(SPEC, 106.5)

    assert early is None
    assert late == Stuck(5.5, TAG)
    assert busy is None


def test_a_process_is_stopped_by_its_state() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    running = is_stopped(child.pid)
    child.send_signal(signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    stopped = is_stopped(child.pid)
    child.kill()
    child.wait()

    assert (running, stopped, is_stopped(child.pid)) == (False, True, False)


def test_when_root_itself_stood_still_everybodys_time_starts_again(board: Board) -> None:
    detector = StuckDetector(board)
    detector.started("applier", 100.0)
    detector.look_begins(100.0)
    detector.judge(SPEC, 100.0)

    detector.look_begins(500.0)  # the machine slept

    assert detector.judge(SPEC, 500.0) is None
