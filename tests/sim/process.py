"""Processes of a simulated member, and what stands in for the machine under its actors.

The actors are the real ones, raft node and applier: only their base class's constructor, their
clock, their chance, the sync thread and the database file are replaced, by name, while `installed`
lasts. A process takes turns as transport.mailbox does: a Tick if one is due, what it was sent, what
it watches, then a Flush.

A process may be killed at any moment it shows itself to others: before each change of a file,
before each send, around a commit. `die_in` counts these moments down.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import actors.applier
import actors.early
import actors.raft_core
import actors.raft_elections
import actors.raft_feed
import actors.raft_grant
import actors.raft_log
import actors.raft_node
import actors.raft_reads
import actors.raft_roles
import storage.wal
import storage.wal_replay
from actors.base import Actor
from actors.cpu_wait import SPACING_MAX
from storage.wal_errors import WalDiskError
from transport.counters import BLOCK_WORDS, Cell
from transport.mailbox import Flush, Tick

if TYPE_CHECKING:
    from tests.sim.member import Member
    from tests.sim.world import World

NAMES: Final = ("raft-node", "applier", "gateway-0", "snapshotter", "transport", "lessor")
BATCH_MAX: Final = 256
READ_TAIL: Final = storage.wal_replay.Opening._read_tail


class ProcessKilledError(BaseException):
    """The process that was running is dead: nothing may catch this."""


class SimBoard:
    """The member's counters; they outlive every process."""

    def __init__(self) -> None:
        self.names = NAMES
        self.words = [0] * (BLOCK_WORDS * len(NAMES))

    def block(self, name: str) -> int:
        """See transport.counters.Board."""
        return NAMES.index(name) * BLOCK_WORDS

    def get(self, name: str, cell: int) -> int:
        """See transport.counters.Board."""
        return self.words[self.block(name) + cell]

    def word(self, name: str, metric: int) -> int:
        """Return a metric word."""
        return self.words[self.block(name) + Cell.METRICS + metric]

    def set_word(self, name: str, metric: int, value: int) -> None:
        """Set a metric word."""
        self.words[self.block(name) + Cell.METRICS + metric] = value


class Inbox:
    """What actors do with their mailbox besides receiving."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.next_tick = 0.0
        self.watched: Callable[[], None] | None = None

    def wake_at(self, when: float) -> None:
        """See transport.mailbox.Mailbox."""
        self.next_tick = min(self.next_tick, when)
        self._process.plan_tick()

    def watch(self, source: int, callback: Callable[[], None]) -> None:
        """See transport.mailbox.Mailbox."""
        self.watched = callback


class SimLinks:
    """What actors do with their streams."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def is_open(self, receiver: str) -> bool:
        """See transport.links.Links."""
        return self._process.member.edges.is_open(self._process.name, receiver)

    def reopen(self, sender: str) -> None:
        """See transport.links.Links."""
        self._process.member.edges.open_later(sender, self._process.name)

    def send(self, receiver: str, body: object, items: int = 1) -> bool:
        """See transport.links.Links."""
        self._process.moment()
        return self._process.member.edges.send(self._process.name, receiver, body)


