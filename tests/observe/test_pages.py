"""`/debug/actors`: the JSON over HTTP, and the page in a real browser."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.actor_metrics import BUCKET_BITS, buckets
from actors.debug_pages import Rates
from control.__main__ import run
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.observe.chromium import Browser, chromium
from tests.supervisor.toys import eventually
from transport.latency import BUCKETS, Durations

SECRET = b"pa55word"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
browser_needed = pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("pages")) as made, Client(made.endpoint) as client:
        assert client.answer(pb.PutRequest(key=b"a", value=SECRET)).ok
        yield made


def get(member: Member, path: str) -> Any:
    with urllib.request.urlopen(f"{member.url}/debug/actors{path}", timeout=10) as answer:
        return json.load(answer)


def status(member: Member, path: str) -> int:
    try:
        with urllib.request.urlopen(f"{member.url}/debug/actors{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.e2e
def test_the_tree_and_top_tell_of_every_actor(member: Member) -> None:
    names = [child["name"] for child in get(member, "/tree.json")["children"]]
    top = get(member, "/top.json")

    assert [row["name"] for row in top["actors"]] == names
    assert {"applier", "raft-node", "gateway-0"} <= set(names)
    assert all(row["pss_bytes"] > 0 for row in top["actors"])


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["recorder", "state", "peek", "tap"])
def test_what_is_told_of_an_actor_holds_no_value(member: Member, kind: str) -> None:
    found = get(member, f"/{kind}/applier.json")

    assert SECRET.decode() not in json.dumps(found)
    if kind != "tap":
        assert found


@pytest.mark.e2e
def test_edges_events_slow_requests_and_crashes_are_served(member: Member) -> None:
    edges = {(edge["sender"], edge["receiver"]): edge for edge in get(member, "/edges.json")}
    explained = get(member, "/explain.json")

    assert edges["gateway-0", "raft-node"]["sent"] > 0
    assert "started" in {event["event"] for event in get(member, "/events.json")}
    assert {one["kind"] for one in explained["slowest"]} >= {"write"}
    assert get(member, "/crashes.json") == []
    assert get(member, "/slow.json")["slow"] == 0


@pytest.mark.e2e
@pytest.mark.parametrize(
    "path", ["/nothing.json", "/state/nobody.json", "/state", "/tree", "/../x"]
)
def test_what_there_is_not_is_not_found(member: Member, path: str) -> None:
    assert status(member, path) == 404


@pytest.mark.e2e
def test_explain_takes_over_http_what_the_command_takes(
    member: Member, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(member.endpoint) as client:
        for _ in range(12):
            assert client.answer(pb.PutRequest(key=b"a", value=SECRET)).ok

    everything = get(member, "/explain.json?limit=1000")
    totals = sorted((one["total_ns"] for one in everything["slowest"]), reverse=True)
    middle_ms = totals[5] / 1e6
    some = get(member, f"/explain.json?over={middle_ms}&limit=3")
    kept = partial(get, member, "/explain.json?kept&over=0&limit=1")
    command = ["explain", "--limit=2", "--json", "--run-dir", str(member.view.run_dir)]

    assert everything["explained"] == len(totals) >= 12
    assert [one["total_ns"] for one in some["slowest"]] == totals[:3]
    assert some["explained"] == 6
    assert get(member, "/explain.json?over=1000s")["slowest"] == []
    assert get(member, "/explain.json?over=0.000001s&limit=0")["slowest"] == []
    assert len(get(member, "/explain.json")["slowest"]) == 10
    assert set(kept()) == {"explained", "slow", "slowest"}
    with Client(member.endpoint) as client:
        again = pb.PutRequest(key=b"a", value=SECRET)
        eventually(lambda: client.answer(again).ok and kept()["slowest"], "a sample is kept")
    assert len(kept()["slowest"]) == 1
    some = get(member, f"/explain.json?over={middle_ms}&limit=3")
    assert run([*command, f"--over={middle_ms}ms"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "explained": some["explained"],
        "slowest": some["slowest"][:2],
    }


@pytest.mark.e2e
@pytest.mark.parametrize(
    "query", ["over=", "over=fast", "over=-1ms", "over=1h", "limit=", "limit=x", "limit=-1"]
)
def test_explain_refuses_what_is_no_duration_or_limit(member: Member, query: str) -> None:
    assert status(member, f"/explain.json?{query}") == 400


@pytest.mark.e2e
def test_nothing_but_reading_is_allowed(member: Member) -> None:
    request = urllib.request.Request(
        f"{member.url}/debug/actors/tree.json", method="POST", data=b""
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)

    assert caught.value.code == 405


@pytest.mark.e2e
def test_a_frozen_actor_is_told_of_while_it_is_frozen(member: Member) -> None:
    pid = member.actors()["applier"]
    os.kill(pid, signal.SIGSTOP)
    try:
        rows = {row["name"]: row for row in get(member, "/top.json")["actors"]}
        answer = get(member, "/state/applier.json")
    finally:
        os.kill(pid, signal.SIGCONT)

    assert rows["applier"]["state"] == "frozen"
    assert not answer["answers"]


@pytest.mark.e2e
def test_metrics_hold_the_histograms_of_every_actor(member: Member) -> None:
    with urllib.request.urlopen(f"{member.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()

    for name in ("wait", "work", "flush"):
        assert f'trouped_actor_{name}_seconds_count{{actor="raft-node"}}' in text
    assert 'trouped_actor_busy_seconds_total{actor="applier"}' in text


def test_buckets_are_cumulative_and_end_with_all() -> None:
    counts = [0] * BUCKETS
    counts[5] = 2
    counts[13] = 3
    counts[50] = 1

    found = buckets(Durations(tuple(counts), 0))

    assert [count for _, count in found] == [2.0] + [5.0] * (len(BUCKET_BITS) - 1) + [6.0]
    assert found[0][0] == str(4096 / 1e9)


def test_rates_are_of_half_a_second_or_more_once_there_is_a_past() -> None:
    taken = itertools.count()
    rates = Rates(lambda: next(taken))

    first = rates.pair()
    began = time.monotonic()
    while time.monotonic() - began < 0.6:
        rates.pair()
    before, now, seconds = rates.pair()

    assert first[0] < first[1]
    assert 0.5 <= seconds < 1.0
    assert before < now


@pytest.mark.e2e
@browser_needed
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (360, True)])
def test_the_page_shows_a_kill_within_two_seconds(
    member: Member, width: int, dark: bool, request: pytest.FixtureRequest
) -> None:
    stop = threading.Event()

    def load() -> None:
        with Client(member.endpoint) as client:
            while not stop.wait(0.005):
                client.answer(pb.PutRequest(key=b"a", value=SECRET), timeout=5.0)

    writing = threading.Thread(target=load)
    writing.start()
    try:
        with Browser(width, 900, dark=dark) as browser:
            browser.open(f"{member.url}/debug/actors")
            browser.until("document.querySelectorAll('#rows tr').length >= 7")
            browser.until("document.querySelectorAll('#events li').length >= 7")
            events = browser.evaluate("document.querySelectorAll('#events li').length")
            os.kill(member.actors()["applier"], signal.SIGKILL)

            took = browser.until(f"document.querySelectorAll('#events li').length > {events}")

            assert took < 2.0
            assert browser.evaluate(
                "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            )
            browser.until("document.querySelectorAll('#slow .waterfall').length > 0")
            browser.until("document.querySelectorAll('#crashes b').length > 0")
            if request.config.getoption("--rewrite"):
                browser.until("document.querySelectorAll('#rows path.line').length > 0")
                time.sleep(12)  # for sparklines worth looking at
                IMAGES.mkdir(parents=True, exist_ok=True)
                browser.screenshot(IMAGES / f"actors-{width}{'-dark' if dark else ''}.png")
            assert browser.problems == []
            assert {url.split("/")[2] for url in browser.requests} == {member.endpoint}
    finally:
        stop.set()
        writing.join()


@pytest.mark.e2e
@browser_needed
def test_the_page_is_worked_with_the_keyboard(member: Member) -> None:
    with Browser() as browser:
        browser.open(f"{member.url}/debug/actors")
        browser.until("document.querySelectorAll('#rows tr').length >= 7")

        browser.press("j")
        browser.press("Enter")
        browser.until("!document.getElementById('detail').hidden")
        browser.until("document.getElementById('inside').textContent.includes('applied_index')")
        browser.press("3")
        browser.until("document.querySelectorAll('#inside table tr').length > 3")
        name = browser.evaluate("document.getElementById('h-detail').textContent")
        browser.press("4")
        browser.until("tap !== null && tap.readyState === EventSource.OPEN")
        with Client(member.endpoint) as client:
            assert client.answer(pb.PutRequest(key=b"a", value=SECRET)).ok
            browser.until("document.getElementById('inside').textContent.includes('Apply #')")
        assert SECRET.decode() not in browser.evaluate("document.body.textContent")
        browser.press("Escape")
        browser.until("document.getElementById('detail').hidden && tap === null")

        assert name == "applier"
        assert browser.problems == []
