"""Crash reports: what a child was doing when it ended, kept in the data directory.

Root only copies the board, some 200 KB: a restart must not wait for a report, and a disk that hangs
must not hang root. A thread does the rest. REPORTS_MAX are kept.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control.crash import SUFFIX, crash_directory, names
from control.observe import MemberView, ObserveError
from control.recorder import recorder
from supervisor.spec import ChildSpec
from supervisor.strategy import Escalate, Restart
from supervisor.traces import take_trace
from transport.counters import Board, Cell

REPORTS_MAX: Final = 20
WRITE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A child that has ended, as root knows it."""

    spec: ChildSpec
    incarnation: int
    pid: int
    reason: str
    restarts_used: int
    decision: Restart | Escalate
    stuck_seconds: float = 0.0
    """For how long root had found it stuck before it killed it; 0 if it did not."""


class CrashReporter:
    """Writes the reports of one member. Used by root's thread."""

    def __init__(self, run_dir: Path, data_dir: Path) -> None:
        self._run_dir = run_dir
        self._folder = crash_directory(data_dir)
        self._writing: threading.Thread | None = None
        self._lock = threading.Lock()

    def report(self, ended: Ended, board: Board) -> str:
        """Have a report written; `board` is a copy from when it ended. Return its name."""
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e3):03d}"
        name = f"{stamp}-{ended.spec.name}-{ended.incarnation}"
        self._writing = threading.Thread(
            target=self._write, args=(name, ended, board, now), daemon=True
        )
        try:
            self._writing.start()
        except RuntimeError:  # no thread to be had: there is no report then
            self._writing = None
        return name

    def settle(self) -> None:
        """Give the last report a moment: root is about to end."""
        if self._writing is not None:
            self._writing.join(WRITE_SECONDS)

    def _write(self, name: str, ended: Ended, board: Board, now: float) -> None:
        with self._lock:
            try:
                found = collected(MemberView(self._run_dir, board), ended, now)
            except ObserveError:
                return  # the run directory is being removed
            found["traceback"] = take_trace(self._run_dir, ended.spec.name, ended.incarnation)
            try:
                self._keep(name, found)
            except OSError:
                return  # a full or broken disk has worse consequences than a report that is missing

    def _keep(self, name: str, found: dict[str, Any]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._folder / f".{name}.new"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(found, file)
        partial.rename(self._folder / (name + SUFFIX))
        for old in names(self._folder)[:-REPORTS_MAX]:
            (self._folder / (old + SUFFIX)).unlink()


def collected(view: MemberView, ended: Ended, now: float) -> dict[str, Any]:
    """Return the report of a child whose block on the board has not been reset yet."""
    name, board = ended.spec.name, view.board
    sample = view.sample(name)
    return {
        "member": view.info["name"],
        "actor": name,
        "incarnation": ended.incarnation,
        "pid": ended.pid,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "ts": round(now, 3),
        "reason": ended.reason,
        "decision": in_words(ended.decision),
        "stuck_seconds": round(ended.stuck_seconds, 3),
        "restarts_used": ended.restarts_used,
        "restarts_allowed": ended.spec.restarts,
        "doing": sample.doing,
        "doing_seconds": round(sample.doing_seconds, 3),
        "uptime_seconds": round(_uptime(board.get(name, Cell.STARTED_NS)), 3),
        "mailbox": {
            sender: depth for sender in board.names if (depth := view.edge(sender, name).depth)
        },
        "waiting": [
            {
                "sender": one.sender,
                "type": one.type,
                "sequence": one.sequence,
                "items": one.items,
                "bytes": one.bytes,
                "age_seconds": round(one.age_seconds, 4),
            }
            for one in view.waiting(name)
        ],
        "recorder": recorder(view, name),
    }


def in_words(decision: Restart | Escalate) -> str:
    """Say what the supervisor does about it."""
    if isinstance(decision, Escalate):
        return f"stop the member with exit code {decision.exit_code}"
    return f"restart in {decision.delay:.3f} s" if decision.delay else "restart at once"


def _uptime(started_ns: int) -> float:
    return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns) / 1e9
