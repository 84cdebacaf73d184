"""Results that a gateway gets before they are committed.

The applier sends the results of few requests while their transaction still waits for the log and
for its COMMIT. So they wait here, and what makes them good is seen on the board: that the applier
has applied their index, and has rolled nothing back since it sent them.

Invariants: messages of the applier are taken in the order they came; one that is `ahead` is taken
only after its COMMIT, and never if the transaction it tells of was thrown away.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from actors.messages import Applied
from actors.metrics import ApplierMetric
from transport.counters import Board, Cell

LOOK_NS: Final = 400_000
LATER_SECONDS: Final = 0.001
LATER_SECONDS_MAX: Final = 0.064
PASSED: Final = 31
"""How many are not looked for after one that the applier has sent again: its disk is slow."""


class Early:
    """See the module docstring."""

    def __init__(
        self,
        board: Board,
        take: Callable[[Applied], None],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        """`take(message)` handles what is good; `later(seconds, callback)` calls back."""
        self._words = board.words
        words = board.block("applier") + Cell.METRICS
        self._applied = words + ApplierMetric.APPLIED_INDEX
        self._rollbacks = words + ApplierMetric.ROLLBACKS
        self._take = take
        self._later = later
        self._waiting: deque[Applied] = deque()
        self._pause = 0.0  # until it looks again; 0.0: nobody is to call back
        self._pass = 0

    def add(self, message: Applied) -> None:
        """Take a message now, or as soon as it is good."""
        if not (message.ahead or self._waiting):
            self._take(message)
            return
        self._waiting.append(message)
        if not message.ahead:
            self._pass = PASSED
            self._look()
        elif self._pass:
            self._pass -= 1
            self._look()
        else:
            self._look_for_a_moment()
        if self._waiting and not self._pause:
            self._pause = LATER_SECONDS
            self._later(self._pause, self._look_later)

    def _look_for_a_moment(self) -> None:
        """Look in a loop: sleeping and being woken would take longer than what is waited for."""
        until = time.monotonic_ns() + LOOK_NS
        self._look()
        while self._waiting:
            if time.monotonic_ns() >= until:
                return
            os.sched_yield()
            self._look()

    def _look_later(self) -> None:
        self._look()
        self._pause = min(LATER_SECONDS_MAX, 2 * self._pause) if self._waiting else 0.0
        if self._pause:
            self._later(self._pause, self._look_later)

    def _look(self) -> None:
        words, waiting = self._words, self._waiting
        while waiting:
            first = waiting[0]
            applied = words[self._applied]  # to be read before the other word
            void = first.ahead not in (0, words[self._rollbacks])
            if first.ahead and not void and first.index > applied:
                return
            waiting.popleft()
            if not void:  # else it is sent again, or asked for
                self._take(first)
