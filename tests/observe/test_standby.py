"""A lone gateway has a standby: pages, metrics and new clients are served while it is stuck."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from actors.balance import TOGETHER_CONNECTIONS
from actors.metrics import GatewayMetric
from control import fault
from control.observe import MemberView
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member, free_port
from tests.observe.chromium import Browser, chromium
from tests.supervisor.toys import eventually
from transport.counters import Cell

pytestmark = pytest.mark.e2e
GATEWAY, STANDBY = "gateway-0", "gateway-1"
CORES = 2
"""As many as get one gateway and a standby."""
ANSWER_SECONDS_MAX = 1.0
UPDATE_SECONDS_MAX = 2.5
SETTLED_SECONDS = 0.5
"""Long enough for everybody to see on the board who lives."""
PAGES = (
    "/metrics", "/health", "/debug/actors", "/debug/actors/top.json", "/debug/actors/tree.json",
    "/debug/actors/edges.json", "/debug/actors/events.json", "/debug/actors/crashes.json",
    "/debug/actors/explain.json", "/debug/actors/recorder/gateway-0.json",
    "/debug/actors/state/gateway-0.json", "/debug/actors/peek/gateway-0.json",
)  # fmt: skip


@contextmanager
def few_cores() -> Iterator[None]:
    """Give this thread, and whom it starts, no more cores than a standby comes with."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:CORES])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def metrics() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def member(metrics: str) -> Iterator[Member]:
    """A member that was not told how many gateways it has.

    Its data is in memory, if there is such: it is timed here, and a disk that others use too may
    hold up one sync for a second.
    """
    flags = ["--enable-faults", f"--listen-metrics-urls={metrics}"]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        TemporaryDirectory(dir=memory) as folder,
        few_cores(),
        Member(Path(folder), flags=flags) as made,
    ):
        yield made


@pytest.fixture
def view(member: Member) -> Iterator[MemberView]:
    """All is well at the beginning, and nobody is stuck for longer than the test."""
    found = member.view
    eventually(lambda: all_serve(found), "both serve")
    time.sleep(SETTLED_SECONDS)
    yield found
    fault.inject(found, "heal", "")


def all_serve(view: MemberView) -> bool:
    ready = Cell.METRICS + GatewayMetric.READY
    return all(
        view.sample(name).state == "running" and view.board.get(name, ready)
        for name in (GATEWAY, STANDBY)
    )


def stop(view: MemberView, name: str) -> None:
    os.kill(view.sample(name).pid, signal.SIGSTOP)


def hang(view: MemberView, name: str) -> None:
    fault.inject(view, "hang", name, **{"for": 120.0})


def got(url: str, timeout: float = 10.0) -> tuple[bytes, float]:
    """Return a page, over a connection of its own, and the seconds it took."""
    began = time.monotonic()
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read(), time.monotonic() - began


def put(member: Member) -> float:
    """Put as a new client; return the seconds it took."""
    began = time.monotonic()
    with Client(member.endpoint) as client:
        assert client.answer(pb.PutRequest(key=b"a"), wait=True).ok
    return time.monotonic() - began


def clients_of(view: MemberView, name: str) -> int:
    return view.board.get(name, Cell.CONNECTIONS)


@pytest.mark.parametrize("stick", [stop, hang])
def test_pages_and_new_clients_are_served_all_the_time_a_gateway_is_stuck(
    member: Member, view: MemberView, metrics: str, stick: Callable[[MemberView, str], None]
) -> None:
    incarnation = view.board.get(GATEWAY, Cell.INCARNATION)
    took: dict[str, list[float]] = {}
    states = set()

    stick(view, GATEWAY)
    while view.board.get(GATEWAY, Cell.INCARNATION) == incarnation:
        for page in PAGES:
            for address in (metrics, member.url):
                found, seconds = got(address + page)
                took.setdefault(page, []).append(seconds)
                if page.endswith("/top.json"):
                    rows = {row["name"]: row["state"] for row in json.loads(found)["actors"]}
                    states.add(rows[GATEWAY])
                elif page == "/health":
                    assert json.loads(found)["health"] == "true"
        took.setdefault("put", []).append(put(member))

    longest = {page: round(max(seconds), 3) for page, seconds in took.items()}
    assert set(longest) == {*PAGES, "put"}
    assert max(longest.values()) < ANSWER_SECONDS_MAX, longest
    assert states & {"frozen", "running"}


def test_a_suspended_gateway_says_that_it_lives_and_is_not_waited_for(
    member: Member, view: MemberView, metrics: str
) -> None:
    incarnation = view.board.get(GATEWAY, Cell.INCARNATION)
    fault.inject(view, "suspend", GATEWAY, **{"for": 120.0})
    began = time.monotonic()
    took = []
    while time.monotonic() - began < 5.0:  # longer than root waits for who shows no progress
        took += [got(url + page)[1] for page in PAGES[:4] for url in (metrics, member.url)]
        took.append(put(member))

    assert view.board.get(GATEWAY, Cell.INCARNATION) == incarnation
    assert max(took) < ANSWER_SECONDS_MAX