class Process:
    """One process of a member. `actor` is set while it lives."""

    def __init__(self, member: Member, name: str, make: Callable[[Process], Any]) -> None:
        self.member = member
        self.world: World = member.world
        self.name = name
        self._make = make
        self.actor: Any = None
        self.incarnation = 0
        self.die_in = -1
        self.frozen_until = 0.0
        self.inbox = Inbox(self)
        self.queue: deque[object] = deque()
        self._turn_at = -1.0
        self._tick_at = -1.0

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is frozen)."""
        return self.actor is not None

    def start(self) -> None:
        """Start a new incarnation. It may die while it starts."""
        assert self.actor is None
        self.incarnation += 1
        self.queue.clear()
        self.inbox = Inbox(self)
        self.inbox.next_tick = self.member.local_now()
        self._turn_at = self._tick_at = -1.0
        with self.running():
            self.actor = self._make(self)
            self.actor.on_start()
            self.member.edges.started(self.name)
            self.plan_tick()

    def kill(self) -> None:
        """SIGKILL."""
        actor, self.actor = self.actor, None
        self.die_in = -1
        self.frozen_until = 0.0
        self.member.died(self, actor)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)

    def moment(self) -> None:
        """The process shows itself: a kill that was ordered may hit here."""
        if self.die_in >= 0:
            self.die_in -= 1
            if self.die_in < 0:
                raise ProcessKilledError

    def running(self) -> Running:
        """Return a context in which code runs as this process."""
        return Running(self)

    # --- turns ------------------------------------------------------------------------------------

    def deliver(self, message: object) -> None:
        """Put a message into the mailbox."""
        if self.actor is not None:
            self.queue.append(message)
            self.poke()

    def poke(self, delay: float | None = None) -> None:
        """Have a turn soon."""
        if self._turn_at >= 0:
            return
        chance = self.world.chance
        if delay is None:
            delay = chance.uniform(2e-5, 2e-4) if chance.random() < 0.98 else chance.random() / 50
        self._turn_at = self.world.now + delay
        self.world.after(delay, self._turn, self.incarnation)

    def plan_tick(self) -> None:
        """See to it that the next Tick comes when it is due."""
        # A little late rather than early by a rounding error: the turn would find nothing due.
        due = self.member.world_time(self.inbox.next_tick) + 1e-6
        if self._tick_at < 0 or due < self._tick_at:
            self._tick_at = max(due, self.world.now)
            self.world.at(self._tick_at, self._wake, self.incarnation)

    def _wake(self, incarnation: int) -> None:
        if incarnation == self.incarnation and self.actor is not None:
            self._tick_at = -1.0
            self.poke(0.0)

    def _turn(self, incarnation: int) -> None:
        if incarnation != self.incarnation or self.actor is None:
            return
        if self.frozen_until > self.world.now:
            self.world.at(self.frozen_until, self._turn, incarnation)
            return
        self._turn_at = -1.0
        actor = self.actor
        with self.running():
            self._take(actor)
        if self.actor is actor:
            self.plan_tick()
            if self.queue:
                self.poke()
            self.member.checked(self)

    def _take(self, actor: Any) -> None:
        now = self.member.local_now()
        if now >= self.inbox.next_tick:
            self.inbox.next_tick = now + actor.tick_seconds
            actor.on_receive(Tick(now))
        for _ in range(min(BATCH_MAX, len(self.queue))):
            actor.on_receive(self.queue.popleft())
        if self.inbox.watched is not None and self.member.syncer_has_news(self):
            self.inbox.watched()
        actor.on_receive(Flush())


class Running:
    """Code runs as one process: it may be killed, and what it raises is the member's affair."""

    __slots__ = ("_before", "_process")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._before = MACHINE.process

    def __enter__(self) -> None:
        self._before, MACHINE.process = MACHINE.process, self._process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        process = self._process
        try:
            if isinstance(error, ProcessKilledError):
                process.world.point(f"killed in the middle of a turn: {process.name}")
                process.kill()
                return True
            return error is not None and process.member.failed(process, error)
        finally:
            MACHINE.process = self._before


