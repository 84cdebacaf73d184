"""Observing a real member: a client writes, troupectl looks."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control import explain, peek, tap
from control.__main__ import run
from control.observe import MemberView
from control.run_directory import find_run_directory
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.supervisor.toys import eventually

pytestmark = pytest.mark.e2e
SECRET = b"pa55word"


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("observed")) as made:
        yield made


@pytest.fixture
def view(member: Member) -> MemberView:
    return MemberView(find_run_directory(str(member.data_dir), os.environ, ""))


@pytest.fixture
def client(member: Member) -> Iterator[Client]:
    with Client(member.endpoint) as made:
        yield made


def put(client: Client, timeout: float = 5.0) -> bool:
    return client.answer(pb.PutRequest(key=b"colour", value=SECRET), timeout=timeout).ok


def ctl(capsys: pytest.CaptureFixture[str], view: MemberView, *arguments: str) -> Any:
    assert run([*arguments, "--run-dir", str(view.run_dir), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def open_verdict(view: MemberView) -> str:
    """Return what is said of the longest of the requests that are not answered."""
    found = explain.explain(view, limit=1000)["slowest"]
    return next(str(one["verdict"]) for one in found if not one["finished"])


def test_a_put_is_explained_from_end_to_end(view: MemberView, client: Client) -> None:
    for _ in range(20):
        assert put(client)

    writes = [
        one
        for one in explain.explain(view, limit=1000)["slowest"]
        if one["kind"] == "write" and one["finished"]
    ]

    assert len(writes) >= 20
    assert {span["actor"] for span in writes[0]["spans"]} == {"raft-node", "applier", "gateway-0"}


def test_a_tap_shows_a_put_pass_without_its_value(view: MemberView, client: Client) -> None:
    seen: list[dict[str, Any]] = []
    tapping = threading.Thread(
        target=lambda: tap.tap(view, "raft-node", seen.append, types=["Propose"], limit=1)
    )
    tapping.start()
    while tapping.is_alive():
        assert put(client)

    assert [message["type"] for message in seen] == ["Propose"]
    assert SECRET.decode() not in json.dumps(seen)


def test_a_tap_that_has_ended_leaves_nothing_behind(view: MemberView) -> None:
    tap.tap(view, "applier", lambda _: None, seconds=0.05)

    answer = peek.ask_actor(view, "applier", "tap-read", tap=1)
    assert answer == {"error": "there is no such tap (any more)"}


def test_top_state_and_recorder_tell_of_every_actor(
    view: MemberView, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(client)

    rows = {row["name"]: row for row in ctl(capsys, view, "top")}

    assert set(rows) == set(view.actors())
    for name in view.actors():
        assert ctl(capsys, view, "recorder", name, "--last", "3")
        assert ctl(capsys, view, "state", name)["answers"]


def test_no_value_reaches_recorders_or_peeks(
    view: MemberView, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(client)

    for name in view.actors():
        assert SECRET.decode() not in json.dumps(ctl(capsys, view, "peek", name))
    assert SECRET not in (view.run_dir / "board").read_bytes()


def test_a_frozen_applier_is_found_by_peek_and_explain(view: MemberView, client: Client) -> None:
    pid = view.sample("applier").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not put(client, timeout=0.3)
        frozen = view.sample("applier")
        waiting = view.waiting("applier")
        verdict = open_verdict(view)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert frozen.state == "frozen"
    assert "Apply" in {one.type for one in waiting}
    assert verdict.startswith("not answered for ")
    assert verdict.endswith("waiting in applier's mailbox behind a stopped process")
    assert put(client)


def test_a_killed_actor_leaves_a_report_without_values(
    view: MemberView, client: Client, member: Member, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(client)
    os.kill(view.sample("applier").pid, signal.SIGKILL)
    folder = Path(member.data_dir) / "member" / "crash"
    eventually(lambda: bool(list(folder.glob("*-applier-1.json"))), "there is a report")

    report = ctl(capsys, view, "crash", "show")

    assert (report["actor"], report["reason"]) == ("applier", "killed by SIGKILL")
    assert {"Apply", "Applied"} <= {row["type"] for row in report["recorder"]}
    assert SECRET.decode() not in json.dumps(report)
    assert put(client)
