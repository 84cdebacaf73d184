"""`troupectl state gateway-0`: connections, streams, watchers, slowest cursors: exact figures."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from control.__main__ import run
from control.state import state
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.lease.leases import keep_alives
from tests.member import Member
from tests.supervisor.toys import eventually
from tests.watch.streams import Watches

pytestmark = pytest.mark.e2e
VALUE = b"x" * 200_000
WRITTEN = 60
"""Of these values more than what client and kernel take in unread."""


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    with Member(tmp_path, flags=["--gateways=1"]) as made:
        yield made


def told(member: Member) -> dict[str, Any]:
    found = state(member.view, "gateway-0")
    assert found["answers"]
    inner: dict[str, Any] = found["state"]
    return inner


def test_streams_connections_and_watchers_are_told_exactly(
    member: Member, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = {
        "connections": 0,
        "calls": {},
        "watch_streams": 0,
        "watchers": {"all": 0, "behind": 0, "slowest": []},
        "pending": 0,
    }

    def is_idle() -> bool:
        return nothing.items() <= told(member).items()

    eventually(is_idle, "who waited for the start has gone, and what the start proposes is done")
    with ExitStack() as stack:
        client = stack.enter_context(Client(member.endpoint))
        for lease in (7, 8):
            grant = pb.LeaseGrantRequest(ID=lease, TTL=60)
            assert client.call(grant, pb.LeaseGrantResponse).TTL == 60
        watches = stack.enter_context(Watches(member.endpoint))
        first, second = watches.stream(), watches.stream()
        for key in (b"a", b"b"):
            assert first.watch(key).created
        assert second.watch(b"a", start_revision=1_000_000).created
        for lease in (7, 8):
            assert stack.enter_context(keep_alives(member.endpoint)).renew(lease) == 60

        wanted = {
            "connections": 4,  # of the client, of both watch streams, of each keep-alive
            "calls": {"LeaseKeepAlive": 2, "Watch": 2},
            "watch_streams": 2,
            "watchers": {"all": 3, "behind": 0, "slowest": []},
            "pending": 0,
        }
        eventually(
            lambda: all(told(member)[name] == value for name, value in wanted.items()),
            f"it tells {wanted}",
        )
        command = ["state", "gateway-0", "--run-dir", str(member.view.run_dir)]
        assert run([*command, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)["state"]
        assert wanted.items() <= printed.items()
        assert run(command) == 0
        assert "calls.LeaseKeepAlive" in capsys.readouterr().out

    eventually(is_idle, "all of it is gone")


def test_a_client_that_does_not_read_is_the_slowest_cursor(member: Member) -> None:
    with Client(member.endpoint) as client, Watches(member.endpoint) as watches:
        lazy, quick = watches.stream(), Watches(member.endpoint)
        with quick:
            reading = quick.stream()
            assert lazy.watch(b"a").created
            assert reading.watch(b"a").created
            lazy.pause()
            revisions = [client.put(b"a", VALUE) for _ in range(WRITTEN)]
            assert [found[0] for found in reading.events(WRITTEN)] == revisions

            eventually(lambda: told(member)["watchers"]["behind"] == 1, "one is behind")
            watchers = told(member)["watchers"]
            (slowest,) = watchers["slowest"]

            assert watchers["all"] == 2
            assert (slowest["watchers"], slowest["why"]) == (1, "not read")
            assert revisions[0] < slowest["next"] <= revisions[-1]
            assert slowest["behind"] == revisions[-1] + 1 - slowest["next"]
            # One event for each revision: both got what comes before `next`, one all the rest.
            sent = WRITTEN + slowest["next"] - revisions[0]
            eventually(lambda: _events_sent(member) == sent, f"{sent} events were sent")
            assert told(member)["watchers"] == watchers

            lazy.go_on()
            assert [found[0] for found in lazy.events(WRITTEN)] == revisions
            eventually(lambda: told(member)["watchers"]["slowest"] == [], "it has caught up")
            assert told(member)["watchers"]["behind"] == 0


def _events_sent(member: Member) -> int:
    with urllib.request.urlopen(f"{member.url}/metrics", timeout=10) as answer:
        lines: list[str] = answer.read().decode().splitlines()
    (line,) = [one for one in lines if one.startswith("etcd_debugging_mvcc_events_total ")]
    return int(float(line.split()[1]))
