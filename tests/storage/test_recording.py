"""Recording the disk of living processes, as the environment asks for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from storage.faults import FaultyFiles
from storage.files import FAULT_VARIABLE, RECORD_VARIABLE, OsFiles, default_files
from storage.recording import (
    JOURNAL_NAME,
    Journal,
    Kind,
    default_vfs,
    open_journal,
    read_journal,
    recording_vfs,
)
from storage.wal import Wal
from tests.storage.power import Disk

LOGGER = """
import sys
from pathlib import Path
from raft.state import Entry
from storage.files import default_files
from storage.wal import Wal

files = default_files()
wal = Wal.create(Path(sys.argv[1]), b"", files, segment_bytes=16384)
for index in range(1, 100000):
    wal.append([Entry(1, index, bytes(900))], None)
    wal.sync()
    files.journal.acknowledge("index", index)
    if index % 50 == 0:
        print(index, flush=True)
"""


def test_the_journal_of_killed_processes_gives_images_of_what_they_promised(
    tmp_path: Path,
) -> None:
    """Two processes write into one journal until both are killed."""
    environment = {RECORD_VARIABLE: str(tmp_path / "io"), "PYTHONPATH": ":".join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOGGER, str(tmp_path / name)],
            env=environment,
            stdout=subprocess.PIPE,
        )
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"50\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

    disk = Disk(read_journal(tmp_path / "io" / JOURNAL_NAME), tmp_path)
    both = 0
    for seed, cut in enumerate(disk.cuts(20, seed=4)):
        image = tmp_path / "image"
        shutil.rmtree(image, ignore_errors=True)
        disk.write_image(cut, seed, image)
        promised = max((value for _, value in disk.acknowledged(cut)), default=0)
        found = []
        for name in ("one", "two"):
            if Wal.exists(image / name, OsFiles()):
                wal, replay = Wal.open(image / name, OsFiles(), segment_bytes=16384)
                wal.close()
                found.append(len(replay.entries))
        assert max(found, default=0) >= promised
        both += len(found) == 2
    assert both, "no image held both logs"


def test_what_a_killed_process_left_half_written_is_skipped(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.acknowledge("first", 1)
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-3])
    journal.acknowledge("second", 2)

    events = read_journal(path)

    assert events == [[Kind.ACK, "first", 1], [Kind.ACK, "second", 2]]


def test_the_environment_chooses_the_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RECORD_VARIABLE, raising=False)
    monkeypatch.delenv(FAULT_VARIABLE, raising=False)
    assert type(default_files()) is OsFiles
    assert default_vfs() is None

    monkeypatch.setenv(FAULT_VARIABLE, str(tmp_path / "control"))
    assert type(default_files()) is FaultyFiles

    monkeypatch.setenv(RECORD_VARIABLE, str(tmp_path / "io"))
    connection = apsw.Connection(str(tmp_path / "db"), vfs=default_vfs())
    connection.execute("CREATE TABLE t (n)")
    connection.close()
    events = read_journal(tmp_path / "io" / JOURNAL_NAME)
    assert [Kind.OPEN, str(tmp_path / "db"), True] in [[e[0], *e[2:]] for e in events]


class WatchfulJournal(Journal):
    """Notes which files were there when it was told that they are opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.found: dict[str, bool] = {}

    def opened(self, path: Path | str, created: bool) -> int:
        self.found[f"{os.path.basename(path)} {'made' if created else 'opened'}"] = os.path.exists(
            path
        )
        return super().opened(path, created)


def test_a_file_of_sqlite_is_recorded_before_another_process_can_find_it(tmp_path: Path) -> None:
    journal = WatchfulJournal(tmp_path / JOURNAL_NAME)
    vfs = recording_vfs(journal)
    connection = apsw.Connection(str(tmp_path / "db"), vfs=vfs)
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE t (n)")
    apsw.Connection(str(tmp_path / "db"), vfs=vfs).execute("SELECT * FROM t")

    assert journal.found == {
        "db made": False,
        "db-journal made": False,
        "db-wal made": False,
        "db opened": True,
        "db-wal opened": True,
    }
