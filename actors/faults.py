"""Breaking an actor on purpose: `troupectl fault`, on members started with --enable-faults.

Orders come by the control mailbox. What has to happen on the actor's own thread goes into its
mailbox as a Fault; edges are broken in transport.edge_faults. Every fault ends by itself, after
FOR_SECONDS unless the order says `for`.
"""

from __future__ import annotations

import mmap
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from actors.messages import Noise
from actors.wire import WIRE
from raft.message import message
from transport.edge_faults import VERBS, EdgeFaults, Rule
from transport.links import Links

FOR_SECONDS: Final = 10.0
FOR_SECONDS_MAX: Final = 3600.0
CRASH_SECONDS: Final = 0.05
FLOOD_COUNT: Final = 1000
FLOOD_MAX: Final = 1_000_000
HOG_BYTES: Final = 256 << 20
HOG_BYTES_MAX: Final = 64 << 30
HOG_STEP_BYTES: Final = 4 << 20
NOISE_BYTES: Final = 100
SLOW_SECONDS_MAX: Final = 1.0
SLOW_ONE_IN: Final = 50
"""Of so many messages one is slow when a p99 was ordered: twice as many as lie above it."""
REFUSED: Final = "start the member with --enable-faults"
_TAGS: Final = {cls.__name__: tag for tag, cls in WIRE.items()}


class InjectedFaultError(Exception):
    """An actor was told to crash."""


@message
class Fault:
    """Local: suffer `verb` for `seconds`; a flood sends `count` messages `to` a neighbour."""

    verb: str
    seconds: float = 0.0
    to: str = ""
    count: int = 0


class Victim(Protocol):
    """What a fault is done to: actors.base.Actor."""

    links: Links
    slow_seconds: float

    def inject(self, message: Any) -> None:
        """Queue a local message; any thread may."""

    def note_progress(self) -> None:
        """Stamp the board."""


