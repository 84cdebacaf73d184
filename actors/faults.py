"""Breaking an actor on purpose: `troupectl fault`, on members started with --enable-faults.

Orders come by the control mailbox. What has to happen on the actor's own thread goes into its
mailbox as a Fault; edges are broken in transport.edge_faults. Every fault ends by itself, after
FOR_SECONDS unless the order says `for`.
"""

from __future__ import annotations

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
NOISE_BYTES: Final = 100
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


class ActorFaults:
    """The faults of one actor."""

    def __init__(self, victim: Victim, *, enabled: bool) -> None:
        self._victim = victim
        self._enabled = enabled
        self._resumed = threading.Event()
        self._slow_until = 0.0
        self._verbs: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]] = {
            "crash": self._crash,
            "suspend": self._suspend,
            "hang": self._suffered,
            "resume": self._resume,
            "slow": self._slow,
            "flood": self._flood,
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
        """Wait before a message, as long as that was ordered."""
        if time.monotonic() < self._slow_until:
            time.sleep(self._victim.slow_seconds)
        else:
            self._victim.slow_seconds = 0.0

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
        self._slow_until = time.monotonic() + seconds
        self._victim.slow_seconds = min(1.0, float(request.get("ms") or 10.0) / 1000)
        return {"for": seconds, "ms": self._victim.slow_seconds * 1000}

    def _flood(self, request: dict[str, Any], _: float) -> dict[str, Any]:
        to = str(request.get("to"))
        if not self._victim.links.has(to):
            return {"error": f"{to!r} is no neighbour"}
        count = min(FLOOD_MAX, int(request.get("count") or FLOOD_COUNT))
        self._victim.inject(Fault("flood", to=to, count=count))
        return {"count": count}

    def _heal(self, _: dict[str, Any], __: float) -> dict[str, Any]:
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
