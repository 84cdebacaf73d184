"""Turns of an actor whose loop is an event loop; what is not asked about is faked."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import uvloop

from actors.loop_actor import LoopActor

GUARD_SECONDS = 5.0


class Turns(LoopActor):
    """Ends turns as told: `end(which)` returns the pause of each."""

    def __init__(self, end: Callable[[int], float]) -> None:
        self.loop = uvloop.new_event_loop()
        self._flush_scheduled = self._coming_back = False
        self._words: Any = [0] * 100
        self._block = 0
        self.observer: Any = SimpleNamespace(ends=lambda *_: None)
        self.ended: list[float] = []
        self._end = end

    def end_turn(self) -> float:
        self.ended.append(time.monotonic())
        return self._end(len(self.ended))

    def run(self) -> None:
        self.loop.call_later(GUARD_SECONDS, self.loop.stop)
        self.loop.run_forever()
        self.loop.close()


def test_a_turn_ends_again_when_it_said_though_nothing_comes() -> None:
    def end(which: int) -> float:
        if which == 2:
            actor.loop.stop()
        return 0.02

    actor = Turns(end)
    actor.schedule_flush()
    actor.run()

    first, second = actor.ended
    assert 0.019 <= second - first < GUARD_SECONDS


def test_turns_that_something_ends_meanwhile_make_no_more_timers() -> None:
    def end(which: int) -> float:
        return 0.02 if which <= 3 else 0.0

    actor = Turns(end)
    for after in (0.0, 0.004, 0.008):
        actor.loop.call_later(after, actor.schedule_flush)
    actor.loop.call_later(0.5, actor.loop.stop)
    actor.run()

    assert len(actor.ended) == 4


def test_a_turn_that_asks_for_nothing_is_the_last() -> None:
    actor = Turns(lambda which: 0.0)
    actor.schedule_flush()
    actor.loop.call_later(0.1, actor.loop.stop)
    actor.run()

    assert len(actor.ended) == 1