def hold_memory(size: int, until: float, let_go: threading.Event) -> None:
    """Take `size` bytes, touch each page, and give them back at `until` (CLOCK_MONOTONIC).

    Taken in steps, so that the actor's own thread gets on meanwhile. If there is no more the rest
    is left: who ends then is for the kernel to say.
    """
    areas: list[mmap.mmap] = []
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        while size > 0 and not let_go.is_set() and time.monotonic() < until:
            step = min(size, HOG_STEP_BYTES)
            try:
                area = mmap.mmap(-1, step, flags=kind)
            except OSError:
                break
            areas.append(area)
            area[:: mmap.PAGESIZE] = b"\1" * -(-step // mmap.PAGESIZE)
            size -= step
        let_go.wait(max(0.0, until - time.monotonic()))
    finally:
        for area in areas:
            area.close()


class ActorFaults:
    """The faults of one actor."""

    def __init__(self, victim: Victim, *, enabled: bool) -> None:
        self._victim = victim
        self._enabled = enabled
        self._resumed = threading.Event()
        self._let_go = threading.Event()
        self._slow_until = 0.0
        self._slow_one_in = 1
        self._slow_seen = 0
        self._verbs: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]] = {
            "crash": self._crash,
            "suspend": self._suspend,
            "hang": self._suffered,
            "resume": self._resume,
            "slow": self._slow,
            "flood": self._flood,
            "hog": self._hog,
            "heal": self._heal,
            **dict.fromkeys(VERBS, self._edge),
        }

    def order(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `fault`: {verb, for, ...}. Runs on the control thread."""
        if not self._enabled:
            return {"error": REFUSED}
        verb = self._verbs.get(str(request.get("verb")))
        if verb is None:
            return {"error": f"no such fault: {request.get('verb')!r}"}
        seconds = float(request.get("for") or FOR_SECONDS)
        if not 0 < seconds <= FOR_SECONDS_MAX:
            return {"error": f"a fault lasts between 0 and {FOR_SECONDS_MAX:g} s, not {seconds:g}"}
        return verb(request, seconds)

    def suffer(self, fault: Fault) -> None:
        """Carry out what must happen on the actor's own thread."""
        if fault.verb == "crash":
            raise InjectedFaultError("told to crash")
        until = time.monotonic() + fault.seconds
        if fault.verb == "suspend":
            while time.monotonic() < until and not self._resumed.wait(0.02):
                self._victim.note_progress()
        elif fault.verb == "hang":
            while time.monotonic() < until:
                pass
        elif fault.verb == "flood":
            noise = Noise(b"\0" * NOISE_BYTES)
            for _ in range(fault.count):
                self._victim.links.send(fault.to, noise)

    def be_slow(self) -> None:
        """Wait before a message, as long as that was ordered; for a p99 before one of a few."""
        if time.monotonic() >= self._slow_until:
            self._victim.slow_seconds = 0.0
            return
        if self._slow_seen % self._slow_one_in == 0:
            time.sleep(self._victim.slow_seconds)
        self._slow_seen += 1

    # --- orders -----------------------------------------------------------------------------------

    def _suffered(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        self._victim.inject(Fault(request["verb"], seconds))
        return {"for": seconds}

    def _crash(self, _: dict[str, Any], __: float) -> dict[str, Any]:
        """Crash once the answer to this order has left."""
        timer = threading.Timer(CRASH_SECONDS, self._victim.inject, (Fault("crash"),))
        timer.daemon = True
        timer.start()
        return {"in": CRASH_SECONDS}

    def _suspend(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        self._resumed.clear()
        return self._suffered(request, seconds)

    def _resume(self, _: dict[str, Any], __: float) -> dict[str, Any]:
        self._resumed.set()
        return {}

    def _slow(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        p99 = request.get("p99_ms")
        if p99 is not None and not 0 < float(p99) <= SLOW_SECONDS_MAX * 1000:
            return {"error": f"a p99 is at most {SLOW_SECONDS_MAX:g} s, and above 0"}
        wait = float(request.get("ms") or 10.0) if p99 is None else float(p99)
        self._slow_until = time.monotonic() + seconds
        self._slow_one_in = 1 if p99 is None else SLOW_ONE_IN
        self._slow_seen = 0
        self._victim.slow_seconds = min(SLOW_SECONDS_MAX, wait / 1000)
        return {"for": seconds, "ms" if p99 is None else "p99_ms": self._victim.slow_seconds * 1000}

    def _flood(self, request: dict[str, Any], _: float) -> dict[str, Any]:
        to = str(request.get("to"))
        if not self._victim.links.has(to):
            return {"error": f"{to!r} is no neighbour"}
        count = min(FLOOD_MAX, int(request.get("count") or FLOOD_COUNT))
        self._victim.inject(Fault("flood", to=to, count=count))
        return {"count": count}

    def _hog(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        given = request.get("bytes")
        size = HOG_BYTES if given is None else int(given)
        if not 0 < size <= HOG_BYTES_MAX:
            return {"error": f"a hog takes between 1 and {HOG_BYTES_MAX} bytes, not {size}"}
        held = (size, time.monotonic() + seconds, self._let_go)
        threading.Thread(target=hold_memory, args=held, name="hog", daemon=True).start()
        return {"for": seconds, "bytes": size}

    def _heal(self, _: dict[str, Any], __: float) -> dict[str, Any]:
        self._let_go.set()
        self._let_go = threading.Event()
        self._resumed.set()
        self._slow_until = 0.0
        faults = self._victim.links.faults
        if faults is not None:
            faults.rules = ()
        return {}

    def _edge(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        kind = request.get("type") or ""
        if kind and kind not in _TAGS:
            return {"error": f"no such message: {kind!r}"}
        links = self._victim.links
        now = time.monotonic()
        rule = Rule(
            verb=request["verb"],
            receiver=str(request.get("to") or ""),
            tag=_TAGS[kind] if kind else 0,
            until=now + seconds,
            ratio=float(request.get("ratio") or 1.0),
            seconds=float(request.get("ms") or 100.0) / 1000,
        )
        faults = links.faults or EdgeFaults(time.monotonic, random.SystemRandom().random)
        faults.rules = (*(old for old in faults.rules if old.until > now), rule)
        links.faults = faults
        return {"for": seconds}
