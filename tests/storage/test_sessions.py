"""Sessions and their results in the database."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kv.memory import MemoryStore
from kv.session import Sessions
from kv.store import Kept, KeptResults, Session
from storage.database import open_or_create, open_writer
from storage.sessions import ROW_BYTES_KEPT, ROWS_KEPT
from storage.store import SqliteStore


def opened(folder: Path) -> SqliteStore:
    store = SqliteStore(open_or_create(folder))
    store.load()
    return store


def rows(store: SqliteStore) -> list[tuple[int, int, int]]:
    """Return the number of each row, its session and its highest request."""
    found: list[tuple[int, int, int]] = store.execute(
        "SELECT number, session, last_id FROM session_results ORDER BY number"
    ).fetchall()
    return found


def keep(store: SqliteStore, session: Session, *results: Kept, late: int = 0) -> None:
    """Keep results of the next requests in a transaction."""
    runs: KeptResults = [(late or session.highest + 1, list(results))]
    session.highest = max(session.highest, runs[0][0] + len(results) - 1)
    store.begin()
    store.keep_results(session, runs)
    store.commit()


def one_session(store: SqliteStore, session_id: int = 1) -> Session:
    session = Session(session_id, 7, 0)
    store.begin()
    store.save_session(session)
    store.commit()
    return session


def test_a_row_is_written_over_when_all_of_it_is_answered(tmp_path: Path) -> None:
    store = opened(tmp_path)
    one, other = one_session(store, 1), one_session(store, 1 << 63)
    keep(store, one, 11, 12)
    keep(store, one, 13)
    keep(store, other, 21)
    one.mark = 2
    keep(store, one, 14)
    before = rows(store)
    one.mark = 3

    keep(store, one, 15)
    keep(store, other, 22)
    one.mark = other.mark = 6
    keep(store, one, 16)

    assert [last for _, _, last in before] == [2, 3, 1, 4]
    assert rows(store) == [(1, 1, 5), (2, 1, 6), (3, -(1 << 63), 1), (4, 1, 4), (5, -(1 << 63), 2)]
    assert store.results(1, 6, 9) == {6: 16}


def test_marks_and_numbers_survive_in_whatever_row_they_are(tmp_path: Path) -> None:
    store = opened(tmp_path)
    one, other = one_session(store, 1), one_session(store, 2)
    keep(store, one, 11, 12, 13)
    one.mark = 3
    keep(store, one, 14)
    keep(store, other, 21, 22)
    other.mark = 2
    keep(store, other, 23, late=2)
    store.close()

    again = SqliteStore(open_writer(tmp_path))
    loaded = again.load().sessions
    loaded[1].mark = 4  # row 1 is answered now, and every row is known
    keep(again, loaded[1], 15)
    keep(again, loaded[1], 16)

    assert loaded == {1: Session(1, 7, 0, 4, 6), 2: Session(2, 7, 0, 2, 2)}
    assert [row for row in rows(again) if row[1] == 1] == [(1, 1, 5), (2, 1, 4), (5, 1, 6)]
    again.close()


@pytest.mark.parametrize("big", [True, False])
def test_rows_that_are_big_or_many_are_deleted(tmp_path: Path, big: bool) -> None:
    store = opened(tmp_path)
    session = one_session(store)
    count = 3 if big else ROWS_KEPT + 5
    for request in range(count):
        keep(store, session, (request, b"x" * ROW_BYTES_KEPT) if big else request)
    before = rows(store)
    session.mark = session.highest + 1

    keep(store, session, 99)
    after = rows(store)
    keep(store, session, 100)
    keep(store, session, 101)

    assert len(before) == count
    assert len(after) == (1 if big else ROWS_KEPT)
    assert len(rows(store)) == (3 if big else ROWS_KEPT)
    assert max(number for number, _, _ in rows(store)) <= count


def test_a_closed_session_has_no_results_and_its_rows_are_used_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    one, other = one_session(store, 1), one_session(store, 2)
    keep(store, one, 1)
    keep(store, other, 2)
    one.closed = True
    store.begin()
    store.save_session(one)
    store.commit()
    closed = rows(store)

    keep(store, other, 3)

    assert closed == [(2, 2, 1)]
    assert rows(store) == [(1, 2, 2), (2, 2, 1)]


def wanted(store: Any, sessions: dict[int, Session]) -> dict[tuple[int, int], Kept]:
    """Return all results that may still be asked for."""
    return {
        (session.id, request): result
        for session in sessions.values()
        if not session.closed
        for request, result in store.results(session.id, session.mark, session.highest).items()
    }


class Both:
    """The table of sessions over the database and over memory, with the same done to both."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.random = random
        self.folder = folder
        self.stores: list[Any] = [opened(folder), MemoryStore()]
        self.tables = [Sessions(store, {}) for store in self.stores]
        self.next = 0

    def reload(self) -> None:
        self.tables = [Sessions(store, store.load().sessions) for store in self.stores]

    def restart(self) -> None:
        self.stores[0].close()
        self.stores[0] = SqliteStore(open_writer(self.folder))
        self.reload()

    def transaction(self) -> None:
        for store in self.stores:
            store.begin()
        for _ in range(self.random.randint(1, 4)):
            self.step()
        for table in self.tables:
            table.flush()
        if self.random.random() < 0.9:
            for store in self.stores:
                store.commit()
        else:
            for store in self.stores:
                store.rollback()
            self.reload()

    def step(self) -> None:
        known = list(self.tables[0]._sessions)
        if not known or self.random.random() < 0.1:
            self.next += 1
            for table in self.tables:
                table.open(self.next, 1, self.next % 3)
            return
        session_id = self.random.choice(known)
        sessions = [table.get(session_id) for table in self.tables]
        if sessions[0] is None:
            return
        grow, size = self.random.randint(0, 12), self.random.choice((1, 3, 40))
        results: list[Kept] = [self.random.choice((5, (6, b"x" * 5000), (7, 6)))] * size
        for table, session in zip(self.tables, sessions, strict=True):
            assert session is not None
            table.move_mark(session, min(session.mark + grow, session.highest + 1))
            if size > 1 or grow < 6:
                table.keep(session, session.highest + 1, list(results))

    def check(self) -> None:
        mine, model = (copy.deepcopy(store.load().sessions) for store in self.stores)
        assert mine == model
        assert wanted(self.stores[0], mine) == wanted(self.stores[1], model)


@pytest.mark.parametrize("seed", range(6))
def test_the_database_keeps_what_memory_keeps(tmp_path: Path, seed: int) -> None:
    both = Both(tmp_path, Random(seed))

    for turn in range(150):
        both.transaction()
        both.check()
        if turn % 20 == 19:
            both.restart()
            both.check()

    assert both.next > 10
    assert len(rows(both.stores[0])) < 60
    both.stores[0].close()
