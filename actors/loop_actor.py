"""An actor whose loop is an event loop: pykka's actor loop *is* uvloop, on the main thread.

The mailbox's socket is one more reader in it. Whatever is read in one turn is handled before
`end_turn`, so that a turn's work leaves as one batch.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import uvloop
import zmq

from actors.base import FLUSH_TAG, Actor
from transport.context import ActorContext
from transport.counters import Cell
from transport.links import has_more

TIMER_SECONDS: Final = 0.001
"""What the event loop's timers can tell apart."""


class LoopActor(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self.loop = uvloop.new_event_loop()
        self._flush_scheduled = False
        self._coming_back = False

    def begin(self) -> None:
        """Start to work; runs once, in the loop."""
        raise NotImplementedError

    def look_after(self, now: float) -> float:
        """Do what is due; return the seconds until it wants to be called again."""
        raise NotImplementedError

    def end_turn(self) -> float:
        """A turn of the loop is over: send what it produced.

        Returns in how many seconds the next is to end at the latest; 0.0 when something comes.
        """
        raise NotImplementedError

    def schedule_flush(self) -> None:
        """Have `end_turn` called once what is under way in this turn is done."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush_turn)

    def later(self, seconds: float, callback: Any) -> None:
        """Call back after a while, and end the turn after it."""

        def due() -> None:
            callback()
            self.schedule_flush()

        self.loop.call_later(seconds, due)

    def inject(self, message: Any) -> None:
        """Have the event loop handle a local message; any thread may."""
        self.loop.call_soon_threadsafe(self.on_receive, message)

    def _actor_loop_running(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        loop.add_reader(self.links.socket.getsockopt(zmq.FD), self._readable)
        loop.call_soon(self._readable)
        loop.call_soon(self.begin)
        loop.call_soon(self._look)
        loop.set_exception_handler(self._loop_failed)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: that is a crash of this actor, as in any other."""
        error = context.get("exception")
        self.failure = error if error is not None else RuntimeError(str(context.get("message")))
        loop.stop()

    def _readable(self) -> None:
        """Handle what has come; its turn ends before the socket is asked whether it is dry."""
        links = self.links
        socket = links.socket
        more = True
        while more:
            try:
                while more:
                    accepted = links.accept(socket.recv(zmq.NOBLOCK))
                    if accepted is not None:
                        links.handled(accepted[0])
                        links.taken = accepted
                        self.on_receive(accepted[1])
                    more = links.owed()
            except zmq.Again:
                self._flush_turn()
                return
            self._flush_turn()
            more = has_more(socket)

    def _look(self) -> None:
        """Timers: Hellos, and whatever the actor is to look after."""
        now = time.monotonic()
        self.links.tick(now)
        self.collect_garbage(now)
        pause = self.look_after(now)
        self._words[self._block + Cell.LOOPS] += 1
        self.loop.call_later(pause, self._look)

    def _flush_turn(self) -> None:
        self._flush_scheduled = False
        began = time.monotonic_ns()
        pause = self.end_turn()
        if pause and not self._coming_back:
            self._coming_back = True
            self.later(max(TIMER_SECONDS, pause), self._came_back)
        self._words[self._block + Cell.BATCHES] += 1
        self.observer.ends(0, FLUSH_TAG, began)

    def _came_back(self) -> None:
        self._coming_back = False
