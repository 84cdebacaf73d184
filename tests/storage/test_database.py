"""Database files: created, named, opened."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from storage.database import (
    DatabaseError,
    SqliteVersionError,
    check_sqlite,
    create,
    exists,
    generation,
    open_checkpointer,
    open_or_create,
    open_reader,
    open_writer,
    set_current,
)
from storage.files import OsFiles


def test_a_new_database_has_its_pragmas(tmp_path: Path) -> None:
    connection = open_or_create(tmp_path / "db")

    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("auto_vacuum") == 2
    assert connection.pragma("page_size") == 4096
    assert connection.pragma("synchronous") == 1
    assert connection.pragma("wal_autocheckpoint") == 0
    assert connection.pragma("cache_size") == -32768
    assert generation(tmp_path / "db") == "db.0-0"


def test_a_reader_can_not_write(tmp_path: Path) -> None:
    create(tmp_path / "db")
    reader = open_reader(tmp_path / "db" / "db.0-0")

    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("UPDATE progress SET revision = 5")

    assert reader.pragma("mmap_size") == 0


def test_a_checkpointer_can_not_write_rows(tmp_path: Path) -> None:
    create(tmp_path / "db")
    checkpointer = open_checkpointer(tmp_path / "db" / "db.0-0")

    with pytest.raises(apsw.ReadOnlyError):
        checkpointer.execute("UPDATE progress SET revision = 5")


def test_a_creation_that_was_cut_short_is_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    folder.mkdir()
    for name in ("db.0-0", "db.0-0-wal", "CURRENT.new"):
        (folder / name).write_bytes(b"torn")

    assert not exists(folder)
    create(folder)

    assert open_writer(folder).execute("SELECT revision FROM progress").get == 1


def test_the_name_of_the_file_in_use_is_durable_before_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "db"
    open_or_create(folder).close()
    synced: list[Path] = []
    monkeypatch.setattr(OsFiles, "sync_directory", lambda _, path: synced.append(path))

    open_or_create(folder).close()

    assert synced == [folder]


def test_what_can_not_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="CURRENT does not exist"):
        open_writer(tmp_path)

    (tmp_path / "CURRENT").write_text("../secrets\n")
    with pytest.raises(DatabaseError, match="no database file"):
        open_writer(tmp_path)

    set_current(tmp_path, "db.3-9")
    with pytest.raises(DatabaseError, match=r"db\.3-9 can't be opened"):
        open_writer(tmp_path)

    (tmp_path / "db.3-9").write_bytes(b"x" * 8192)
    with pytest.raises(DatabaseError, match=r"db\.3-9 is not a database"):
        open_writer(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    connection = open_or_create(tmp_path / "db")
    connection.pragma("user_version", 99)
    connection.close()

    with pytest.raises(DatabaseError, match="has format 99"):
        open_writer(tmp_path / "db")


def test_another_applications_database_is_refused(tmp_path: Path) -> None:
    apsw.Connection(str(tmp_path / "db.1-1")).execute("CREATE TABLE t (x)")
    set_current(tmp_path, "db.1-1")

    with pytest.raises(DatabaseError, match="not a database of ours"):
        open_writer(tmp_path)


def test_an_sqlite_with_the_wal_reset_bug_is_refused() -> None:
    check_sqlite("3.51.3")
    check_sqlite("3.54.0")

    for version in ("3.51.2", "3.40.1"):
        with pytest.raises(SqliteVersionError, match=version):
            check_sqlite(version)
