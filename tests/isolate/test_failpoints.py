"""Failpoints: gofail's terms, counts that outlive their process, points that are there."""

from __future__ import annotations

import os
import re
import sys
import timeit
from pathlib import Path

import pytest

from actors import failpoints
from actors.failpoints import (
    POINTS,
    FailpointPanicError,
    Failpoints,
    FailpointTermError,
    Term,
    parse_terms,
)
from supervisor.gofail import FailpointRefusedError, FailpointTable, parse_failpoints
from tests.supervisor.toys import eventually

ROOT = Path(__file__).parents[2]
POINT = "beforeCommit"


class Slept:
    """A clock that only counts."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.progress = 0

    def clock(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def note(self) -> None:
        self.progress += 1


@pytest.fixture
def table(tmp_path: Path) -> FailpointTable:
    return FailpointTable(tmp_path)


def points(folder: Path, slept: Slept | None = None, chance: float = 0.0) -> Failpoints:
    """Return the points as a new process has them."""
    slept = slept or Slept()
    return Failpoints(folder, slept.note, chance=lambda: chance, sleep=slept.sleep)


def test_a_break_starts_a_debugger_on_the_process_and_waits_for_it(
    table: FailpointTable, tmp_path: Path
) -> None:
    started, debugger, slept = tmp_path / "started", tmp_path / "debugger", Slept()
    debugger.write_text(f'#!/bin/sh\necho "$@" > {started}.new; mv {started}.new {started}\n')
    debugger.chmod(0o755)
    table.enable({POINT: "1*break"})
    failpoints = Failpoints(tmp_path, slept.note, sleep=slept.sleep, debugger=str(debugger))

    failpoints.hit(POINT)
    failpoints.hit(POINT)

    eventually(started.exists, "the debugger has been started")
    assert started.read_text() == f"{sys.executable} {os.getpid()}\n"
    assert slept.seconds == pytest.approx(3.0)
    assert slept.progress > 10


def test_a_break_without_a_debugger_is_a_panic(table: FailpointTable, tmp_path: Path) -> None:
    table.enable({POINT: "break"})
    failpoints = Failpoints(tmp_path, Slept().note, debugger="no-such-debugger")

    with pytest.raises(FailpointPanicError, match='exec: "no-such-debugger": executable file not'):
        failpoints.hit(POINT)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("break", [Term("break", None)]),
        ("panic", [Term("panic", None)]),
        ("sleep(100)", [Term("sleep", 100)]),
        ('return("hello \\"you\\"")', [Term("return", 'hello "you"')]),
        ("return(true)", [Term("return", True)]),
        ("return()", [Term("return", None)]),
        ("3*panic", [Term("panic", None, 3)]),
        ("50.0%panic", [Term("panic", None, None, (0.5,))]),
        ("2*off->1*print", [Term("off", None, 2), Term("print", None, 1)]),
    ],
)
def test_gofails_terms_are_understood(text: str, terms: list[Term]) -> None:
    assert list(parse_terms(text)) == terms


@pytest.mark.parametrize(
    "text", ["", "boom", "panic(", "panic->", "panic panic", "3panic", "1.5*panic", "sleep(1)x"]
)
def test_what_gofail_could_not_parse_is_refused(text: str) -> None:
    with pytest.raises(FailpointTermError, match="failpoint: could not parse terms"):
        parse_terms(text)


def test_nothing_happens_at_a_point_that_is_not_active(
    table: FailpointTable, tmp_path: Path
) -> None:
    table.enable({"afterCommit": "panic"})

    assert points(tmp_path).hit(POINT) is None


def test_a_chain_acts_in_order_and_its_counts_outlive_the_process(
    table: FailpointTable, tmp_path: Path
) -> None:
    table.enable({POINT: "1*off->1*panic->return(7)"})

    assert points(tmp_path).hit(POINT) is None
    with pytest.raises(FailpointPanicError, match=f"failpoint panic: {POINT}"):
        points(tmp_path).hit(POINT)
    assert points(tmp_path).hit(POINT) == 7
    assert table.status(POINT) == ("1*off->1*panic->return(7)", 3)


def test_a_process_that_runs_hears_of_every_change(table: FailpointTable, tmp_path: Path) -> None:
    running = points(tmp_path)
    assert running.hit(POINT) is None

    table.enable({POINT: 'return("a")'})
    assert running.hit(POINT) == "a"
    table.enable({POINT: "1*return(2)"})
    assert [running.hit(POINT), running.hit(POINT)] == [2, None]
    table.disable(POINT)

    assert running.hit(POINT) is None
    with pytest.raises(FailpointRefusedError, match="failpoint is disabled"):
        table.status(POINT)


@pytest.mark.parametrize(
    ("term", "seconds"), [("sleep(1500)", 1.5), ('sleep("1.5s")', 1.5), ('sleep("x")', 0.0)]
)
def test_a_sleeping_actor_says_that_it_lives(
    table: FailpointTable, tmp_path: Path, term: str, seconds: float
) -> None:
    slept = Slept()
    table.enable({POINT: term})

    points(tmp_path, slept).hit(POINT)

    assert slept.seconds == pytest.approx(seconds)
    assert slept.progress >= seconds / 0.2


def test_a_point_ends_by_itself_unless_it_is_put_again(tmp_path: Path) -> None:
    now = Slept()
    table = FailpointTable(tmp_path, 60.0, now.clock)
    running = Failpoints(tmp_path, now.note, clock=now.clock)
    table.enable({POINT: "return(1)", "afterCommit": "return(2)"})

    now.sleep(59.9)
    assert [running.hit(POINT), running.hit("afterCommit")] == [1, 2]
    table.enable({POINT: "return(1)"})
    now.sleep(0.1)

    assert [running.hit(POINT), running.hit("afterCommit")] == [1, None]
    assert f"\n{POINT}=return(1)\n" in table.listing()
    assert "\nafterCommit=\n" in "\n" + table.listing()
    for asked in (table.status, table.disable):
        with pytest.raises(FailpointRefusedError, match="failpoint is disabled"):
            asked("afterCommit")
    now.sleep(59.9)
    assert running.hit(POINT) is None


def test_whoever_sleeps_at_a_point_wakes_when_it_ends(tmp_path: Path) -> None:
    now = Slept()
    table = FailpointTable(tmp_path, 2.0, now.clock)
    table.enable({POINT: "sleep(3600000)"})

    Failpoints(tmp_path, now.note, sleep=now.sleep, clock=now.clock).hit(POINT)

    assert now.seconds == pytest.approx(2.0, abs=0.2)


def test_a_chance_is_taken_as_often_as_it_says(table: FailpointTable, tmp_path: Path) -> None:
    table.enable({POINT: "30.0%return(1)"})

    assert points(tmp_path, chance=0.29).hit(POINT) == 1
    assert points(tmp_path, chance=0.31).hit(POINT) is None


def test_many_points_are_written_as_gofail_writes_them() -> None:
    assert parse_failpoints("a=panic;b=sleep(1);") == {"a": "panic", "b": "sleep(1)"}
    for text in ("a", "a=b=c"):
        with pytest.raises(FailpointRefusedError, match="bad failpoint"):
            parse_failpoints(text)


def test_every_point_is_somewhere_in_the_actors_and_no_other() -> None:
    hit = set()
    for path in (ROOT / "actors").glob("*.py"):
        for call in re.findall(r"failpoints\.hit\((.*)\)", path.read_text()):
            hit |= set(re.findall(r'"(\w+)"', call))

    assert hit == set(POINTS)


def test_passing_a_point_that_nobody_armed_takes_no_time(tmp_path: Path) -> None:
    failpoints.arm(tmp_path, lambda: None)  # there is no file: as in a member without gofail

    seconds = min(timeit.repeat(lambda: failpoints.hit(POINT), number=10_000, repeat=5)) / 10_000

    assert seconds < 2e-6  # 0.1 us on a quiet machine
