"""troupectl over a toy member: it sees the living, the stuck and the dead."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from control import edges, peek, top, tree
from control.__main__ import run
from control.observe import MemberView, ObserveError, exit_words, pss_bytes
from tests.supervisor.toys import ToyMember, eventually
from transport.counters import Cell, Edge


@pytest.fixture(scope="module")
def member() -> Iterator[ToyMember]:
    """Two toys and a root; tests put them back as they found them."""
    with ToyMember("applier", "gateway-0", stuck_detection=False) as made:
        made.until_up()
        yield made


@pytest.fixture
def view(member: ToyMember) -> MemberView:
    """What troupectl opens."""
    return MemberView(member.run_dir)


def ctl(capsys: pytest.CaptureFixture[str], member: ToyMember, *arguments: str) -> Any:
    """Run troupectl with --json; return what it printed."""
    assert run([*arguments, "--run-dir", str(member.run_dir), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_tree_tells_state_pid_incarnation_and_restarts(
    member: ToyMember, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ctl(capsys, member, "tree")

    applier, gateway = found["children"]
    assert (found["member"], found["state"]) == ("toys", "running")
    assert found["zygote"]["pid"] == member.zygote()
    assert applier == {
        "name": "applier",
        "state": "running",
        "pid": member.pid("applier"),
        "incarnation": 1,
        "strategy": "permanent",
        "restarts": 0,
        "used": 0,
        "allowed": 20,
        "period": 30.0,
        "next_backoff": 0.0,
        "last_exit": "",
        "reason": "a toy",
    }
    assert gateway["name"] == "gateway-0"


def test_tree_is_shown_from_the_board_when_root_is_frozen(
    member: ToyMember, view: MemberView
) -> None:
    member.process.send_signal(signal.SIGSTOP)
    try:
        found = tree.tree(view)
    finally:
        member.process.send_signal(signal.SIGCONT)

    assert found["state"] == "silent"
    assert [child["pid"] for child in found["children"]] == [
        member.pid("applier"),
        member.pid("gateway-0"),
    ]
    assert found["children"][0]["used"] is None


def test_top_counts_messages_of_other_actors_and_the_requests_in_them(
    member: ToyMember, view: MemberView
) -> None:
    words, edge = member.board.words, member.board.edge("gateway-0", "applier")
    words[edge + Edge.SENT_STREAM] = words[edge + Edge.HANDLED_STREAM] = 1
    before = top.samples(view)

    words[edge + Edge.SENT] += 25
    words[edge + Edge.HANDLED] += 20
    words[edge + Edge.HANDLED_ITEMS] += 60
    applier, gateway = top.rates(view, before, 2.0)

    assert (applier["handled_per_second"], applier["batch_mean"]) == (10.0, 3.0)
    assert applier["mailbox_depth"] == 5
    assert (gateway["handled_per_second"], gateway["mailbox_depth"]) == (0.0, 0)
    assert applier["pss_bytes"] > 1 << 20


def test_top_prints_one_table_when_asked_for_one(
    member: ToyMember, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["top", "--once", "--run-dir", str(member.run_dir)]) == 0

    printed = capsys.readouterr().out
    assert "gateway-0" in printed
    assert str(member.pid("applier")) in printed


def test_top_leaves_columns_out_of_a_narrow_window(view: MemberView) -> None:
    rows = top.rates(view, top.samples(view), 1.0)

    wide, narrow = top.rendered(rows, "m"), top.rendered(rows, "m", 80)

    assert len(wide.columns) == len(top.COLUMNS)
    assert [column.header for column in narrow.columns] == [
        *("actor", "state", "pid", "restarts", "mailbox", "in/s"),
        *("cpu %", "PSS MiB", "doing"),
    ]


def test_top_shows_every_actors_memory_in_80_characters(view: MemberView) -> None:
    rows = top.rates(view, top.samples(view), 1.0)
    busiest = {
        "name": "snapshotter", "state": "running", "pid": 4194303, "restarts": 100,
        "mailbox_depth": 12345, "handled_per_second": 99999.0,
        "cpu": 1.0, "pss_bytes": 1234 << 20, "doing": "Apply", "doing_seconds": 0.0012,
    }  # fmt: skip
    console = Console(width=80, record=True, file=StringIO())

    console.print(top.rendered([rows[0] | busiest], "m", console.width))

    shown = console.export_text()
    assert "1234.0" in shown
    assert "4194303" in shown
    assert "Apply" in shown
    assert "…" not in shown


def test_top_tells_in_which_message_an_actor_is(member: ToyMember, view: MemberView) -> None:
    board = member.board
    board.set("applier", Cell.SINCE_NS, 1)
    board.set("applier", Cell.TAG, 6)
    try:
        sample = view.sample("applier")
    finally:
        board.set("applier", Cell.TAG, 0)

    assert sample.doing == "Apply"
    assert sample.doing_seconds > 0
    assert view.sample("applier").doing == ""


def test_edges_tells_what_was_sent_dropped_and_lost(member: ToyMember, view: MemberView) -> None:
    words, edge = member.board.words, member.board.edge("applier", "gateway-0")
    words[edge + Edge.SENT_STREAM] = words[edge + Edge.HANDLED_STREAM] = 4
    words[edge + Edge.SENT] = 7
    words[edge + Edge.HANDLED] = 5
    words[edge + Edge.DROPPED] = 3
    words[edge + Edge.SENT_ENDED] = 20
    words[edge + Edge.HANDLED_ENDED] = 18

    (row,) = [row for row in edges.edges(view, 0.01) if row["sender"] == "applier"]

    assert row["receiver"] == "gateway-0"
    assert (row["sent"], row["handled"], row["depth"]) == (7, 5, 2)
    assert (row["dropped"], row["lost"], row["batch_mean"]) == (3, 2, None)


def test_peek_at_a_frozen_actor_tells_what_waits_for_it(
    member: ToyMember, view: MemberView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peek, "TIMEOUT_SECONDS", 0.1)
    words, edge = member.board.words, member.board.edge("root", "gateway-0")
    words[edge + Edge.SENT] = 4
    pid = member.pid("gateway-0")
    os.kill(pid, signal.SIGSTOP)
    try:
        found = peek.peek(view, "gateway-0")
    finally:
        os.kill(pid, signal.SIGCONT)

    assert found["waiting"]["root"] == 4
    assert found["queued"] is None
    assert found["actor"]["pid"] == pid


def test_peek_asks_an_actor_that_answers(
    member: ToyMember, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ctl(capsys, member, "peek", "applier")

    assert found["stats"]["fds"]


def test_peek_at_nobody_names_who_is_there(
    member: ToyMember, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["peek", "nobody", "--run-dir", str(member.run_dir)]) == 1

    assert "applier, gateway-0" in capsys.readouterr().err


def test_events_tell_what_root_has_done(
    member: ToyMember, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ctl(capsys, member, "events")

    assert [event["event"] for event in found] == ["started", "started"]


@pytest.mark.parametrize("command", ["tree", "edges", "events"])
def test_every_command_prints_for_people_too(
    member: ToyMember, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run([command, "--run-dir", str(member.run_dir)]) == 0

    assert "applier" in capsys.readouterr().out


def test_no_member_is_exit_code_1_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tree", "--data-dir", f"{tmp_path}/m1.etcd"]) == 1

    assert "no member runs on" in capsys.readouterr().err


def test_a_run_directory_without_a_board_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ObserveError, match="cannot read the member's state"):
        MemberView(tmp_path)


def test_how_a_process_ended_is_told_in_words() -> None:
    assert exit_words(signal.SIGKILL) == "signal 9"
    assert exit_words(70 << 8) == "exit code 70"


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert pss_bytes(0) == pss_bytes(1 << 22) == -1


def test_a_dead_actor_is_seen_dead_while_it_may_not_come_back() -> None:
    sick = {"name": "applier", "backoff_min": 60.0, "backoff_max": 60.0}
    with ToyMember(sick, "lessor") as member:
        member.until_up()
        os.kill(member.pid("applier"), signal.SIGKILL)
        eventually(lambda: member.is_up("applier", 2), "it runs again")
        os.kill(member.pid("applier"), signal.SIGKILL)
        eventually(lambda: member.pid("applier") == 0, "it waits")

        applier, lessor = tree.tree(MemberView(member.run_dir))["children"]

        assert (applier["state"], applier["pid"], applier["used"]) == ("backoff", 0, 2)
        assert applier["last_exit"] == "killed by SIGKILL"
        assert lessor["state"] == "running"
