"""Breaking an actor on purpose: `troupectl fault`, on members started with --enable-faults.

Orders come by the control mailbox. What has to happen on the actor's own thread goes into its
mailbox as a Fault; edges are broken in transport.edge_faults. Every fault ends by itself, after
FOR_SECONDS unless the order says `for`, and at most after FOR_SECONDS_MAX.
"""

from __future__ import annotations

import mmap
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from actors.messages import Noise
from actors.observing import FLUSH_TAG
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
FLOOD_STEP: Final = 256
"""A flooding actor says that it lives after so many messages."""
SLOW_SECONDS_MAX: Final = 1.0
DELAY_SECONDS_MAX: Final = 60.0
SLOW_ONE_IN: Final = 50
"""Of so many messages one is slow when a p99 was ordered: twice as many as lie above it.

Of other actors' messages: a Flush or Tick is no part of the work that is shown.
"""
REFUSED: Final = "start the member with --enable-faults"
_TAGS: Final = {cls.__name__: tag for tag, cls in WIRE.items()}


class BadFaultError(ValueError):
    """An order that makes no sense; the text says why."""


def seconds_of(request: Mapping[str, Any]) -> float:
    """Return how long an order's fault lasts. Raises BadFaultError."""
    given = request.get("for")
    seconds = FOR_SECONDS if given is None else float(given)
    if not 0 < seconds <= FOR_SECONDS_MAX:
        raise BadFaultError(f"a fault lasts between 0 and {FOR_SECONDS_MAX:g} s, not {seconds:g} s")
    return seconds


def number_of(request: Mapping[str, Any], name: str, default: float, most: float) -> float:
    """Return a number of an order, above 0 and at most `most`. Raises BadFaultError."""
    given = request.get(name)
    number = default if given is None else float(given)
    if not 0 < number <= most:
        raise BadFaultError(f"{name} must be above 0 and at most {most:g}, not {number:g}")
    return number


def _tag_of(request: Mapping[str, Any]) -> int:
    kind = request.get("type") or ""
    if kind and kind not in _TAGS:
        raise BadFaultError(f"no such message: {kind!r}")
    return _TAGS[kind] if kind else 0


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
    troubled: bool
    """Whether `ActorFaults.before` wants to be called before each message."""

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
        self._hang_until = 0.0
        self._hang_tag = 0
        self._slow_until = 0.0
        self._slow_seconds = 0.0
        self._slow_one_in = 1
        self._slow_seen = 0
        self._verbs: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]] = {
            "crash": self._crash,
            "suspend": self._suspend,
            "hang": self._hang,
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
        try:
            return verb(request, seconds_of(request))
        except BadFaultError as error:
            return {"error": str(error)}

    def suffer(self, fault: Fault) -> None:
        """Carry out what must happen on the actor's own thread."""
        if fault.verb == "crash":
            raise InjectedFaultError("told to crash")
        until = time.monotonic() + fault.seconds
        if fault.verb == "suspend":
            while time.monotonic() < until and not self._resumed.wait(0.02):
                self._victim.note_progress()
        elif fault.verb == "hang":
            self._loop(until)
        elif fault.verb == "flood":
            noise = Noise(b"\0" * NOISE_BYTES)
            for number in range(fault.count):
                if number % FLOOD_STEP == 0:
                    if self._resumed.is_set():
                        break
                    self._victim.note_progress()
                self._victim.links.send(fault.to, noise)

    def before(self, tag: int) -> None:
        """Do what was ordered for messages of `tag`, at the beginning of such a one's handler."""
        now = time.monotonic()
        if now >= max(self._slow_until, self._hang_until):
            self._victim.troubled = False
            return
        if tag == self._hang_tag and now < self._hang_until:
            until, self._hang_until = self._hang_until, 0.0
            self._loop(until)
        if now < self._slow_until and (tag < FLUSH_TAG or self._slow_one_in == 1):
            if self._slow_seen % self._slow_one_in == 0:
                time.sleep(self._slow_seconds)
            self._slow_seen += 1

    def _loop(self, until: float) -> None:
        while time.monotonic() < until and not self._resumed.is_set():
            pass

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

    def _hang(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Loop at once; or, given a type, when the next such message comes."""
        tag = _tag_of(request)
        self._resumed.clear()
        if not tag:
            return self._suffered(request, seconds)
        self._hang_tag = tag
        self._hang_until = time.monotonic() + seconds
        self._victim.troubled = True
        return {"for": seconds, "type": request["type"]}

    def _resume(self, _: dict[str, Any], __: float) -> dict[str, Any]:
        self._hang_until = 0.0
        self._resumed.set()
        return {}

    def _slow(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        name = "ms" if request.get("p99_ms") is None else "p99_ms"
        wait = number_of(request, name, 10.0, SLOW_SECONDS_MAX * 1000)
        self._slow_until = time.monotonic() + seconds
        self._slow_one_in = 1 if name == "ms" else SLOW_ONE_IN
        self._slow_seen = 0
        self._slow_seconds = wait / 1000
        self._victim.troubled = True
        return {"for": seconds, name: wait}

    def _flood(self, request: dict[str, Any], _: float) -> dict[str, Any]:
        to = self._neighbour(request)
        if not to:
            raise BadFaultError("a flood needs a receiver: FROM:TO")
        count = int(number_of(request, "count", FLOOD_COUNT, FLOOD_MAX))
        self._resumed.clear()
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
        self._hang_until = self._slow_until = 0.0
        faults = self._victim.links.faults
        if faults is not None:
            faults.rules = ()
        return {}

    def _edge(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        links = self._victim.links
        now = time.monotonic()
        rule = Rule(
            verb=request["verb"],
            receiver=self._neighbour(request),
            tag=_tag_of(request),
            until=now + seconds,
            ratio=number_of(request, "ratio", 1.0, 1.0),
            seconds=number_of(request, "ms", 100.0, DELAY_SECONDS_MAX * 1000) / 1000,
        )
        faults = links.faults or EdgeFaults(time.monotonic, random.SystemRandom().random)
        faults.rules = (*(old for old in faults.rules if old.until > now), rule)
        links.faults = faults
        return {"for": seconds}

    def _neighbour(self, request: dict[str, Any]) -> str:
        """Return the other end of an edge, "" for all. Raises BadFaultError."""
        to = str(request.get("to") or "")
        if to and not self._victim.links.has(to):
            raise BadFaultError(f"{to!r} is no neighbour of this actor")
        return to
