"""A running member seen from outside: the board, `info.json` and /proc. Asks nobody.

So it works while an actor is stuck, dead or restarting, and while root itself is frozen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transport.counters import Board, Cell, Edge, State

INFO_FILE: Final = "info.json"
BOARD_FILE: Final = "board"
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class ObserveError(Exception):
    """The member's run directory can't be read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one actor. Counts since the member's start; `pss_bytes` -1 if not known."""

    name: str
    state: str
    pid: int
    incarnation: int
    restarts: int
    last_exit: int
    depth: int
    doing: str
    doing_seconds: float
    handled: int
    handled_items: int
    batches: int
    cpu_seconds: float
    pss_bytes: int


@dataclass(frozen=True, slots=True)
class EdgeSample:
    """One edge: what its sender and its receiver have counted. `depth` is sent and not handled."""

    sender: str
    receiver: str
    sent: int
    handled: int
    depth: int
    dropped: int
    lost: int
    gaps: int
    sent_bytes: int
    sent_items: int
    handled_items: int
    stream: int


class MemberView:
    """A member's run directory, opened. Raises ObserveError."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        try:
            self.info: dict[str, Any] = json.loads((run_dir / INFO_FILE).read_text())
            self.board = Board(run_dir / BOARD_FILE)
        except (OSError, ValueError) as error:
            raise ObserveError(f"cannot read the member's state in {run_dir}: {error}") from None
        self._tags: dict[str, str] = self.info.get("tags", {})

    def actors(self) -> Iterator[str]:
        """Return the names of the children, in start order."""
        return (name for name in self.board.names if name != "root")

    def sample(self, name: str, *, memory: bool = False) -> Sample:
        """Look at one actor; `memory` asks the kernel for its PSS, which takes a millisecond."""
        board = self.board
        pid = board.get(name, Cell.PID)
        tag = board.get(name, Cell.TAG)
        since_ns = board.get(name, Cell.SINCE_NS)
        edges = [self.edge(sender, name) for sender in board.names]
        return Sample(
            name=name,
            state=State(board.get(name, Cell.STATE)).name.lower(),
            pid=pid,
            incarnation=board.get(name, Cell.INCARNATION),
            restarts=board.get(name, Cell.RESTARTS),
            last_exit=board.get(name, Cell.LAST_EXIT),
            depth=sum(edge.depth for edge in edges),
            doing=self._tags.get(str(tag), f"message {tag}") if tag else "",
            doing_seconds=max(0.0, (time.monotonic_ns() - since_ns) / 1e9) if tag else 0.0,
            handled=sum(edge.handled for edge in edges),
            handled_items=sum(edge.handled_items for edge in edges),
            batches=board.get(name, Cell.BATCHES),
            cpu_seconds=cpu_seconds(pid),
            pss_bytes=pss_bytes(pid) if memory else -1,
        )

    def edge(self, sender: str, receiver: str) -> EdgeSample:
        """Look at one edge."""
        words, first = self.board.words, self.board.edge(sender, receiver)
        sent, handled = words[first + Edge.SENT], words[first + Edge.HANDLED]
        stream = words[first + Edge.SENT_STREAM]
        same = stream == words[first + Edge.HANDLED_STREAM]
        return EdgeSample(
            sender=sender,
            receiver=receiver,
            sent=sent,
            handled=handled,
            depth=max(0, sent - handled) if same else sent,
            dropped=words[first + Edge.DROPPED],
            lost=words[first + Edge.LOST],
            gaps=words[first + Edge.GAPS],
            sent_bytes=words[first + Edge.SENT_BYTES],
            sent_items=words[first + Edge.SENT_ITEMS],
            handled_items=words[first + Edge.HANDLED_ITEMS],
            stream=stream,
        )

    def edges(self) -> list[EdgeSample]:
        """Return the edges that were ever used."""
        names = self.board.names
        found = [self.edge(sender, receiver) for sender in names for receiver in names]
        return [edge for edge in found if edge.stream or edge.dropped]


def exit_words(status: int) -> str:
    """Say how a process ended; `status` is waitpid's, 0 also when none has ended yet."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit code {os.WEXITSTATUS(status)}"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used, 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text() if pid else ""
    except OSError:
        return 0.0
    if not text:
        return 0.0
    words = text[text.rindex(")") + 2 :].split()
    return (int(words[11]) + int(words[12])) / _TICKS_PER_SECOND


def pss_bytes(pid: int) -> int:
    """Return a process's proportional share of memory (smaps_rollup's Pss), -1 if unreadable."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text() if pid else ""
    except OSError:
        return -1
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return -1
