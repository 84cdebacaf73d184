"""Two faults that need no cooperation: an actor that hogs memory, and one that cannot start."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from actors.faults import HOG_BYTES_MAX, ActorFaults, hold_memory
from control.fault import inject
from control.observe import ObserveError
from supervisor.faults import RootFaults
from tests.client import Client
from tests.member import Member
from tests.supervisor.toys import eventually

PAGE = os.sysconf("SC_PAGESIZE")
MEBIBYTE = 1 << 20


def resident(pid: int | str = "self") -> int:
    """Return the bytes of memory that a process has touched."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def test_a_hog_touches_its_memory_and_gives_it_back_in_time() -> None:
    let_go, before = threading.Event(), resident()
    hog = threading.Thread(target=hold_memory, args=(64 * MEBIBYTE, time.monotonic() + 0.5, let_go))
    hog.start()

    eventually(lambda: resident() - before > 60 * MEBIBYTE, "it is touched")
    hog.join()

    assert resident() - before < 30 * MEBIBYTE


class Victim:
    """An actor on paper."""

    troubled = False
    links: Any = None

    def inject(self, message: Any) -> None:
        raise AssertionError(f"{message!r} is not for the actor's own thread")

    def note_progress(self) -> None:
        raise AssertionError("nobody waits")


def test_heal_ends_a_hog() -> None:
    before = threading.active_count()
    victim = Victim()
    victim.links = type("Links", (), {"faults": None})()
    faults = ActorFaults(victim, enabled=True)

    assert faults.order({"verb": "hog", "bytes": MEBIBYTE, "for": 60}) == {
        "for": 60.0,
        "bytes": MEBIBYTE,
    }
    assert threading.active_count() == before + 1
    faults.order({"verb": "heal"})

    eventually(lambda: threading.active_count() == before, "the hog has gone")


@pytest.mark.parametrize("size", [0, -1, HOG_BYTES_MAX + 1])
def test_a_hog_of_no_size_or_of_any_is_refused(size: int) -> None:
    faults = ActorFaults(Victim(), enabled=True)

    assert "a hog takes between" in faults.order({"verb": "hog", "bytes": size})["error"]


def test_an_order_to_crash_at_every_start_ends_by_itself_and_by_heal(tmp_path: Path) -> None:
    faults = RootFaults(tmp_path, {"applier": 0, "lessor": 0}.__getitem__, enabled=True)
    order = {"verb": "crash", "at_start": True}

    assert faults.order(order | {"actor": "applier", "for": 0.1}) == {"for": 0.1}
    assert faults.crashes_at_start("applier")
    assert not faults.crashes_at_start("lessor")
    eventually(lambda: not faults.crashes_at_start("applier"), "it is over")
    faults.order(order | {"actor": "lessor"})
    faults.order({"verb": "heal"})

    assert not faults.crashes_at_start("lessor")
    assert "no actor" in faults.order(order | {"actor": "nobody"})["error"]


@pytest.mark.e2e
def test_memory_is_taken_in_the_actor_that_was_named_and_a_start_may_fail_for_a_while(
    tmp_path: Path,
) -> None:
    with Member(tmp_path, flags=["--enable-faults"]) as member:
        applier = member.actors()["applier"]
        before = resident(applier)
        member.faults.hog("applier", 64 * MEBIBYTE, seconds=3.0)
        eventually(lambda: resident(applier) - before > 60 * MEBIBYTE, "it is taken")
        eventually(lambda: resident(applier) - before < 30 * MEBIBYTE, "it is given back")
        with pytest.raises(ObserveError, match="no actor 'zygote'"):
            inject(member.view, "hog", "zygote")

        incarnation = member.faults.incarnation("applier")
        member.faults.crash_at_start("applier", seconds=0.3)
        eventually(lambda: member.faults.incarnation("applier") > incarnation + 2, "it tries")
        with Client(member.endpoint) as client:
            eventually(lambda: client.put(b"colour", b"blue") > 1, "it runs again")

        assert "InjectedFaultError: told to crash at every start" in member.log
