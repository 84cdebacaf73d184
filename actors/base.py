"""What every actor shares: one process, one mailbox, typed dispatch, a control mailbox.

The pykka actor loop runs on the main thread of its process; the control mailbox runs on a thread
of its own, so a busy or stuck actor can still be inspected. An exception in a handler ends the
process: the supervisor decides what happens next.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Final, TypeVar

import pykka
from pykka._envelope import Envelope

from actors import failpoints
from actors.faults import ActorFaults, Fault
from actors.messages import Noise
from actors.observing import CORRELATIONS, LOCAL_TAG, Observer
from actors.observing import FLUSH_TAG as FLUSH_TAG
from actors.observing import TICK_TAG as TICK_TAG
from actors.tap import described
from actors.wire import codec, neighbours
from storage.failures import STORAGE_EXIT_CODE, UNUSABLE
from transport.context import ActorContext
from transport.control import ControlServer, Handler
from transport.counters import Board, Cell, State
from transport.links import Links, Welcome
from transport.log import Logger
from transport.mailbox import Flush, Mailbox, Tick

H = TypeVar("H", bound=Callable[..., Any])
NANOSECONDS: Final = 1_000_000_000
COLLECTION_SECONDS: Final = 10.0
IDLE_BATCHES: Final = 1000
QUEUED_SHOWN: Final = 50


class UnexpectedMessageError(Exception):
    """An actor was sent a message it has no handler for: a programming error."""


def handles(message_type: type[Any]) -> Callable[[H], H]:
    """Mark a method as the handler of one message type."""

    def mark(method: H) -> H:
        method.__dict__.setdefault("handles", []).append(message_type)
        return method

    return mark


class Actor(pykka.ThreadingActor):
    """Dispatches a message to the method that @handles its exact type."""

    tick_seconds: ClassVar[float] = 1.0
    actor_inbox: Mailbox
    _handlers: ClassVar[dict[type[Any], str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._handlers = {
            message_type: name
            for base in reversed(cls.__mro__)
            for name, method in vars(base).items()
            for message_type in getattr(method, "__dict__", {}).get("handles", ())
        }

    def __init__(self, context: ActorContext) -> None:
        self.context = context
        self.name = context.name
        self.board = Board(context.run_dir / "board")
        self.log = Logger(context.log_fd, context.name)
        self._words = self.board.words
        self._block = self.board.block(context.name)
        self._metrics = self._block + int(Cell.METRICS)
        self._tag = self._block + int(Cell.TAG)
        self._since = self._block + int(Cell.SINCE_NS)
        self._handled = self._block + int(Cell.HANDLED)
        self.failure: BaseException | None = None
        self._next_collection = time.monotonic() + COLLECTION_SECONDS
        self._batches_before = 0
        self.links = Links(
            board=self.board,
            name=context.name,
            incarnation=context.incarnation,
            run_dir=context.run_dir,
            neighbours=neighbours(context.name, self.board.names),
            codec=codec,
            have=self.have,
            welcome=self.welcome,
            clock=time.monotonic,
            correlations=CORRELATIONS,
        )
        self.observer = Observer(self.links, self.board, context.name)
        self.troubled = False
        failpoints.arm(context.run_dir, self.note_progress)
        self.faults = ActorFaults(self, enabled=bool(context.config.get("enable_faults")))
        super().__init__()
        self._bound = {
            cls: (getattr(self, name), _tag_of(cls)) for cls, name in self._handlers.items()
        }

    def _create_actor_inbox(self) -> Mailbox:  # type: ignore[override]
        return Mailbox(self.links, self.board, self.name, tick_seconds=self.tick_seconds)

    def have(self, sender: str) -> int:
        """Return what this actor already holds of `sender`'s stream, for a Hello."""
        return 0

    def welcome(self, receiver: str, have: int) -> list[int]:
        """Return the info of a Welcome; a stream to `receiver`, which has `have`, opens now."""
        return []

    def send(self, receiver: str, message: object, items: int = 1) -> bool:
        """Send to a neighbour, never waiting; False if it was dropped."""
        return self.links.send(receiver, message, items)

    def metric(self, word: int, value: int) -> None:
        """Set one metric word of this actor."""
        self._words[self._metrics + word] = value

    def count(self, word: int, amount: int = 1) -> None:
        """Add to one metric word of this actor."""
        self._words[self._metrics + word] += amount

    def _handle_receive(self, message: Any) -> Any:
        """See pykka: what an actor handles is none of the proxies' messages it asks after first."""
        if type(message) in self._bound:
            return self.on_receive(message)
        return super()._handle_receive(message)

    def on_receive(self, message: Any) -> Any:
        """Call the handler; an unknown type crashes the actor, as in Erlang."""
        bound = self._bound.get(type(message))
        if bound is None:
            raise UnexpectedMessageError(f"{type(self).__name__}: {type(message).__name__}")
        handler, tag = bound
        words, observer = self._words, self.observer
        words[self._since] = began = time.monotonic_ns()
        words[self._tag] = tag
        slot = observer.begins(message, tag, began) if self.links.taken is not None else 0
        if self.troubled:
            self.faults.before(tag)
        handler(message)
        observer.ends(slot, tag, began)
        if tag == TICK_TAG:
            self.collect_garbage(message.now)
        words[self._handled] += 1
        words[self._tag] = 0

    def note_progress(self) -> None:
        """Tell root that a long wait is not a stuck actor."""
        self._words[self._block + Cell.SINCE_NS] = time.monotonic_ns()
        self._words[self._block + Cell.LOOPS] += 1

    def collect_garbage(self, now: float) -> None:
        """Collect cycles now and then, all of them when idle; never in the middle of a batch."""
        if now < self._next_collection:
            return
        self._next_collection = now + COLLECTION_SECONDS
        handled = self._words[self._block + Cell.BATCHES]
        idle = handled - self._batches_before < IDLE_BATCHES
        self._batches_before = handled
        gc.collect(2 if idle else 0)

    @handles(Flush)
    def flush(self, _: Flush) -> None:
        """The batch is over; override to commit, sync and send what it produced."""

    @handles(Tick)
    def tick(self, _: Tick) -> None:
        """Time has passed; override for timers."""

    @handles(Welcome)
    def welcomed(self, message: Welcome) -> None:
        """A neighbour's stream has begun (again); override to ask for what is missing."""

    @handles(Fault)
    def suffer(self, message: Fault) -> None:
        """A fault was ordered that happens on this thread."""
        self.faults.suffer(message)

    @handles(Noise)
    def ignore(self, _: Noise) -> None:
        """A flood that was ordered."""

    def inject(self, message: Any) -> None:
        """Queue a local message; any thread may."""
        self.actor_inbox.put(Envelope(message))

    def stats(self) -> dict[str, Any]:
        """Return a read-only summary for the control mailbox; runs on its thread."""
        return {}

    def control_verbs(self) -> dict[str, Handler]:
        """Return this actor's own requests of the control mailbox; they run on its thread."""
        return {}

    def queued(self) -> list[dict[str, Any]]:
        """Return what is drained and not yet handled, oldest first; at most QUEUED_SHOWN."""
        now = time.monotonic_ns()
        return [
            {
                "sender": sender,
                "type": type(body).__name__,
                "sequence": sequence,
                "items": items,
                "bytes": size,
                "age_ms": round((now - sent_ns) / 1e6, 3),
                "fields": described(body),
            }
            for sender, body, items, sent_ns, sequence, size in self.actor_inbox.peek()[
                :QUEUED_SHOWN
            ]
        ]

    def _observe(self, request: dict[str, Any]) -> dict[str, Any]:
        self.observer.switch(on=bool(request["on"]))
        return {}

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.failure = exception_value
        super()._handle_failure(exception_type, exception_value, traceback)

    def _start_actor_loop(self) -> None:
        """Run on the caller's thread: a process has one actor, and it is the main thread's."""
        self._actor_loop()

    def _actor_loop_setup(self) -> None:
        super()._actor_loop_setup()
        if self.failure is None:
            self.links.start()
            self.board.set(self.name, Cell.STATE, State.RUNNING)

    def _actor_loop(self) -> None:
        control = ControlServer(
            self.context.run_dir / f"{self.name}.ctl",
            {
                "stats": lambda _: self.stats(),
                "peek": lambda _: {"queued": self.queued()},
                "tap": self.observer.taps.start,
                "tap-read": self.observer.taps.read,
                "tap-stop": self.observer.taps.stop,
                "observe": self._observe,
                "fault": self.faults.order,
                "stop": lambda _: self._ask_stop(),
                **self.control_verbs(),
            },
        )
        control.start()
        super()._actor_loop()
        self.links.close()
        if self.failure is not None:
            raise self.failure

    def _ask_stop(self) -> dict[str, Any]:
        self.actor_inbox.put(Envelope(pykka.messages._ActorStop()))
        return {}


def _tag_of(message_type: type[Any]) -> int:
    if message_type is Flush:
        return FLUSH_TAG
    if message_type is Tick:
        return TICK_TAG
    # One that has none is the actor's own, such as an order of its control mailbox.
    return codec.tags.get(message_type, LOCAL_TAG)


def run(actor_class: type[Actor], context: ActorContext) -> None:
    """Run one actor until it is stopped; raises what made it fail."""
    gc.disable()
    try:
        actor_class.start(context)
    except UNUSABLE as error:
        Logger(context.log_fd, context.name).error(
            "cannot go on with this data directory; stopping the member",
            data_dir=str(context.data_dir),
            error=f"{type(error).__name__}: {error}",
        )
        raise SystemExit(STORAGE_EXIT_CODE) from error
