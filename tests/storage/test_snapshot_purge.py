"""Old databases go when nobody has them open, and never before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.checkpoint import Checkpointer
from storage.database import open_installed, set_current, snapshot_name
from storage.files import OsFiles
from storage.reader import Reader
from storage.snapshot import publish
from storage.snapshot_purge import purge, replaced, waiting
from tests.storage.snapshot_bench import TERM, Database, announced, made

FILES = OsFiles()
READER = """
import sys
from pathlib import Path
from storage.reader import Reader

reader = Reader(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
with reader.view() as view:
    print(view.applied_index, flush=True)
reader.reopen()
print("moved", flush=True)
sys.stdin.readline()
"""


class ReadingProcess:
    """Another process with a reader on the database that is in use when it starts."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.says("open")

    def says(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.communicate("\n\n", timeout=10)


def installed(directory: Path, ahead: int = 10) -> str:
    """Install a snapshot of a member that is ahead; return the name of the new file."""
    leader = Database(directory.with_name("leader"))
    leader.put(ahead)
    facts = made(leader)
    leader.close()
    what = announced(facts)
    facts.path.rename(directory / what.partial_name)
    publish(directory, what, FILES)
    open_installed(directory, what.term, what.index).close()
    set_current(directory, what.final_name, FILES)
    return what.final_name


def test_a_file_stays_as_long_as_another_process_has_it_open(tmp_path: Path) -> None:
    directory = tmp_path / "db"
    Database(directory).close()
    reader = ReadingProcess(directory)
    name = installed(directory)

    assert replaced(directory, 11, FILES) == ["db.0-0"]
    assert purge(directory, 11, FILES, own=name) == []
    reader.go_on()
    reader.says("1")  # it still reads the old file, as one whole
    reader.says("moved")
    assert purge(directory, 11, FILES, own=name) == ["db.0-0"]

    assert FILES.list(directory) == sorted(["CURRENT", name, name + "-shm", name + "-wal"])
    reader.close()


def test_the_file_in_use_is_never_removed(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.close()

    assert purge(tmp_path / "db", 1_000_000, FILES, own="") == []
    assert "db.0-0" in FILES.list(tmp_path / "db")


def test_what_may_still_be_installed_is_kept(tmp_path: Path) -> None:
    Database(tmp_path / "db").close()
    for index in (5, 9):
        (tmp_path / "db" / snapshot_name(TERM, index)).write_bytes(b"complete")

    assert waiting(tmp_path / "db", 5, FILES) == [snapshot_name(TERM, 9)]
    assert purge(tmp_path / "db", 5, FILES, own="") == [snapshot_name(TERM, 5)]
    assert snapshot_name(TERM, 9) in FILES.list(tmp_path / "db")


def test_a_process_does_not_touch_the_file_it_has_open_itself(tmp_path: Path) -> None:
    directory = tmp_path / "db"
    Database(directory).close()
    checkpointer = Checkpointer(directory)
    installed(directory)

    assert purge(directory, 11, FILES, own=checkpointer.generation) == []
    assert checkpointer.reopen()
    assert purge(directory, 11, FILES, own=checkpointer.generation) == ["db.0-0"]
    checkpointer.close()


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_log_never_outlives_its_database(tmp_path: Path, suffix: str) -> None:
    Database(tmp_path / "db").close()
    orphan = snapshot_name(TERM, 7) + suffix
    (tmp_path / "db" / orphan).write_bytes(b"left by a removal that was cut short")

    assert purge(tmp_path / "db", 1, FILES, own="") == [orphan]
    assert orphan not in FILES.list(tmp_path / "db")


def test_partial_files_and_current_are_nobody_s_to_purge(tmp_path: Path) -> None:
    Database(tmp_path / "db").close()
    (tmp_path / "db" / "snapshot.in.3-7.10.00").write_bytes(b"x")

    assert purge(tmp_path / "db", 100, FILES, own="") == []
    assert {"CURRENT", "snapshot.in.3-7.10.00"} <= set(FILES.list(tmp_path / "db"))


def test_a_reader_that_opens_a_file_while_it_is_purged_finds_the_new_one(tmp_path: Path) -> None:
    directory = tmp_path / "db"
    Database(directory).close()
    reader = Reader(directory)
    name = installed(directory)
    reader.close()
    purge(directory, 11, FILES, own=name)

    reader = Reader(directory)

    assert reader.generation == name
    assert not reader.reopen()
    reader.close()
