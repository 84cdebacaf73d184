"""What can still be looked at while a gateway is stuck: all of it, over HTTP by another gateway."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.__main__ import run
from control.observe import MemberView
from tests.member import Member
from tests.supervisor.toys import eventually
from transport.counters import Cell

pytestmark = pytest.mark.e2e
AWAY_SECONDS_MAX = 8.0
"""Stuck for 4 s, then killed, restarted and looked for: with room for a busy machine."""


@pytest.fixture
def gateways(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture
def member(tmp_path: Path, gateways: int) -> Iterator[Member]:
    with Member(tmp_path, flags=[f"--gateways={gateways}"]) as made:
        yield made


def page(member: Member, kind: str, timeout: float) -> Any:
    with urllib.request.urlopen(f"{member.url}/debug/actors/{kind}.json", timeout=timeout) as got:
        return json.load(got)


def look_at_everything(view: MemberView, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Look by troupectl at all that is told without asking the gateway itself."""
    found = {}
    for command in (
        ("tree",), ("top",), ("edges",), ("events",), ("peek", "gateway-0"),
        ("recorder", "gateway-0"), ("explain",), ("crash", "list"),
    ):  # fmt: skip
        assert run([*command, "--run-dir", str(view.run_dir), "--json"]) == 0
        found[command[0]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("gateways", [1], indirect=True)
def test_troupectl_tells_all_while_the_only_gateway_is_stuck_and_its_heir_serves_the_page(
    member: Member, capsys: pytest.CaptureFixture[str]
) -> None:
    view = member.view
    pid = view.sample("gateway-0").pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    found = look_at_everything(view, capsys)
    looked = time.monotonic() - began

    rows = page(member, "top", AWAY_SECONDS_MAX)["actors"]  # it waits in the listening socket
    away = time.monotonic() - began

    (row,) = [row for row in found["top"] if row["name"] == "gateway-0"]
    assert (row["pid"], row["state"]) == (pid, "frozen")
    assert looked < away < AWAY_SECONDS_MAX
    (heir,) = [row for row in rows if row["name"] == "gateway-0"]
    assert heir["incarnation"] == 2
    eventually(
        lambda: "gateway-0" in {report["actor"] for report in page(member, "crashes", 5.0)},
        "the crash report is served",
    )


@pytest.mark.parametrize("gateways", [2], indirect=True)
def test_another_gateway_serves_the_page_of_one_that_is_stuck(member: Member) -> None:
    view = member.view
    os.kill(view.sample("gateway-0").pid, signal.SIGSTOP)
    longest = 0.0
    kinds = ["tree", "top", "edges", "explain", "peek/gateway-0", "recorder/gateway-0"]
    states = set()
    while view.board.get("gateway-0", Cell.INCARNATION) == 1:
        for kind in kinds:
            began = time.monotonic()
            found = page(member, kind, 10.0)
            longest = max(longest, time.monotonic() - began)
            if kind == "top":
                states |= {r["state"] for r in found["actors"] if r["name"] == "gateway-0"}

    assert "frozen" in states
    assert longest < 3.5  # a peek gives the frozen one time to answer