class Machine:
    """The machine that patched modules see: it is always that of the process that runs."""

    CLOCK_BOOTTIME = 7
    process: Process = None  # type: ignore[assignment]

    def monotonic(self) -> float:
        """Return the member's CLOCK_MONOTONIC."""
        return self.process.member.local_now()

    def monotonic_ns(self) -> int:
        """Return it in ns."""
        return int(self.monotonic() * 1e9)

    def clock_gettime_ns(self, clock: int) -> int:
        """Return CLOCK_BOOTTIME, which is CLOCK_MONOTONIC here, in ns."""
        return self.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Nobody may sleep."""
        raise AssertionError("an actor sleeps")

    def random_source(self) -> random.Random:
        """Stand in for random.SystemRandom."""
        return random.Random(self.process.world.chance.getrandbits(64))

    def urandom(self, count: int) -> bytes:
        """Stand in for os.urandom."""
        return self.process.world.chance.randbytes(count)


MACHINE: Final = Machine()


class _Watching(Machine):
    """Time for the applier: it passes while it looks at the raft node's word."""

    def __init__(self) -> None:
        self._passed = 0

    def monotonic_ns(self) -> int:
        """Return a time in ns that never stands still."""
        self._passed += 150_000
        return MACHINE.monotonic_ns() + self._passed

    def monotonic(self) -> float:
        """See Machine."""
        return MACHINE.monotonic()


class _DiskTime(Machine):
    """Time for the log: a sync in the middle of a turn seems to take as long as any other."""

    def __init__(self) -> None:
        self._passed = 0

    def monotonic_ns(self) -> int:
        """Return a time in ns that runs ahead by one sync with every look."""
        self._passed += int(MACHINE.process.member.sync_seconds() * 1e9)
        return MACHINE.monotonic_ns() + self._passed

    def monotonic(self) -> float:
        """See Machine."""
        return MACHINE.monotonic()


class SimSyncer:
    """Stands in for actors.raft_sync.SyncThread: a sync takes a while, then a turn follows."""

    descriptor = 0

    def __init__(self, sync: Callable[[], None], name: str) -> None:
        self._sync = sync
        self._process = MACHINE.process
        self._submitted = self._done = 0
        self._took_ns = 0
        self._busy = False
        self._error: Exception | None = None
        self.news = False

    def submit(self) -> int:
        """See SyncThread."""
        self._submitted += 1
        if not self._busy:
            self._begin()
        return self._submitted

    def _begin(self) -> None:
        self._busy = True
        member = self._process.member
        seconds = member.sync_seconds()
        self._took_ns = int(seconds * 1e9)
        member.world.after(seconds, self._end, self._submitted, member.epoch_of_log)

    def _end(self, target: int, epoch: int) -> None:
        member = self._process.member
        if member.epoch_of_log != epoch:
            return
        if self._process.frozen_until > member.world.now:
            pause = self._process.frozen_until - member.world.now
            member.world.after(pause, self._end, target, epoch)
            return
        self._busy = False
        with self._process.running():
            try:
                self._sync()
                self._done = target
            except WalDiskError as error:
                self._error = error
        if member.epoch_of_log != epoch:
            return
        self.news = True
        self._process.poke(0.0)
        if self._submitted > self._done and self._error is None:
            self._begin()

    def outcome(self) -> tuple[int, int]:
        """See SyncThread."""
        self.news = False
        if self._error is not None:
            raise self._error
        return self._done, self._took_ns

    def close(self) -> None:
        """See SyncThread."""


class SimCpuWait:
    """Stands in for actors.cpu_wait.CpuWait: the CPUs of a process are idle, or busy by chance."""

    def __init__(self) -> None:
        chance = MACHINE.process.world.chance
        self.spacing = chance.choice((0.0, chance.uniform(0.0, SPACING_MAX)))

    def look(self, now: float) -> None:
        """See CpuWait."""


class NullLog:
    """A logger that says nothing."""

    def info(self, text: str, **fields: object) -> None:
        """Say nothing."""
        process = MACHINE.process
        if process.world.tracing:
            process.world.trace(f"m{process.member.id} {process.name}: {text} {fields}")

    debug = warning = error = info