def test_who_came_to_the_standby_stays_and_the_next_ones_go_to_the_gateway(
    member: Member, view: MemberView
) -> None:
    assert put(member) < ANSWER_SECONDS_MAX
    eventually(lambda: clients_of(view, GATEWAY) == clients_of(view, STANDBY) == 0, "nobody")
    stop(view, GATEWAY)
    time.sleep(SETTLED_SECONDS)
    with Client(member.endpoint) as early:
        assert early.answer(pb.PutRequest(key=b"a"), wait=True).ok
        assert clients_of(view, STANDBY) == 1
        os.kill(view.sample(GATEWAY).pid, signal.SIGCONT)
        time.sleep(SETTLED_SECONDS)

        late = [Client(member.endpoint) for _ in range(5)]
        answers = [one.answer(pb.PutRequest(key=b"b"), wait=True).ok for one in (*late, early)]
        counts = clients_of(view, GATEWAY), clients_of(view, STANDBY)
        for one in late:
            one.close()

    assert all(answers)
    assert counts == (len(late), 1)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < CORES, reason="one core is nobody's to share")
def test_many_clients_are_shared_and_none_of_a_crowd_waits(
    member: Member, view: MemberView
) -> None:
    eventually(lambda: clients_of(view, GATEWAY) == clients_of(view, STANDBY) == 0, "nobody")
    crowd = 6 * TOGETHER_CONNECTIONS

    def shares() -> list[int]:
        return [clients_of(view, name) for name in (GATEWAY, STANDBY)]

    with ExitStack() as clients:
        made = [clients.enter_context(Client(member.endpoint)) for _ in range(crowd)]
        began = time.monotonic()
        asked = [one.begin(pb.PutRequest(key=b"a"), wait=True) for one in made]
        answers = [answer().ok for answer in asked]
        took = time.monotonic() - began
        eventually(lambda: sum(shares()) == crowd, "all are counted, each once")
        least = min(shares())

    assert all(answers)
    assert took < ANSWER_SECONDS_MAX
    assert least >= crowd // 3


def test_scrapes_are_the_standbys_and_clients_the_gateways(
    member: Member, view: MemberView, metrics: str
) -> None:
    def work() -> list[int]:
        return [view.sample(name).handled_items for name in (GATEWAY, STANDBY)]

    with Client(member.endpoint) as client:
        assert client.answer(pb.PutRequest(key=b"a"), wait=True).ok
        before = work()
        for _ in range(20):
            assert client.answer(pb.PutRequest(key=b"a")).ok
        after = work()
        stop(view, GATEWAY)
        try:
            scraped = [got(metrics + "/metrics")[1] for _ in range(5)]  # none of them waits
        finally:
            os.kill(view.sample(GATEWAY).pid, signal.SIGCONT)

    assert max(scraped) < 0.25  # less than it takes to see that somebody stands still
    assert after[0] - before[0] >= 20
    assert after[1] == before[1]  # the applier tells a standby without clients nothing


def test_a_killed_or_stopped_standby_harms_nobody(
    member: Member, view: MemberView, metrics: str
) -> None:
    took: list[float] = []
    over = threading.Event()

    def write(client: Client) -> None:
        while not over.is_set():
            began = time.monotonic()
            assert client.answer(pb.PutRequest(key=b"a")).ok
            took.append(time.monotonic() - began)

    with Client(member.endpoint) as client:
        assert client.answer(pb.PutRequest(key=b"a"), wait=True).ok
        assert clients_of(view, GATEWAY) == 1
        writer = threading.Thread(target=write, args=(client,))
        writer.start()
        os.kill(view.sample(STANDBY).pid, signal.SIGKILL)
        killed = [got(url + page)[1] for page in PAGES for url in (metrics, member.url)]
        eventually(lambda: all_serve(view), "it is back")
        time.sleep(SETTLED_SECONDS)
        stop(view, STANDBY)
        stopped = [got(url + page)[1] for page in PAGES for url in (metrics, member.url)]
        new = put(member)
        over.set()
        writer.join()

    assert max(killed) < ANSWER_SECONDS_MAX
    assert max(stopped) < ANSWER_SECONDS_MAX
    assert max(new, *took) < ANSWER_SECONDS_MAX


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("stick", [stop, hang])
@pytest.mark.parametrize("where", ["client", "metrics"])
def test_an_open_page_goes_on_through_another_gateway_when_its_own_is_stuck(
    member: Member,
    view: MemberView,
    metrics: str,
    where: str,
    stick: Callable[[MemberView, str], None],
) -> None:
    url, own = {"client": (member.url, GATEWAY), "metrics": (metrics, STANDBY)}[where]
    count = "document.querySelectorAll('#events li').length"
    with Browser() as browser:
        browser.open(f"{url}/debug/actors")
        browser.until("document.querySelectorAll('#rows tr').length >= 8")
        browser.until(f"{count} >= 8")
        events = browser.evaluate(count)
        browser.evaluate("globalThis.shown = 0")
        browser.evaluate(
            "new MutationObserver(() => { shown = performance.now(); })"
            ".observe(document.getElementById('rows'), { childList: true }) ?? 0"
        )
        browser.until("shown > 0")

        stick(view, own)
        began = time.monotonic()
        longest = 0.0
        os.kill(view.sample("compactor").pid, signal.SIGKILL)
        while time.monotonic() - began < 3.5:  # root replaces it after four
            longest = max(longest, browser.evaluate("performance.now() - shown") / 1000)
            if browser.evaluate(f"{count} > {events}"):
                events = 1 << 30
                told = time.monotonic() - began
            time.sleep(0.02)

        assert events == 1 << 30, "the kill is not told of"
        assert told < UPDATE_SECONDS_MAX
        assert longest < UPDATE_SECONDS_MAX
