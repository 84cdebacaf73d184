"""Breaking a real member with troupectl: who is hit is seen, and it heals by itself."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.faults import ActorFaults, Fault, InjectedFaultError
from actors.messages import Apply
from actors.observing import FLUSH_TAG
from actors.wire import WIRE
from control import explain, fault, top
from control.__main__ import run
from control.observe import MemberView, ObserveError
from control.run_directory import find_run_directory
from etcdpb import rpc_pb2 as pb
from supervisor.faults import RootFaults
from supervisor.stuck import is_stopped
from tests.client import Client
from tests.member import Member
from tests.supervisor.toys import eventually
from transport.counters import Cell

APPLY = next(tag for tag, cls in WIRE.items() if cls is Apply)
CHILDREN = ("transport", "applier", "raft-node", "lessor", "compactor", "snapshotter", "gateway-0")
CRASHES = [
    *(("crash", name) for name in CHILDREN),
    *(pytest.param("kill", name, marks=pytest.mark.slow) for name in CHILDREN),
]


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    flags = ["--enable-faults", "--gateways=1"]
    with Member(tmp_path_factory.mktemp("faults"), flags=flags) as made:
        yield made


@pytest.fixture
def view(member: Member) -> Iterator[MemberView]:
    found = MemberView(find_run_directory(str(member.data_dir), os.environ, ""))
    yield found
    fault.inject(found, "heal", "")


@pytest.fixture
def client(member: Member) -> Iterator[Client]:
    with Client(member.endpoint) as made:
        yield made


def put(client: Client, timeout: float = 10.0) -> float:
    """Return how many seconds a put takes; it must succeed."""
    began = time.monotonic()
    answer = client.answer(pb.PutRequest(key=b"a", value=b"v"), timeout=timeout)
    assert answer.ok, str(answer)
    return time.monotonic() - began


def incarnation(view: MemberView, name: str) -> int:
    return view.board.get(name, Cell.INCARNATION)


def until_again(view: MemberView, name: str, before: int, verb: str) -> None:
    def is_back() -> bool:
        return incarnation(view, name) > before and view.sample(name).state == "running"

    eventually(is_back, f"{name} runs again after {verb}")


@pytest.mark.e2e
@pytest.mark.parametrize(("verb", "name"), CRASHES)
def test_an_actor_that_was_killed_or_crashed_comes_back(
    view: MemberView, client: Client, name: str, verb: str
) -> None:
    before = incarnation(view, name)

    fault.inject(view, verb, name)
    until_again(view, name, before, verb)

    eventually(lambda: client.answer(pb.PutRequest(key=b"a")).ok, "a put succeeds")


@pytest.mark.e2e
def test_a_frozen_actor_thaws_by_itself(view: MemberView, client: Client) -> None:
    before = incarnation(view, "applier")
    fault.inject(view, "freeze", "applier", **{"for": 0.5})

    assert view.sample("applier").state == "frozen"
    assert put(client) > 0.2
    assert incarnation(view, "applier") == before


@pytest.mark.e2e
@pytest.mark.parametrize("verb", ["drop", "duplicate", "reorder", "delay"])
@pytest.mark.parametrize(
    "edge",
    [
        "raft-node:applier",
        pytest.param("gateway-0:raft-node", marks=pytest.mark.slow),
        pytest.param("applier:gateway-0", marks=pytest.mark.slow),
        pytest.param("raft-node:", marks=pytest.mark.slow),
    ],
)
def test_a_put_survives_a_broken_edge(
    view: MemberView, client: Client, verb: str, edge: str
) -> None:
    fault.inject(view, verb, edge, ratio=0.5, ms=50, **{"for": 0.4})

    for _ in range(3):
        assert put(client) < 8.0


@pytest.mark.e2e
def test_an_answer_whose_message_is_lost_is_found_and_explained_so(
    view: MemberView, client: Client
) -> None:
    fault.inject(view, "drop", "applier:gateway-0", ratio=1.0, **{"for": 5.0})
    since = time.monotonic_ns()

    assert 0.4 < put(client) < 4.0  # before anything is sent on that edge again

    one = next(
        one for one in explain.explain(view, limit=1000)["slowest"] if one["began_ns"] >= since
    )
    assert one["finished"]
    assert one["verdict"].endswith("in gateway-0, until the answer was found in the database")


@pytest.mark.e2e
def test_a_slow_actor_is_slow_for_as_long_as_was_said(view: MemberView, client: Client) -> None:
    put(client)
    fault.inject(view, "slow", "applier", ms=300, **{"for": 1.0})

    assert put(client) > 0.2
    eventually(lambda: put(client) < 0.2, "it is quick again")


@pytest.mark.e2e
def test_a_p99_that_was_ordered_is_seen_and_the_median_stays(
    view: MemberView, client: Client
) -> None:
    fault.inject(view, "slow", "raft-node", p99_ms=100.0, **{"for": 20.0})
    before = view.sample("raft-node").work

    for _ in range(200):
        put(client)

    work = view.sample("raft-node").work.since(before)
    p50, p99 = work.quantile(0.5), work.quantile(0.99)
    assert p50 is not None
    assert p99 is not None
    assert p50 < 20_000_000
    assert 50_000_000 < p99 < 200_000_000  # to a factor of two, as histograms are


@pytest.mark.e2e
def test_what_a_client_gave_up_waiting_for_is_shown_as_expired(
    view: MemberView, client: Client
) -> None:
    before = view.sample("gateway-0").expired
    fault.inject(view, "suspend", "applier", **{"for": 30.0})
    eventually(lambda: view.sample("applier").doing == "local message", "it is suspended")

    for _ in range(3):
        assert not client.answer(pb.PutRequest(key=b"a"), timeout=0.2).ok

    eventually(lambda: view.sample("gateway-0").expired == before + 3, "three have expired")
    fault.inject(view, "resume", "applier")
    put(client)
    rows = {row["name"]: row["expired"] for row in top.once(view, 0.01)}
    assert rows["gateway-0"] == before + 3
    assert rows["applier"] == 0


@pytest.mark.e2e
def test_what_waits_for_an_applier_at_work_is_not_proposed_again(
    member: Member, view: MemberView, client: Client
) -> None:
    def reproposed() -> str:
        with urllib.request.urlopen(f"{member.url}/metrics", timeout=10) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        return next(line for line in lines if line.startswith("trouped_reproposed_total"))

    put(client)
    before = reproposed()
    fault.inject(view, "hang", "applier", **{"for": 2.5})
    eventually(lambda: view.sample("applier").doing == "local message", "it is at work")

    assert put(client) > 1.6  # two retries were due

    assert reproposed() == before


@pytest.mark.e2e
def test_a_slow_disk_is_explained_and_heals(view: MemberView, client: Client) -> None:
    put(client)
    fault.inject(view, "fsync-slow", "", ms=250, **{"for": 1.0})
    began_ns = time.monotonic_ns()

    assert put(client) > 0.2

    found = explain.explain(view, limit=1000)["slowest"]
    slowest = next(one for one in found if one["began_ns"] > began_ns)
    assert slowest["total_ns"] > 200_000_000
    assert slowest["verdict"].endswith("in raft-node, syncing the log")
    eventually(lambda: put(client) < 0.2, "the disk is healthy")


@pytest.mark.e2e
def test_troupectl_injects_and_says_what_it_did(
    view: MemberView, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fault", "slow", "lessor", "--ms=5", f"--run-dir={view.run_dir}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"for": 10.0, "ms": 5.0}

    assert run(["fault", "crash", "nobody", f"--run-dir={view.run_dir}"]) == 1
    assert "no actor 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "target", "words"),
    [
        ("kill", "nobody", "no actor"),
        ("drop", "applier:raft-node", "no such message"),
        ("flood", "applier:transport", "no neighbour"),
        ("slow", "applier", "a fault lasts between"),
    ],
)
@pytest.mark.e2e
def test_what_makes_no_sense_is_refused(
    view: MemberView, verb: str, target: str, words: str
) -> None:
    with pytest.raises(ObserveError, match=words):
        fault.inject(view, verb, target, type="Nonsense", **{"for": -1.0 if verb == "slow" else 1})


class Victim:
    """An actor on paper."""

    troubled = False

    def __init__(self) -> None:
        self.links: Any = self
        self.faults: Any = None
        self.injected: list[Any] = []
        self.sent: list[str] = []
        self.progress = 0

    def has(self, name: str) -> bool:
        return name == "applier"

    def send(self, to: str, _: object) -> None:
        self.sent.append(to)

    def inject(self, message: Any) -> None:
        self.injected.append(message)

    def note_progress(self) -> None:
        self.progress += 1


def test_without_the_flag_every_fault_is_refused(tmp_path: Path) -> None:
    victim = Victim()
    actor = ActorFaults(victim, enabled=False)
    root = RootFaults(tmp_path, lambda _: os.getpid(), enabled=False)

    for verb in fault.VERBS:
        assert "--enable-faults" in actor.order({"verb": verb})["error"]
        assert "--enable-faults" in root.order({"verb": verb, "actor": "x"})["error"]

    assert victim.injected == []
    assert list(tmp_path.iterdir()) == []


def test_a_p99_slows_one_message_of_fifty(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("actors.faults.time.sleep", slept.append)
    victim = Victim()
    faults = ActorFaults(victim, enabled=True)

    assert faults.order({"verb": "slow", "p99_ms": 300}) == {"for": 10.0, "p99_ms": 300.0}
    for _ in range(1000):
        faults.before(APPLY)
        faults.before(FLUSH_TAG)

    assert slept == [0.3] * 20
    faults.order({"verb": "slow", "ms": 5})
    faults.before(APPLY)
    faults.before(APPLY)
    assert slept[20:] == [0.005, 0.005]


@pytest.mark.parametrize("p99", [0, -1, 1001])
def test_a_p99_that_root_would_take_for_stuck_is_refused(p99: float) -> None:
    victim = Victim()

    assert "error" in ActorFaults(victim, enabled=True).order({"verb": "slow", "p99_ms": p99})
    assert not victim.troubled


@pytest.mark.parametrize(
    ("text", "found"), [("200ms", 200.0), ("0.5s", 500.0), ("250us", 0.25), ("7", 7.0)]
)
def test_durations_are_read_as_troupectl_writes_them(text: str, found: float) -> None:
    assert fault.milliseconds(text) == found


@pytest.mark.parametrize("text", ["", "fast", "1m", "-1ms", "1 s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        fault.milliseconds(text)


def test_a_crash_is_an_exception_on_the_actors_own_thread() -> None:
    victim = Victim()
    faults = ActorFaults(victim, enabled=True)

    assert "error" not in faults.order({"verb": "crash"})
    eventually(lambda: bool(victim.injected), "the order has reached the actor")

    with pytest.raises(InjectedFaultError):
        faults.suffer(victim.injected[0])


def test_a_hang_in_a_message_waits_for_that_message_and_ends_by_resume() -> None:
    victim = Victim()
    faults = ActorFaults(victim, enabled=True)
    assert faults.order({"verb": "hang", "type": "Apply", "for": 60}) == {
        "for": 60.0,
        "type": "Apply",
    }
    assert victim.troubled
    faults.before(APPLY + 1)

    hung = threading.Thread(target=faults.before, args=(APPLY,), daemon=True)
    hung.start()
    hung.join(0.05)
    looping = hung.is_alive()
    faults.order({"verb": "heal"})
    hung.join(5.0)

    assert looping
    assert not hung.is_alive()
    faults.before(APPLY)
    assert not victim.troubled


def test_a_flooding_actor_says_that_it_lives() -> None:
    victim = Victim()
    faults = ActorFaults(victim, enabled=True)
    faults.order({"verb": "flood", "to": "applier", "count": 1000})

    faults.suffer(victim.injected.pop())

    assert victim.sent == ["applier"] * 1000
    assert victim.progress == 4


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"verb": "drop", "to": "aplier"}, "'aplier' is no neighbour"),
        ({"verb": "flood", "to": "aplier"}, "'aplier' is no neighbour"),
        ({"verb": "flood"}, "FROM:TO"),
        ({"verb": "flood", "to": "applier", "count": 0}, "count must be above 0"),
        ({"verb": "delay", "ms": -5}, "ms must be above 0"),
        ({"verb": "slow", "ms": 0}, "ms must be above 0"),
        ({"verb": "slow", "ms": 1001}, "at most 1000"),
        ({"verb": "drop", "ratio": 0}, "ratio must be above 0"),
        ({"verb": "drop", "ratio": 1.5}, "at most 1,"),
        ({"verb": "drop", "ratio": float("nan")}, "not nan"),
        ({"verb": "drop", "type": "Aply"}, "no such message: 'Aply'"),
        ({"verb": "hang", "type": "Aply"}, "no such message: 'Aply'"),
        ({"verb": "suspend", "for": 0}, "a fault lasts between 0 and 3600 s, not 0 s"),
        ({"verb": "suspend", "for": 3601}, "not 3601 s"),
    ],
)
def test_orders_out_of_bounds_are_refused_in_a_line(order: dict[str, Any], words: str) -> None:
    victim = Victim()

    answer = ActorFaults(victim, enabled=True).order(order)

    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert victim.injected == []
    assert victim.faults is None


def test_heal_thaws_and_an_earlier_freeze_does_not_end_a_later_one(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        faults = RootFaults(tmp_path, lambda _: sleeper.pid, enabled=True)
        order = {"verb": "freeze", "actor": "applier"}

        faults.order(order | {"for": 60})
        eventually(lambda: is_stopped(sleeper.pid), "it is stopped")
        faults.order({"verb": "heal"})
        eventually(lambda: not is_stopped(sleeper.pid), "it runs")
        faults.order(order | {"for": 0.1})
        _, first = faults._frozen["applier"]
        faults.order(order | {"for": 60})
        first.join(5.0)

        assert not first.is_alive()
        eventually(lambda: is_stopped(sleeper.pid), "the second is not")
        faults.order(order | {"for": 0.1})
        eventually(lambda: not is_stopped(sleeper.pid), "it thaws by itself")
    finally:
        sleeper.kill()
        sleeper.wait()


def test_heal_goes_on_behind_an_actor_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    def ask(_: Any, name: str, cmd: str, *__: Any, **known: Any) -> dict[str, Any] | None:
        asked.append((name, known.get("verb", cmd)))
        return None if name == "applier" else {}

    class View:
        class board:  # noqa: N801 - as an attribute
            names = ("root", "applier", "transport", "lessor")

        def actors(self) -> list[str]:
            return ["applier", "transport", "lessor"]

    monkeypatch.setattr(fault, "ask_actor", ask)
    found = fault.inject(View(), "heal", "")  # type: ignore[arg-type]

    assert asked == [
        ("root", "heal"),
        ("applier", "heal"),
        ("transport", "heal"),
        ("transport", "mend"),
        ("lessor", "heal"),
    ]
    assert found["applier"] == {"error": "applier does not answer"}
    assert found["lessor"] == {}


def test_a_suspended_actor_stamps_its_progress_and_wakes_when_told() -> None:
    victim = Victim()
    faults = ActorFaults(victim, enabled=True)
    faults.suffer(Fault("suspend", 0.1))
    assert victim.progress > 0

    faults.order({"verb": "resume"})
    began = time.monotonic()
    faults.suffer(Fault("suspend", 60.0))

    assert time.monotonic() - began < 5.0
