"""An SQLite database in WAL mode after a power loss: the recording VFS tells the truth."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw

from storage.recording import JOURNAL_NAME, Journal, open_journal, read_journal, recording_vfs
from tests.storage.power import Disk

ROWS = 120


def run_load(folder: Path, journal: Journal) -> None:
    """Insert rows one transaction each; with FULL every commit is a promise."""
    connection = apsw.Connection(str(folder / "db"), vfs=recording_vfs(journal))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)")
    with journal.syncing_folder(folder):
        pass  # the name of the database is durable from here on
    for number in range(ROWS):
        connection.execute("INSERT INTO t VALUES (?, randomblob(700))", (number,))
        journal.acknowledge("committed", number)
        if number % 25 == 24:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    connection.close()


def test_images_of_a_database_are_sound_and_hold_every_commit(tmp_path: Path) -> None:
    run_load(tmp_path, open_journal(tmp_path / "io"))
    disk = Disk(read_journal(tmp_path / "io" / JOURNAL_NAME), tmp_path)
    checked = 0

    for seed, cut in enumerate(disk.cuts(150, seed=1)):
        acknowledged = disk.acknowledged(cut)
        if not acknowledged:
            continue
        image = tmp_path / "image"
        shutil.rmtree(image, ignore_errors=True)
        disk.write_image(cut, seed, image)
        connection = apsw.Connection(str(image / "db"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n")]
        connection.close()
        assert rows == list(range(len(rows)))
        assert len(rows) > acknowledged[-1][1]
        checked += 1

    assert checked > 100


def test_a_commit_that_is_not_synced_is_lost_in_some_image(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "io")
    connection = apsw.Connection(str(tmp_path / "db"), vfs=recording_vfs(journal))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE t (n)")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    with journal.syncing_folder(tmp_path):
        pass
    connection.execute("INSERT INTO t VALUES (1)")
    disk = Disk(read_journal(tmp_path / "io" / JOURNAL_NAME), tmp_path)
    counts = set()

    for seed in range(30):
        shutil.rmtree(tmp_path / "image", ignore_errors=True)
        disk.write_image(len(disk.events), seed, tmp_path / "image")
        image = apsw.Connection(str(tmp_path / "image" / "db"))
        counts |= {row[0] for row in image.execute("SELECT count(*) FROM t")}
        image.close()

    assert counts == {0, 1}
    connection.close()
