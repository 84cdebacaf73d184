"""What a watch hub reads of the database: slices of the history, each of one moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv.store import HistoryRow, Progress, row_id
from storage.compaction import prune_slice
from storage.database import CURRENT, create, generation, open_writer
from storage.events import EventReader
from storage.store import SqliteStore


class Desk:
    def __init__(self, folder: Path) -> None:
        create(folder)
        self.store = SqliteStore(open_writer(folder))
        self.revision = 1
        self._previous: dict[bytes, int] = {}

    def write(self, *keys: bytes, value: bytes = b"v") -> None:
        """Put keys in one revision; no value deletes them."""
        self.revision += 1
        rows: list[HistoryRow] = []
        for sub, key in enumerate(keys):
            identity = row_id(self.revision, sub)
            version = 1 if value else 0
            rows.append((identity, key, self._previous.get(key, 0), 2, version, 0, value))
            self._previous[key] = identity
        self.store.begin()
        self.store.write(rows, {row[1]: (row[0], 2, row[4], 0) for row in rows})
        self.store.save_progress(Progress(revision=self.revision))
        self.store.commit()

    def compact(self, revision: int) -> None:
        self.store.begin()
        self.store.save_progress(Progress(revision=self.revision, compact_revision=revision))
        self.store.commit()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def reader(desk: Desk, tmp_path: Path) -> EventReader:
    return EventReader(tmp_path)


def test_rows_come_in_order_up_to_a_revision(desk: Desk, reader: EventReader) -> None:
    for key in (b"a", b"b", b"c"):
        desk.write(key, key + b"2")

    with reader.slice() as part:
        part.read(row_id(3), 3, 100, 1 << 20)

    assert [(row[0], row[1]) for row in part.rows] == [(row_id(3), b"b"), (row_id(3, 1), b"b2")]
    assert (part.rest, part.revision) == (0, 4)


def test_a_slice_ends_at_its_bounds_and_says_where_it_goes_on(
    desk: Desk, reader: EventReader
) -> None:
    desk.write(b"a", b"b", b"c", value=b"x" * 1000)

    with reader.slice() as by_rows:
        by_rows.read(0, 9, 2, 1 << 20)
    with reader.slice() as by_bytes:
        by_bytes.read(0, 9, 100, 1500)
    with reader.slice() as one:
        one.read(0, 9, 100, 1)

    assert (len(by_rows.rows), by_rows.rest) == (2, row_id(2, 2))
    assert (len(by_bytes.rows), by_bytes.rest) == (2, row_id(2, 2))
    assert (len(one.rows), one.rest) == (1, row_id(2, 1))


def test_previous_rows_are_found_by_id(desk: Desk, reader: EventReader) -> None:
    desk.write(b"a")
    desk.write(b"a", value=b"w")

    with reader.slice() as part:
        found = part.previous([row_id(2), row_id(3), row_id(9)])

    assert {identity: row[6] for identity, row in found.items()} == {
        row_id(2): b"v",
        row_id(3): b"w",
    }


def test_nothing_is_pinned_between_slices(desk: Desk, reader: EventReader) -> None:
    desk.write(b"a")
    with reader.slice() as part:
        part.read(0, 9, 1, 1)
    before = reader.revision()

    desk.write(b"b")

    assert (before, reader.revision()) == (2, 3)


def test_a_slice_knows_from_where_nothing_is_pruned(desk: Desk, reader: EventReader) -> None:
    for _ in range(6):
        desk.write(b"a")
    desk.compact(5)
    with reader.slice() as before:
        pass

    prune_slice(desk.store, 2)
    with reader.slice() as half:
        half.read(0, 9, 100, 1 << 20)
    while not prune_slice(desk.store, 100).finished:
        pass
    with reader.slice() as after:
        after.read(0, 9, 100, 1 << 20)

    assert (before.intact_from, before.compact_revision) == (0, 5)
    assert half.intact_from == row_id(3) + 1
    assert {row_id(4), row_id(5)} < {row[0] for row in half.rows}
    assert after.intact_from == row_id(5)
    assert [row[0] for row in after.rows] == [row_id(n) for n in (5, 6, 7)]


def test_another_database_file_is_gone_over_to(
    desk: Desk, reader: EventReader, tmp_path: Path
) -> None:
    other = Desk(tmp_path / "other")
    for _ in range(5):
        other.write(b"z")
    other.store.close()
    name = "db.9-9"
    (tmp_path / "other" / generation(tmp_path / "other")).rename(tmp_path / name)
    unchanged = reader.reopen()

    (tmp_path / CURRENT).write_text(name + "\n")

    assert not unchanged
    assert reader.reopen()
    assert reader.revision() == 6
