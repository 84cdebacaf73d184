"""Simulated time and chance: events on a heap, one seed for everything.

Nothing in a run depends on anything but the seed: no clock, no thread, no address of an object.
Whatever is random asks `chance`; whatever happens later is an event. Events of the same moment
happen in the order they were made.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any


class InvariantBrokenError(AssertionError):
    """A checker found what must never be: the run has failed."""


class World:
    """Time, chance, and what happened so far. Times are seconds."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.faults: Counter[str] = Counter()
        """What was done to the cluster, by kind."""
        self.points: Counter[str] = Counter()
        """Rare situations that were reached: the coverage of a run."""
        self.on_point: Callable[[str, Any], None] = lambda name, member: None
        self.tracing = tracing
        self.log: list[str] = []
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def after(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have something happen `delay` seconds from now."""
        self.at(self.now + delay, action, *arguments)

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have something happen at a moment.

        What must stay in order asks for moments: now + (when - now) may round to less than `when`.
        """
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, action, arguments))

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen up to a moment, or until `done`; return whether it was."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(heap)
            self.events += 1
            action(*arguments)
            if done is not None and done():
                return True
        self.now = max(self.now, until)
        return False

    def fault(self, kind: str, text: str = "") -> None:
        """Count a fault, and trace it."""
        self.faults[kind] += 1
        self.trace(f"FAULT {kind} {text}")

    def point(self, name: str, member: Any = None) -> None:
        """Note that a rare situation was reached, by a member perhaps."""
        self.points[name] += 1
        if member is not None:
            self.on_point(name, member)

    def trace(self, text: str) -> None:
        """Keep a line of what happens, if anybody wants it."""
        if self.tracing:
            self.log.append(f"{self.now:11.6f} {text}")

    def often(self, probability: float) -> bool:
        """Throw a dice."""
        return self.chance.random() < probability
