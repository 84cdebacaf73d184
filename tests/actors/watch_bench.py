"""A watch hub on a bench: a history in memory, an event loop whose turns are counted, sinks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from actors.watch_hub import WatchHub
from etcdpb.kv_pb2 import Event
from etcdpb.rpc_pb2 import WatchResponse
from kv.store import SUB_BITS, HistoryRow, row_id
from kv.watch import Watcher, watched_range


class Slice:
    """storage.events.Slice over a list."""

    def __init__(self, history: History) -> None:
        self.revision = history.revision_now
        self.compact_revision = history.compact_revision
        self.intact_from = history.intact_from
        self.rows: list[HistoryRow] = []
        self.rest = 0
        self._history = history

    def read(self, place: int, to: int, rows_max: int, bytes_max: int) -> None:
        limit = min(rows_max, self._history.slice_rows)
        found = [row for row in self._history.rows if place <= row[0] < row_id(to + 1)]
        self.rows = found[:limit]
        self.rest = found[limit][0] if len(found) > limit else 0
        self._history.slices += 1
        self._history.rows_read += len(self.rows)

    def previous(self, ids: Collection[int]) -> dict[int, HistoryRow]:
        return {row[0]: row for row in self._history.rows if row[0] in set(ids)}


class History:
    """A store's history in memory; `slice_rows` is how much one slice holds."""

    def __init__(self, slice_rows: int = 4) -> None:
        self.rows: list[HistoryRow] = []
        self.revision_now = 1
        self.compact_revision = -1
        self.intact_from = 0
        self.slice_rows = slice_rows
        self.slices = 0
        self.rows_read = 0
        self._newest: dict[bytes, HistoryRow] = {}

    def write(self, **changes: bytes | None) -> int:
        """Put (or delete, for None) keys in one revision."""
        self.revision_now += 1
        for sub, (name, value) in enumerate(changes.items()):
            key = name.encode()
            identity = row_id(self.revision_now, sub)
            before = self._newest.get(key)
            previous = before[0] if before else 0
            version = before[4] if before else 0
            if value is None:
                row = (identity, key, previous, 0, 0, 0, b"")
            else:
                created = before[3] if before and version else self.revision_now
                row = (identity, key, previous, created, version + 1, 0, value)
            self.rows.append(row)
            self._newest[key] = row
        return self.revision_now

    def compact(self, revision: int, *, prune: bool = True) -> None:
        """Forget what is below; pruned rows are gone."""
        self.compact_revision = revision
        if prune:
            self.intact_from = row_id(revision)
            self.rows = [
                row
                for row in self.rows
                if row[0] >= row_id(revision)
                or not any(o[2] == row[0] and o[0] < row_id(revision + 1) for o in self.rows)
            ]

    def revision(self) -> int:
        return self.revision_now

    def reopen(self) -> bool:
        return False

    @contextmanager
    def slice(self) -> Iterator[Slice]:
        yield Slice(self)


class Timer:
    """What is to be called at a time, unless it is cancelled."""

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop whose time, in seconds, goes on only when it is told to sleep."""

    def __init__(self) -> None:
        self.due: deque[Callable[[], None]] = deque()
        self.now = 0.0
        self._timers: list[Timer] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now + seconds, callback)
        self._timers.append(timer)
        return timer

    @property
    def timers(self) -> list[Timer]:
        """Return what is still to be called later, soonest first."""
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        return sorted(self._timers, key=lambda timer: timer.at)

    def sleep(self) -> None:
        """Let time go on to the next timer."""
        first = self.timers[0]
        self._timers.remove(first)
        self.now = first.at
        first.callback()

    def turn(self) -> None:
        for _ in range(len(self.due)):
            self.due.popleft()()

    def run(self, turns: int = 1000) -> None:
        """Turn, and sleep, until nothing is left to do."""
        while (self.due or self.timers) and turns:
            if self.due:
                self.turn()
            else:
                self.sleep()
            turns -= 1
        assert not self.due, "the hub finds no rest"


class Client:
    """A kv.watch.Sink that remembers; `room` responses are taken before it is full."""

    def __init__(self) -> None:
        self.room = 1 << 60
        self.responses: list[tuple[Watcher, int, list[Event]]] = []
        self.compactions: list[tuple[Watcher, int]] = []
        self.flushes = 0

    def take(self, watcher: Watcher, revision: int, events: list[bytes], size: int) -> bool:
        if not self.room:
            return False
        self.room -= 1
        assert size == sum(map(len, events))
        self.responses.append((watcher, revision, decoded(events)))
        return True

    def flush(self) -> None:
        self.flushes += 1

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        self.compactions.append((watcher, compact_revision))

    def seen(self, watcher: Watcher) -> list[tuple[int, bytes]]:
        """Return (revision, key) of all events of a watcher."""
        return [
            (event.kv.mod_revision, event.kv.key)
            for other, _, events in self.responses
            if other is watcher
            for event in events
        ]


class Bench:
    """Hub, history and loop."""

    def __init__(self, slice_rows: int = 4) -> None:
        self.history = History(slice_rows)
        self.loop = Loop()
        self.hub = WatchHub(self.history, self.loop.call_soon, self.loop.call_later)  # type: ignore[arg-type]
        self.client = Client()

    def watch(
        self, key: bytes, range_end: bytes = b"", client: Client | None = None, **options: Any
    ) -> Watcher:
        """Add a watcher."""
        watcher = Watcher(client or self.client, 0, watched_range(key, range_end), **options)
        self.hub.add(watcher)
        return watcher

    def write(self, **changes: bytes | None) -> int:
        """Write one revision, tell the hub, and let it come to rest."""
        revision = self.history.write(**changes)
        self.hub.notice()
        self.loop.run()
        return revision


def decoded(events: list[bytes]) -> list[Event]:
    """Parse events as a client does."""
    return list(WatchResponse.FromString(b"".join(events)).events)


def revisions(rows: list[HistoryRow]) -> list[int]:
    """Return the revision of each row."""
    return [row[0] >> SUB_BITS for row in rows]
