"""The memory of every actor for `/metrics`: read beside the event loop, and not on every scrape.

The kernel walks a process's page tables to tell its PSS, a millisecond or more for each actor; so a
thread reads it, as `top` has it read, and a scrape waits for that thread without holding up a loop:
at most WAIT_SECONDS, after which it tells what is known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from control.observe import pss_bytes
from transport.counters import Board, Cell

FRESH_SECONDS: Final = 5.0
"""What was read so recently is told again."""
WAIT_SECONDS: Final = 0.5


class Loop(Protocol):
    """What is used of an event loop."""

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> object:
        """Have the loop call back; any thread may."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        """Have the loop call back after so many seconds."""


class ActorMemory:
    """Used by the event loop; one thread at a time reads for it."""

    def __init__(self, board: Board, loop: Loop) -> None:
        self._board = board
        self._loop = loop
        self._names = board.names
        self._read: dict[str, tuple[int, int]] = {}  # by actor: pid, bytes
        self._read_at = -FRESH_SECONDS
        self._reading = False
        self._waiting: list[Callable[[], None]] = []

    def pss_bytes(self, name: str) -> int:
        """Return the proportional share of an actor's process as last read, -1 if not known."""
        pid, size = self._read.get(name, (0, -1))
        return size if pid == self._pid(name) else -1

    def when_fresh(self, done: Callable[[], None]) -> None:
        """Call `done` once, on the loop: when what is known is fresh, or nobody can wait longer."""
        if self._is_fresh:
            done()
            return
        self._waiting.append(done)
        self._loop.call_later(WAIT_SECONDS, lambda: self._give_up(done))
        if not self._reading:
            self._reading = True
            threading.Thread(target=self._look, name="memory", daemon=True).start()

    @property
    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < FRESH_SECONDS and all(
            self._read[name][0] == self._pid(name) for name in self._names
        )

    def _pid(self, name: str) -> int:
        return self._board.get(name, Cell.PID)

    def _give_up(self, done: Callable[[], None]) -> None:
        if done in self._waiting:
            self._waiting.remove(done)
            done()

    def _finish(self, read: dict[str, tuple[int, int]]) -> None:
        self._read, self._read_at, self._reading = read, time.monotonic(), False
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done()

    # --- on the thread ----------------------------------------------------------------------------

    def _look(self) -> None:
        pids = {name: self._pid(name) for name in self._names}
        read = {name: (pid, pss_bytes(pid)) for name, pid in pids.items()}
        try:
            self._loop.call_soon_threadsafe(lambda: self._finish(read))
        except RuntimeError:  # the loop has been closed: nobody asks any more
            return
