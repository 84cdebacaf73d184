"""Telling a stuck actor from a busy one, by what it stamps into its block of the board.

Two signs (RULES A9): one message has been running for longer than its type may (`Cell.TAG` and
`Cell.SINCE_NS`; a table in the spec), or no turn of the loop and no message handled for
`stuck_after` seconds (every actor turns its loop ten times a second, with or without work). Pings
would tell nothing: the control thread answers for an actor that loops for ever.

What a message is allowed is time to work: a process that has been stopped (SIGSTOP, a debugger)
does none, and is found after `stuck_after` whatever it was doing.

A machine that was suspended must not have its whole troupe killed: when root itself has not run for
a while, everybody's time starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.spec import ChildSpec
from transport.counters import Board, Cell, State

ROOT_PAUSE_SECONDS: Final = 1.0
NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Stuck:
    """A child that must be replaced: for how long it has stood, in which message (0: in none)."""

    seconds: float
    tag: int


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal or a debugger."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] in "Tt"


@dataclass(slots=True)
class _Watched:
    progress: int
    since: float


class StuckDetector:
    """Judges children by the board. Times are CLOCK_MONOTONIC in seconds, and given."""

    def __init__(self, board: Board, stopped: Callable[[int], bool] = is_stopped) -> None:
        self._board = board
        self._stopped = stopped
        self._watched: dict[str, _Watched] = {}
        self._looked = 0.0
        self.awake_since = 0.0
        """Since when root has been running without a pause."""

    def look_begins(self, now: float) -> None:
        """Begin a round of `judge`; notices when root itself did not run."""
        if now - self._looked > ROOT_PAUSE_SECONDS:
            self.awake_since = now
        self._looked = now

    def started(self, name: str, now: float) -> None:
        """Forget the incarnation before."""
        self._watched[name] = _Watched(-1, now)

    def judge(self, spec: ChildSpec, now: float) -> Stuck | None:
        """Return what is wrong with a living child; None as long as it gets on."""
        board, watched = self._board, self._watched[spec.name]
        cells = (Cell.LOOPS, Cell.HANDLED, Cell.BATCHES)
        progress = sum(board.get(spec.name, cell) for cell in cells)
        if progress != watched.progress:
            watched.progress, watched.since = progress, now
        tag = board.get(spec.name, Cell.TAG)
        if board.get(spec.name, Cell.STATE) != State.RUNNING:
            since, allowed = watched.since, spec.start_within
        elif tag:
            since = board.get(spec.name, Cell.SINCE_NS) / NANOSECONDS
            allowed = spec.allowances.get(tag, spec.stuck_after)
        else:
            since, allowed = watched.since, spec.stuck_after
        seconds = now - max(since, self.awake_since)
        if seconds > allowed:
            return Stuck(seconds, tag)
        if seconds > spec.stuck_after and self._stopped(board.get(spec.name, Cell.PID)):
            return Stuck(seconds, tag)
        return None
