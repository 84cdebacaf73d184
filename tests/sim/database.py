"""A member's database in memory: transactional, committed across crashes, durable by checkpoints.

As SQLite in WAL mode with synchronous=NORMAL: what is committed survives a killed process; a power
loss takes it back to the last checkpoint or to any commit after that. Every committed state is a
value of its own that nobody changes, so a snapshot, a view or a durable state is a reference.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kv.memory import MemoryStore, _Data
from kv.store import HistoryRow, Latest, Result, State
from storage.database import snapshot_name
from tests.sim.world import World

FIRST = snapshot_name(0, 0)


class SimStore(MemoryStore):
    """MemoryStore with cheap transactions and states that can be kept."""

    def __init__(self, data: _Data | None = None) -> None:
        super().__init__()
        if data is not None:
            self._committed = self._data = data
        self.on_rows: Callable[[list[HistoryRow]], None] = lambda rows: None
        self.on_commit: Callable[[str], None] = lambda operation: None
        self._written: list[HistoryRow] = []

    @property
    def committed(self) -> _Data:
        """The state others see; it never changes."""
        return self._committed

    def load(self) -> State:
        """See Store."""
        return copy.deepcopy(self._committed.state)

    def begin(self) -> None:
        """See Store."""
        assert self._data is self._committed, "a transaction is open"
        self._data = _fork(self._committed)
        self._written = []

    def commit(self) -> None:
        """See Store."""
        self.on_commit("before commit")
        super().commit()
        self.on_rows(self._written)
        self.on_commit("after commit")

    def write(self, history: list[HistoryRow], latest: dict[bytes, Latest]) -> None:
        """See Store."""
        rows = self._data.history
        last = next(reversed(rows)) if rows else 0
        for row in history:
            assert row[0] > last, "row ids ascend"
            last = row[0]
            rows[last] = row
        self._data.latest.update(latest)
        self._written += history

    # --- what the applier asks of SqliteStore besides ---------------------------------------------

    def abandon(self) -> None:
        """See SqliteStore."""
        self.rollback()

    def wal_frames(self) -> int:
        """See SqliteStore."""
        return 0

    def pruned_to(self) -> int:
        """See SqliteStore."""
        return -1

    def session_results(self, session_id: int, ids: range) -> dict[int, Result]:
        """See storage.reader.View."""
        found: dict[int, Result] = {}
        for request_id, kept in self.results(session_id, ids.start, ids.stop - 1).items():
            if isinstance(kept, int):
                found[request_id] = kept
            elif isinstance(kept[1], bytes):
                found[request_id] = kept[0], kept[1]
        return found


def _fork(data: _Data) -> _Data:
    """Copy what a transaction changes in place; records are replaced, never changed."""
    state = data.state
    copied = dataclasses.replace(
        state,
        progress=dataclasses.replace(state.progress),
        members=dict(state.members),
        alarms=set(state.alarms),
        sessions=dict(state.sessions),
    )
    kept = {session: dict(results) for session, results in data.kept.items()}
    fields: dict[str, Any] = {"state": copied, "kept": kept}
    for field in dataclasses.fields(data):
        if field.name not in fields:
            fields[field.name] = dict(getattr(data, field.name))
    return _Data(**fields)


class View:
    """One read transaction: implements what Reads and kv.range ask of storage.reader.View."""

    def __init__(self, store: SimStore) -> None:
        self.store = SimStore(store.committed)
        progress = store.committed.state.progress
        self.applied_index = progress.applied_index
        self.applied_term = progress.applied_term
        self.revision = progress.revision
        self.compact_revision = progress.compact_revision


class SimReader:
    """A gateway's connection: it stays on its file until it looks which one is in use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reopen()

    def reopen(self) -> None:
        """Go over to the file in use."""
        self._generation = self._database.current
        self._store = self._database.store

    @contextmanager
    def view(self) -> Iterator[View]:
        """Open one read transaction."""
        if self._database.current == self._generation:
            self._store = self._database.store
        yield View(self._store)


class Database:
    """The database folder of one member."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.files: dict[str, _Data] = {FIRST: _Data()}
        self.current = FIRST
        self.store = SimStore(self.files[FIRST])
        self._durable = self.store.committed
        self._since: list[_Data] = []
        self.on_rows: Callable[[list[HistoryRow]], None] = lambda rows: None
        self.on_commit: Callable[[str], None] = lambda operation: None

    def open(self) -> SimStore:
        """Open the file in use for a new writer; an open transaction of the one before is gone."""
        return self._store_of(self.store.committed)

    def adopt(self, store: SimStore) -> SimStore:
        """Make this store the one in use."""
        self.store = store
        return store

    def open_installed(self, term: int, index: int) -> SimStore:
        """Open a received snapshot, as storage.database.open_installed."""
        return self._store_of(self.files[snapshot_name(term, index)])

    def set_current(self, name: str) -> None:
        """Go over to another file, durably."""
        self.current = name
        self.store = self._store_of(self.files[name])
        self._durable = self.files[name]
        self._since = []

    def _store_of(self, data: _Data) -> SimStore:
        store = SimStore(data)
        store.on_rows, store.on_commit = self.on_rows, self._committed
        return store

    def _committed(self, operation: str) -> None:
        self.on_commit(operation)
        if operation == "after commit":
            self._since.append(self.store.committed)

    def checkpoint(self) -> tuple[int, int]:
        """Make what is committed durable; return its (applied index, term)."""
        self._durable = self.store.committed
        self._since = []
        progress = self._durable.state.progress
        return progress.applied_index, progress.applied_term

    def lose_power(self) -> None:
        """Fall back to the durable state, or any commit since."""
        left = self._world.chance.choice([self._durable, *self._since])
        if left is not self.store.committed:
            self._world.point("database fell back")
        self.store = self._store_of(left)
        self._durable = left
        self._since = []