def _construct(actor: Any, context: Any) -> None:
    """Stand in for Actor.__init__: no thread, no socket."""
    process = context.process
    actor.context = context
    actor.name = context.name
    actor.board = process.member.board
    actor.log = NullLog()
    actor.links = SimLinks(process)
    actor.actor_inbox = process.inbox
    actor.failure = None
    actor.observer = SimpleNamespace(note=lambda *_: None)
    actor._words = actor.board.words
    actor._block = actor.board.block(context.name)
    actor._metrics = actor._block + Cell.METRICS
    actor._bound = {cls: getattr(actor, name) for cls, name in actor._handlers.items()}


def _receive(actor: Any, message: Any) -> None:
    """Stand in for Actor.on_receive: dispatch alone."""
    actor._bound[type(message)](message)


def _read_tail(opening: Any) -> Any:
    """Stand in for Opening._read_tail: do the same, and note what an unsynced roll has left."""
    segments = len(opening._found)
    found = READ_TAIL(opening)
    point = MACHINE.process.world.point
    if opening._behind:
        point("log opened whose roll was not synced")
    if len(opening._found) < segments:
        point("segment dropped that began behind lost records")
    return found


def context_of(process: Process, config: dict[str, Any]) -> SimpleNamespace:
    """Return what an actor is constructed with."""
    return SimpleNamespace(
        process=process, name=process.name, config=config, data_dir=Path("/sim"), member_name="m"
    )


def _database() -> Any:
    return MACHINE.process.member.database


def set_sizes(message_bytes: int, inflight: int) -> None:
    """Set the limits of messages and of appends under way."""
    actors.raft_core.MSG_BYTES_MAX = message_bytes  # type: ignore[misc]
    actors.raft_core.INFLIGHT_MAX = inflight  # type: ignore[misc]


class _Ballast:
    present = True

    def __init__(self, directory: Path) -> None:
        pass

    def keep(self) -> bool:
        return True

    def release(self) -> int:
        return 0


@contextmanager
def installed() -> Iterator[None]:
    """Put the simulated machine under the actors."""
    chance = SimpleNamespace(SystemRandom=MACHINE.random_source)
    elsewhere = SimpleNamespace(urandom=MACHINE.urandom)
    raft_node = actors.raft_node
    replaced: list[tuple[Any, str, Any]] = [
        (Actor, "__init__", _construct),
        (Actor, "on_receive", _receive),
        (raft_node, "recover", lambda context, log, at: MACHINE.process.member.recover(at)),
        (raft_node, "random", chance),
        (raft_node, "CpuWait", SimCpuWait),
        (actors.raft_elections, "random", chance),
        (actors.raft_reads, "random", chance),
        (actors.raft_log, "SyncThread", SimSyncer),
        (storage.wal, "os", elsewhere),
        (storage.wal_replay, "os", elsewhere),
        (storage.wal_replay.Opening, "_read_tail", _read_tail),
        (actors.applier, "time", _Watching()),
        (actors.applier, "Ballast", _Ballast),
        (actors.early, "LOOK_NS", 0),
        (actors.applier, "open_or_create", lambda directory: _database().open()),
        (actors.applier, "SqliteStore", lambda store: _database().adopt(store)),
        (actors.applier, "generation", lambda directory: _database().current),
        (actors.applier, "set_current", lambda directory, name: _database().set_current(name)),
        (
            actors.applier,
            "open_installed",
            lambda directory, term, index: _database().open_installed(term, index),
        ),
    ]
    sizes = ("MSG_BYTES_MAX", "INFLIGHT_MAX")
    core = actors.raft_core
    replaced += [(core, name, getattr(core, name)) for name in sizes]
    replaced.append((actors.applier, "APPLY_SECONDS_MAX", inf))  # of a real clock
    replaced.append((actors.raft_log, "time", _DiskTime()))
    timed = (raft_node, actors.raft_elections, actors.raft_feed, actors.raft_grant)
    replaced += [(module, "time", MACHINE) for module in timed]
    before = [(where, name, getattr(where, name)) for where, name, _ in replaced]
    for where, name, value in replaced:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)
