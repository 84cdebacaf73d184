"""Crash reports: what root writes when a child ends, and what it never writes."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control import crash
from control.__main__ import run
from control.observe import MemberView, ObserveError
from supervisor.crash_report import REPORTS_MAX, CrashReporter, Ended, in_words
from supervisor.spec import ChildSpec
from supervisor.strategy import Escalate, Restart
from supervisor.traces import TraceFile, redacted, take_trace, trace_path
from tests.observe.desk import Paper
from tests.supervisor.toys import ToyMember, eventually
from transport.counters import Cell
from transport.recorder import Kind, Recorder


def reports_of(member: ToyMember, count: int = 1) -> list[dict[str, Any]]:
    folder = crash.crash_directory(member.run_dir)
    eventually(lambda: len(crash.names(folder)) >= count, f"{count} crash reports")
    return [crash.load(folder, name) for name in crash.names(folder)]


@pytest.fixture(scope="module")
def member() -> Iterator[ToyMember]:
    behaviour = {"lessor": "crash-once", "applier": "long"}
    sick = {"name": "applier", "stuck_after": 0.3}
    with ToyMember("lessor", sick, behaviour=behaviour) as made:
        made.until_up(2)
        yield made


def report_on(member: ToyMember, actor: str) -> dict[str, Any]:
    (found,) = [one for one in reports_of(member, 2) if one["actor"] == actor]
    return found


def test_a_crash_leaves_its_traceback_and_the_decision(member: ToyMember) -> None:
    report = report_on(member, "lessor")

    assert (report["incarnation"], report["reason"]) == (1, "exit code 70")
    assert report["decision"] == "restart at once"
    assert (report["restarts_used"], report["restarts_allowed"]) == (1, 20)
    assert "in main" in report["traceback"]
    assert report["traceback"].endswith("ToyError: as told\n")


def test_a_stuck_actor_leaves_its_message_and_its_stack(member: ToyMember) -> None:
    report = report_on(member, "applier")

    assert report["reason"] == "killed by SIGKILL"
    assert report["stuck_seconds"] > 0.3
    assert report["doing"] == "Committed"
    assert report["doing_seconds"] > 0.3
    assert "toy_actor.py" in report["traceback"]


def test_troupectl_lists_and_shows_reports(
    member: ToyMember, capsys: pytest.CaptureFixture[str]
) -> None:
    reports_of(member, 2)
    assert run(["crash", "list", "--run-dir", str(member.run_dir), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["actor"] for row in listed} == {"lessor", "applier"}

    assert run(["crash", "show", listed[0]["name"][:19], "--run-dir", str(member.run_dir)]) == 0
    assert "decision: restart at once" in capsys.readouterr().out

    assert run(["crash", "show", "1999", "--run-dir", str(member.run_dir)]) == 1
    assert "0 crash reports match" in capsys.readouterr().err


def test_reports_are_for_the_owner_only(member: ToyMember) -> None:
    reports_of(member, 2)
    folder = crash.crash_directory(member.run_dir)

    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.json")} == {0o600}


def test_the_event_of_an_exit_names_decision_and_report(member: ToyMember) -> None:
    exits = [e for e in member.ask("events")["events"] if e["event"] == "exited"]

    assert {event["decision"] for event in exits} == {"restart at once"}
    names = crash.names(crash.crash_directory(member.run_dir))
    assert {event["report"] for event in exits} <= set(names)


def ended(**changes: Any) -> Ended:
    spec = ChildSpec(name="applier", module="m", exit_code=82, reason="r")
    fields: dict[str, Any] = {
        "spec": spec,
        "incarnation": 3,
        "pid": 99,
        "reason": "killed by SIGKILL",
        "restarts_used": 1,
        "decision": Restart(0.5),
    }
    return Ended(**fields | changes)


def test_a_report_holds_recorder_mailbox_and_current_message(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    Recorder(paper.board, "applier", 3).note(Kind.IN, 6, 2, 7, 1, 40, 70, time.monotonic_ns())
    paper.board.words[paper.board.edge("raft-node", "applier") + 1] = 4
    paper.board.set("applier", Cell.TAG, 6)
    paper.board.set("applier", Cell.SINCE_NS, time.monotonic_ns())
    reporter = CrashReporter(tmp_path, tmp_path)

    copy = paper.board.copy()
    paper.board.set("applier", Cell.TAG, 0)  # the next incarnation begins
    name = reporter.report(ended(), copy)
    reporter.settle()

    report = crash.load(crash.crash_directory(tmp_path), name)
    assert report["mailbox"] == {"raft-node": 4}
    assert report["doing"] == "Apply"
    assert report["recorder"][-1]["unfinished"]
    assert report["decision"] == "restart in 0.500 s"
    assert crash.load(crash.crash_directory(tmp_path), "last") == report


def test_only_so_many_reports_are_kept(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    reporter = CrashReporter(tmp_path, tmp_path)

    made = []
    for incarnation in range(REPORTS_MAX + 3):
        made.append(reporter.report(ended(incarnation=100 + incarnation), paper.board))
        reporter.settle()

    assert crash.names(crash.crash_directory(tmp_path)) == sorted(made)[3:]


def test_a_disk_that_takes_no_report_stops_nothing(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    reporter = CrashReporter(tmp_path, blocked)

    assert reporter.report(ended(), paper.board.copy())
    reporter.settle()

    assert crash.names(crash.crash_directory(blocked)) == []


def test_a_run_directory_that_is_gone_makes_no_report(tmp_path: Path) -> None:
    board = Paper(tmp_path).board
    reporter = CrashReporter(tmp_path / "gone", tmp_path)

    reporter.report(ended(), board)
    reporter.settle()

    assert crash.names(crash.crash_directory(tmp_path)) == []


def test_a_traceback_keeps_frames_and_loses_values() -> None:
    def fail(password: str) -> None:
        raise ValueError(f"no such user: {password!r} {password.encode()!r} at 7")

    secret = "pa55" + "'" + "word"
    try:
        try:
            fail(secret)
        except ValueError as inner:
            raise RuntimeError(repr(secret)) from inner
    except RuntimeError as error:
        text = redacted(error)

    assert "pa55" not in text
    assert "in fail" in text
    assert "ValueError: no such user: <...> <...> at 7" in text
    assert text.endswith("RuntimeError: <...>\n")


def test_a_process_that_is_asked_writes_its_stack_and_goes_on(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    trace = TraceFile(tmp_path, "applier", 1)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.enable(2)
        signal.signal(signal.SIGUSR1, before)

    trace.write(ValueError("later"))
    text = take_trace(tmp_path, "applier", 1)
    assert "test_a_process_that_is_asked" in text
    assert text.endswith("ValueError: later\n")
    assert not trace_path(tmp_path, "applier", 1).exists()
    assert take_trace(tmp_path, "applier", 1) == ""


def test_decisions_are_told_in_words() -> None:
    assert in_words(Restart(0.0)) == "restart at once"
    assert in_words(Escalate(82)) == "stop the member with exit code 82"


def test_a_broken_report_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    Paper(tmp_path)
    folder = crash.crash_directory(tmp_path)
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("{")

    with pytest.raises(ObserveError, match="cannot read the crash report"):
        crash.load(folder, "x")
    assert MemberView(tmp_path).info["name"] == "paper"
