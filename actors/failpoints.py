"""Failpoints as in gofail: named places in the actors where a test may make something happen.

Root arms them (supervisor.gofail), only when it was started with --enable-faults and GOFAIL_HTTP or
GOFAIL_FAILPOINTS; every actor reads them from a file in the run directory. The file has a word that
grows with every change, and how often each term has acted: so `3*panic` acts three times in all,
across the restarts it causes. An actor that nobody armed pays for a function call and one
comparison at each point, and there are a few points in a batch, none in a request.

Every point ends by itself: with its terms stands the moment (CLOCK_MONOTONIC, the same for all
processes) after which each actor passes it over and wakes from its sleep, root or no root.

Terms are gofail's: `<modifier>* action [(value)]`, chained by `->`; a modifier is a count `3*` or a
chance `25.0%`, an action one of panic, sleep, return, print, break, off. The first term whose
modifiers allow it acts. `break` does what gofail's does: it starts gdb on the process with that
process's descriptors, and panics where there is no gdb.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = "failpoints"
TERMS_FILE: Final = "failpoints.json"
POINTS: Final = (
    "applyAfterOpenSnapshot",
    "applyBeforeOpenSnapshot",
    "afterCommit",
    "afterStartDBTxn",
    "beforeApplyOneConfChange",
    "beforeApplyOneEntryNormal",
    "beforeCommit",
    "beforeLookupWhenLeaseTimeToLive",
    "beforePublishing",
    "beforeSendWatchResponse",
    "beforeStartDBTxn",
    "beforeSyncWatchers",
    "compactAfterAcquiredBatchTxLock",
    "compactAfterCommitBatch",
    "compactAfterSetFinishedCompact",
    "raftAfterApplySnap",
    "raftAfterSave",
    "raftAfterSaveSnap",
    "raftAfterWALRelease",
    "raftBeforeApplySnap",
    "raftBeforeFollowerSend",
    "raftBeforeLeaderSend",
    "raftBeforeSave",
    "raftBeforeSaveSnap",
    "walAfterSync",
    "walBeforeSync",
)
"""The names there are; all of them etcd's, for the same places. New ones go to the end."""
TERMS_MAX: Final = 14
SLOT_WORDS: Final = 16
"""Of a point: how often it acted, then how often each term did."""
SLEEP_SLICE_SECONDS: Final = 0.2
DEBUGGER: Final = "gdb"
DEBUGGER_SECONDS: Final = 3.0
"""What gofail gives gdb to attach itself."""
_MODIFIER: Final = re.compile(r"(\d+(?:\.\d*)?)(%|\*)")
_ACTION: Final = re.compile(r"off|return|sleep|panic|break|print")
_VALUE: Final = re.compile(r'\(\s*("(?:[^"\\]|\\.)*"|-?\d+|true|false)?\s*\)')


class FailpointTermError(ValueError):
    """A term that gofail could not parse either."""


class FailpointPanicError(Exception):
    """A failpoint was told to panic."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term. `times` and `chances` are its modifiers: at most so often, with this likelihood."""

    action: str
    value: str | int | bool | None
    times: int | None = None
    chances: tuple[float, ...] = ()


def parse_terms(text: str) -> tuple[Term, ...]:
    """Return the chain of terms. Raises FailpointTermError with gofail's words."""
    terms, place = [], 0
    while True:
        times: int | None = None
        chances: list[float] = []
        while found := _MODIFIER.match(text, place):
            if found[2] == "%":
                chances.append(float(found[1]) / 100)
            elif "." in found[1]:
                break
            else:
                times = min(int(found[1]), int(found[1]) if times is None else times)
            place = found.end()
        action = _ACTION.match(text, place)
        if action is None:
            break
        place = action.end()
        value: str | int | bool | None = None
        if given := _VALUE.match(text, place):
            value = json.loads(given[1]) if given[1] else None
            place = given.end()
        terms.append(Term(action[0], value, times, tuple(chances)))
        if place == len(text) and len(terms) <= TERMS_MAX:
            return tuple(terms)
        if not text.startswith("->", place):
            break
        place += 2
    raise FailpointTermError("failpoint: could not parse terms")


