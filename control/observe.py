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

from transport import latency
from transport.counters import Board, Cell, Edge, State
from transport.latency import Durations, Latency
from transport.recorder import Kind, Record, records

INFO_FILE: Final = "info.json"
BOARD_FILE: Final = "board"
FROZEN: Final = "frozen"
"""The state of an actor whose process is stopped by a signal or a debugger."""
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class ObserveError(Exception):
    """The member's run directory can't be read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one actor. Counts since the member's start; `pss_bytes` -1 if not known.

    `expired` are requests it gave up because their time was over (gateways do, others never).
    `oldest_seconds` is the age of the oldest message sent to it and not taken, as far as its
    senders remember (the true age is at least that).
    """

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
    sent: int
    dropped: int
    lost: int
    expired: int
    busy_ns: int
    oldest_seconds: float
    wait: Durations
    work: Durations
    flush: Durations


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that was sent to an actor and that it has not taken; told by its sender."""

    sender: str
    type: str
    sequence: int
    items: int
    bytes: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class EdgeSample:
    """One edge: what its sender and its receiver have counted.

    `sent`, `handled` and `depth` (sent and not handled) are of the living stream, `lost` of those
    that are dead.
    """

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
    """A member's run directory, opened; or a copy of its board. Raises ObserveError."""

    def __init__(self, run_dir: Path, board: Board | None = None) -> None:
        self.run_dir = run_dir
        try:
            self.info: dict[str, Any] = json.loads((run_dir / INFO_FILE).read_text())
            self.board = Board(run_dir / BOARD_FILE) if board is None else board
        except (OSError, ValueError) as error:
            raise ObserveError(f"cannot read the member's state in {run_dir}: {error}") from None
        self._expired: dict[str, int] = self.info.get("expired", {})
        self._tags: dict[str, str] = self.info.get("tags", {})
        self._raft: dict[str, int] = self.info.get("raft", {})

    def actors(self) -> Iterator[str]:
        """Return the names of the children, in start order."""
        return (name for name in self.board.names if name != "root")

    def sample(self, name: str, *, memory: bool = False) -> Sample:
        """Look at one actor; `memory` asks the kernel for its PSS, which takes a millisecond."""
        board = self.board
        pid = board.get(name, Cell.PID)
        tag = board.get(name, Cell.TAG)
        edges = [self.edge(sender, name) for sender in board.names]
        return Sample(
            name=name,
            state=FROZEN if is_stopped(pid) else State(board.get(name, Cell.STATE)).name.lower(),
            pid=pid,
            incarnation=board.get(name, Cell.INCARNATION),
            restarts=board.get(name, Cell.RESTARTS),
            last_exit=board.get(name, Cell.LAST_EXIT),
            depth=sum(edge.depth for edge in edges),
            doing=self._tags.get(str(tag), f"message {tag}") if tag else "",
            doing_seconds=doing_seconds(board, name),
            handled=sum(edge.handled for edge in edges),
            handled_items=sum(edge.handled_items for edge in edges),
            batches=board.get(name, Cell.BATCHES),
            cpu_seconds=cpu_seconds(pid),
            pss_bytes=pss_bytes(pid) if memory else -1,
            sent=sum(self.edge(name, peer).sent for peer in board.names),
            dropped=sum(edge.dropped for edge in edges),
            lost=sum(edge.lost for edge in edges),
            expired=board.get(name, self._expired[name]) if name in self._expired else 0,
            busy_ns=latency.busy_ns(board, name),
            oldest_seconds=max((found.age_seconds for found in self.waiting(name)), default=0.0),
            wait=latency.read(board, name, Latency.WAIT),
            work=latency.read(board, name, Latency.WORK),
            flush=latency.read(board, name, Latency.FLUSH),
        )

    def raft(self, word: str) -> int:
        """Return a word of the raft node, of those in supervisor.member; 0 if it has none."""
        return self.board.get("raft-node", self._raft[word]) if word in self._raft else 0

    def doing_operations(self, name: str) -> int:
        """Return which operations of clients an actor carries out now (kv.operations)."""
        return self.board.get(name, Cell.OPERATIONS)

    def records(self, name: str) -> list[Record]:
        """Return what an actor's flight recorder holds, oldest first."""
        return records(self.board, name)

    def type_name(self, tag: int) -> str:
        """Return the name of a message type."""
        return self._tags.get(str(tag), f"message {tag}")

    def waiting(self, name: str) -> list[Waiting]:
        """Return what was sent to an actor and is not handled, oldest first, as senders tell it.

        A sender remembers its last messages only: there may be older ones than these.
        """
        now = time.monotonic_ns()
        found = [
            Waiting(
                sender=sender,
                type=self.type_name(record.tag),
                sequence=record.sequence,
                items=record.items,
                bytes=record.size,
                age_seconds=max(0.0, (now - record.time_ns) / 1e9),
            )
            for sender, record in undelivered(self.board, name)
        ]
        return sorted(found, key=lambda waiting: -waiting.age_seconds)

    def edge(self, sender: str, receiver: str) -> EdgeSample:
        """Look at one edge."""
        words, first = self.board.words, self.board.edge(sender, receiver)
        return EdgeSample(
            sender=sender,
            receiver=receiver,
            sent=words[first + Edge.SENT],
            handled=words[first + Edge.HANDLED],
            depth=self.board.edge_depth(sender, receiver),
            dropped=words[first + Edge.DROPPED],
            lost=self.board.lost(sender, receiver),
            gaps=words[first + Edge.GAPS],
            sent_bytes=words[first + Edge.SENT_BYTES],
            sent_items=words[first + Edge.SENT_ITEMS],
            handled_items=words[first + Edge.HANDLED_ITEMS],
            stream=words[first + Edge.SENT_STREAM],
        )

    def edges(self) -> list[EdgeSample]:
        """Return the edges that were ever used."""
        names = self.board.names
        found = [self.edge(sender, receiver) for sender in names for receiver in names]
        return [edge for edge in found if edge.stream or edge.dropped]


def undelivered(board: Board, receiver: str) -> Iterator[tuple[str, Record]]:
    """Yield (sender, its record) of what an actor was sent and has not handled, newest first."""
    position = board.position(receiver)
    for sender in board.names:
        depth = board.edge_depth(sender, receiver)
        if not depth:
            continue
        sent = board.words[board.edge(sender, receiver) + Edge.SENT]
        expected = sent - 1
        for record in reversed(records(board, sender)):
            if record.kind != Kind.OUT or record.peer != position:
                continue
            if record.sequence != expected or expected < sent - depth:
                break
            expected -= 1
            yield sender, record


def doing_seconds(board: Board, name: str) -> float:
    """Return for how long an actor has been at its message, 0 when it is at none."""
    if not board.get(name, Cell.TAG):
        return 0.0
    return max(0.0, (time.monotonic_ns() - board.get(name, Cell.SINCE_NS)) / 1e9)


def exit_words(status: int) -> str:
    """Say how a process ended; `status` is waitpid's, 0 also when none has ended yet."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit code {os.WEXITSTATUS(status)}"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used, 0 if it is gone."""
    words = _stat(pid)
    return (int(words[11]) + int(words[12])) / _TICKS_PER_SECOND if words else 0.0


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal or a debugger."""
    words = _stat(pid)
    return bool(words) and words[0] in "Tt"


def can_run(pid: int) -> bool:
    """Tell whether there is such a process, neither stopped nor dead."""
    words = _stat(pid)
    return bool(words) and words[0] not in "TtZX"


def _stat(pid: int) -> list[str]:
    """Return /proc/PID/stat from the state on; empty if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text() if pid else ""
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split() if text else []


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
