"""What is shown of an actor is right: a known flood, counted everywhere; a stuck one, named."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from control import crash, edges, fault, top
from control.__main__ import run
from control.observe import MemberView
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.supervisor.toys import eventually
from transport.counters import Cell, Edge, State

pytestmark = pytest.mark.e2e
FLOOD = 700
SENDER, RECEIVER = "applier", "compactor"
WINDOW_SECONDS = 10.0


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("figures"), flags=["--enable-faults"]) as made:
        yield made


@pytest.fixture
def view(member: Member) -> Iterator[MemberView]:
    yield member.view
    fault.inject(member.view, "heal", "")


@pytest.fixture
def client(member: Member) -> Iterator[Client]:
    with Client(member.endpoint) as made:
        yield made


def ctl(capsys: pytest.CaptureFixture[str], view: MemberView, *arguments: str) -> Any:
    assert run([*arguments, "--run-dir", str(view.run_dir), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def text(capsys: pytest.CaptureFixture[str], view: MemberView, *arguments: str) -> str:
    assert run([*arguments, "--run-dir", str(view.run_dir)]) == 0
    return capsys.readouterr().out


def got(member: Member, path: str) -> str:
    with urllib.request.urlopen(f"{member.url}{path}", timeout=10) as answer:
        found: str = answer.read().decode()
    return found


def named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (row,) = [row for row in rows if row["name"] == name]
    return row


def scraped(member: Member, metric: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in text_string_to_metric_families(got(member, "/metrics"))
        for sample in family.samples
        if sample.name == metric and labels.items() <= sample.labels.items()
    ]
    return found


def scrape(member: Member) -> dict[str, dict[str, list[tuple[dict[str, str], float]]]]:
    """Return what one scrape tells of actors: by actor, then by name without `trouped_actor_`."""
    found: dict[str, dict[str, list[tuple[dict[str, str], float]]]] = {}
    for family in text_string_to_metric_families(got(member, "/metrics")):
        for sample in family.samples:
            if sample.name.startswith("trouped_actor_"):
                of_actor = found.setdefault(sample.labels["actor"], {})
                name = sample.name.removeprefix("trouped_actor_")
                of_actor.setdefault(name, []).append((sample.labels, sample.value))
    return found


def figures(view: MemberView, name: str) -> dict[str, float]:
    """Return by their names in Prometheus what `troupectl top` makes its columns of."""
    sample = view.sample(name)
    edges_in = [view.edge(other, name) for other in view.board.names]
    return {
        "pid": sample.pid,
        "frozen": sample.state == "frozen",
        "incarnation": sample.incarnation,
        "restarts_total": sample.restarts,
        "mailbox_depth": sample.depth,
        "received_total": sample.handled + ended(view, name, Edge.HANDLED_ENDED),
        "received_requests_total": sample.handled_items,
        "sent_total": sample.sent + ended(view, name, Edge.SENT_ENDED),
        "dropped_total": sum(edge.dropped for edge in edges_in),
        "lost_total": sample.lost,
        "expired_total": sample.expired,
        "busy_seconds_total": sample.busy_ns / 1e9,
        "cpu_seconds_total": sample.cpu_seconds,
        "wait_seconds_count": sample.wait.count,
        "wait_seconds_sum": sample.wait.sum_ns / 1e9,
        "work_seconds_count": sample.work.count,
        "work_seconds_sum": sample.work.sum_ns / 1e9,
        "flush_seconds_count": sample.flush.count,
        "flush_seconds_sum": sample.flush.sum_ns / 1e9,
    }


def ended(view: MemberView, name: str, word: Edge) -> int:
    board = view.board
    return sum(
        board.words[
            (board.edge(name, other) if word is Edge.SENT_ENDED else board.edge(other, name)) + word
        ]
        for other in board.names
    )


def waits(view: MemberView) -> int:
    """Return what waits for the receiver, from all senders."""
    return sum(view.edge(sender, RECEIVER).depth for sender in view.board.names)


def suspend(view: MemberView, name: str) -> None:
    fault.inject(view, "suspend", name, **{"for": 120.0})
    eventually(lambda: view.sample(name).doing == "local message", f"{name} is suspended")


def test_a_known_flood_of_a_suspended_actor_is_shown_exactly_everywhere(
    member: Member, view: MemberView, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("raft-node", RECEIVER):  # the raft node is still, so that nobody else sends
        suspend(view, name)
    before, others = view.edge(SENDER, RECEIVER), waits(view)
    dropped, lost = view.sample(RECEIVER).dropped, view.sample(RECEIVER).lost

    fault.inject(view, "flood", f"{SENDER}:{RECEIVER}", count=FLOOD)
    eventually(lambda: view.edge(SENDER, RECEIVER).sent == before.sent + FLOOD, "all is sent")
    flooded = view.edge(SENDER, RECEIVER)
    assert edges.row(flooded, before, WINDOW_SECONDS)["per_second"] == FLOOD / WINDOW_SECONDS

    at_least, row = waits(view), named(ctl(capsys, view, "top"), RECEIVER)
    page = named(json.loads(got(member, "/debug/actors/top.json"))["actors"], RECEIVER)
    prometheus = scraped(member, "trouped_actor_mailbox_depth", actor=RECEIVER)
    oldest, current = (
        scraped(member, f"trouped_actor_{which}_message_seconds", actor=RECEIVER)
        for which in ("oldest", "current")
    )
    at_most = waits(view)
    (edge,) = [
        edge
        for edge in ctl(capsys, view, "edges")
        if (edge["sender"], edge["receiver"]) == (SENDER, RECEIVER)
    ]

    assert at_least == at_most == others + FLOOD
    for shown in (row, page):
        assert shown["mailbox_depth"] == others + FLOOD
        assert (shown["dropped"], shown["lost"]) == (dropped, lost)
        assert shown["handled_per_second"] == 0.0
        assert shown["doing"] == "local message"
    assert prometheus == others + FLOOD
    assert 0.0 < oldest <= view.sample(RECEIVER).oldest_seconds
    assert current > 0.0  # no upper bound: who is suspended says now and then that it lives
    assert (edge["sent"], edge["depth"]) == (before.sent + FLOOD, before.depth + FLOOD)
    assert edge["handled"] == before.handled
    assert (
        scraped(member, "trouped_edge_sent_total", **{"from": SENDER, "to": RECEIVER})
        == before.sent + FLOOD
    )

    samples = top.samples(view)
    fault.inject(view, "resume", RECEIVER)
    eventually(lambda: view.sample(RECEIVER).depth == 0, "it has handled all")
    handled = view.edge(SENDER, RECEIVER).handled
    shown = named(top.rates(view, samples, WINDOW_SECONDS), RECEIVER)
    assert handled == before.handled + before.depth + FLOOD
    assert shown["handled_per_second"] == (others + FLOOD) / WINDOW_SECONDS


def test_an_actor_stuck_in_a_message_is_shown_by_its_name_everywhere_then_replaced(
    member: Member, view: MemberView, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.answer(pb.PutRequest(key=b"a"), timeout=10.0).ok
    incarnation = view.board.get("applier", Cell.INCARNATION)
    fault.inject(view, "hang", "applier", type="Apply", **{"for": 120.0})
    answers = [client.begin(pb.PutRequest(key=b"b%d" % n)) for n in range(2)]
    eventually(lambda: view.sample("applier").doing_seconds > 0.05, "it hangs")

    row = named(ctl(capsys, view, "top"), "applier")
    table = text(capsys, view, "top", "--once")
    peeked = ctl(capsys, view, "peek", "applier")
    explained = ctl(capsys, view, "explain", "--limit=1000")["slowest"]
    still = view.board.get("applier", Cell.INCARNATION)

    assert still == incarnation, "the machine was too slow to look in time"
    assert row["doing"] == "Apply"
    assert row["doing_seconds"] > 0.05
    (line,) = [line for line in table.splitlines() if " applier " in line]
    assert "Apply" in line
    assert peeked["actor"]["doing"] == "Apply"
    verdicts = [one["verdict"] for one in explained if not one["finished"]]
    assert any("applier" in said and "Apply, running for" in said for said in verdicts), verdicts

    def is_back() -> bool:
        found = view.board.get("applier", Cell.INCARNATION) > incarnation
        return found and view.sample("applier").state == "running"

    eventually(is_back, "it is replaced")
    assert all(answer().ok for answer in answers)

    def reports() -> list[str]:
        return [
            found["name"]
            for found in crash.listing(view)
            if found["actor"] == "applier" and found["incarnation"] == incarnation
        ]

    eventually(lambda: len(reports()) == 1, "it has a report")
    report = crash.load(crash.crash_directory(Path(member.data_dir)), reports()[0])
    assert json.loads(got(member, f"/debug/actors/crash/{reports()[0]}.json")) == report
    assert scraped(member, "trouped_actor_incarnation", actor="applier") > incarnation
    assert scraped(member, "trouped_actor_cpu_seconds_total", actor="raft-node") > 0.0
    assert report["doing"] == "Apply"
    assert report["stuck_seconds"] > 1.0
    assert "in before" in report["traceback"]
    assert "Apply" in [record["type"] for record in report["recorder"]]
    stuck = [event for event in ctl(capsys, view, "events") if event["event"] == "stuck"]
    assert [event["doing"] for event in stuck] == ["Apply"]


def test_everything_that_top_shows_is_in_prometheus_for_every_actor(
    member: Member, view: MemberView, client: Client
) -> None:
    for _ in range(20):
        assert client.answer(pb.PutRequest(key=b"a"), timeout=10.0).ok
    os.kill(view.sample("applier").pid, signal.SIGSTOP)
    try:
        answer = client.begin(pb.PutRequest(key=b"b"), timeout=0.3)
        assert not answer().ok  # one that expires, with something left in a mailbox
        eventually(lambda: view.sample("applier").oldest_seconds > 0.3, "it waits")
        before = {name: figures(view, name) for name in view.actors()}
        scraped = scrape(member)
        after = {name: figures(view, name) for name in view.actors()}
        rows = {row["name"]: row for row in top.once(view, 0.05)}
    finally:
        os.kill(view.sample("applier").pid, signal.SIGCONT)

    assert set(scraped) == set(before)
    for name, told in scraped.items():
        for figure, low in before[name].items():
            (only,) = told[figure]
            assert low <= only[1] <= after[name][figure], f"{figure} of {name}"
        state = State(int(told["state"][0][1])).name.lower()
        assert rows[name]["state"] in (state, "frozen")
        memory = told["pss_bytes"][0][1]
        assert memory == pytest.approx(rows[name]["pss_bytes"], rel=0.2)
        assert told["oldest_message_seconds"][0][1] <= view.sample(name).oldest_seconds + 60.0
    assert scraped["applier"]["frozen"][0][1] == 1.0
    assert scraped["applier"]["oldest_message_seconds"][0][1] > 0.3
    assert scraped["gateway-0"]["expired_total"][0][1] >= 1.0
    assert {row["expired"] for row in rows.values() if row["name"] != "gateway-0"} == {0}
    shown = {
        (name, labels["message"])
        for name, told in scraped.items()
        for labels, value in told.get("current_message", [])
        if value == 1.0
    }
    eventually(lambda: client.answer(pb.PutRequest(key=b"c"), timeout=5.0).ok, "it goes on")
    assert all(name in rows and message for name, message in shown)


def test_the_type_of_the_current_message_is_in_prometheus(member: Member, view: MemberView) -> None:
    suspend(view, RECEIVER)

    assert scraped(member, "trouped_actor_current_message", actor=RECEIVER) == 1.0
    assert scraped(member, "trouped_actor_current_message", actor=RECEIVER, message="local message")
    assert scraped(member, "trouped_actor_current_message_seconds", actor=RECEIVER) > 0.0