class Counts:
    """The shared words: which change is the newest, and how often what has acted."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Map the file. Raises FileNotFoundError if nobody has made it."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            size = 8 * (1 + len(POINTS) * SLOT_WORDS)
            if create:
                os.ftruncate(descriptor, size)
            self.words = memoryview(mmap.mmap(descriptor, size)).cast("Q")
        finally:
            os.close(descriptor)

    def slot(self, name: str) -> int:
        """Return the place of a point's first word."""
        return 1 + POINTS.index(name) * SLOT_WORDS


class Failpoints:
    """The points of one process, armed by another one."""

    def __init__(
        self,
        run_dir: Path,
        progress: Callable[[], None],
        *,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        debugger: str = DEBUGGER,
    ) -> None:
        """`progress` is called while a point sleeps: that is on purpose, the actor isn't stuck."""
        self._counts = Counts(run_dir / FILE)
        self._path = run_dir / TERMS_FILE
        self._progress = progress
        self._chance = chance
        self._sleep = sleep
        self._clock = clock
        self._debugger = debugger
        self._generation = 0
        self._terms: dict[str, tuple[tuple[Term, ...], float]] = {}
        """Of each active point its terms, and until when it is active."""

    def hit(self, name: str) -> Any:
        """Do what is ordered here. Raises FailpointPanicError; returns the value of a `return`."""
        generation = self._counts.words[0]
        if generation != self._generation:
            self._generation = generation
            self._terms = {
                point: (parse_terms(text), until)
                for point, (text, until) in json.loads(self._path.read_text()).items()
            }
        active = self._terms.get(name)
        if active is None or self._clock() >= active[1]:
            return None
        return self._act(name, *active)

    def _act(self, name: str, terms: tuple[Term, ...], until: float) -> Any:
        words, slot = self._counts.words, self._counts.slot(name)
        for number, term in enumerate(terms, 1):
            if term.times is not None and words[slot + number] >= term.times:
                continue
            words[slot + number] += 1
            if all(self._chance() <= likelihood for likelihood in term.chances):
                words[slot] += 1
                return self._do(name, term, until)
        return None

    def _do(self, name: str, term: Term, until: float) -> Any:
        if term.action == "panic":
            said = name if term.value is None else term.value
            raise FailpointPanicError(f"failpoint panic: {said}")
        if term.action == "print":
            os.write(1, f"failpoint print: {name}\n".encode())
        elif term.action == "sleep":
            self._wait(term.value / 1000 if isinstance(term.value, int) else 0.0, until)
        elif term.action == "break":
            self._break()
        return term.value if term.action == "return" else None

    def _wait(self, left: float, until: float = math.inf) -> None:
        while left > 0 and self._clock() < until:
            self._progress()
            self._sleep(min(left, SLEEP_SLICE_SECONDS))
            left -= SLEEP_SLICE_SECONDS
        self._progress()

    def _break(self) -> None:
        """Start the debugger on this process and wait until it may have attached itself."""
        if shutil.which(self._debugger) is None:
            said = f'exec: "{self._debugger}": executable file not found in $PATH'
            raise FailpointPanicError(said)
        started = subprocess.Popen([self._debugger, sys.executable, str(os.getpid())])
        threading.Thread(target=started.wait, name="debugger", daemon=True).start()
        self._wait(DEBUGGER_SECONDS)


_armed: Failpoints | None = None


def arm(run_dir: Path, progress: Callable[[], None]) -> None:
    """Let points of this process act, if root has made the file for it."""
    global _armed
    try:
        _armed = Failpoints(run_dir, progress)
    except FileNotFoundError:
        _armed = None


def hit(name: str) -> Any:
    """Pass a point: nothing happens unless it was armed and activated."""
    return None if _armed is None else _armed.hit(name)
