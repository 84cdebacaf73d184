"""Snapshot files: made under writes, verified, published, found again."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

import storage.snapshot
from raft.state import ConfState
from storage.checkpoint import Checkpointer
from storage.database import DatabaseError, open_installed, place, set_current, snapshot_name
from storage.files import OsFiles
from storage.reader import Reader
from storage.snapshot import (
    MAKING,
    Announced,
    SnapshotError,
    SnapshotFile,
    make,
    publish,
    recheck,
    sort_leftovers,
    verify,
)
from tests.storage.snapshot_bench import CONF, TERM, Database, announced, finish, made, value

FILES = OsFiles()


def arrive(facts: SnapshotFile, directory: Path, content: bytes | None = None) -> Announced:
    """Put the bytes of a snapshot into another member's directory, as if just received."""
    what = announced(facts)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / what.partial_name).write_bytes(
        facts.path.read_bytes() if content is None else content
    )
    return what


def check(what: Announced, directory: Path, conf_state: ConfState = CONF) -> None:
    finish(verify(directory / what.partial_name, what, conf_state, FILES))


def test_whoever_waits_is_told_that_a_long_check_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.snapshot, "PROGRESS_STEPS", 100)
    database = Database(tmp_path / "db")
    database.put(500)
    what = arrive(made(database), tmp_path / "other")
    told = list[None]()

    path = tmp_path / "other" / what.partial_name
    finish(verify(path, what, CONF, FILES, lambda: told.append(None)))

    assert len(told) > 3
    database.close()


def test_a_file_made_under_writes_holds_the_state_after_one_entry(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.put(3000, size=2000)
    hashes = {database.index: database.machine.hash}
    job, steps = make(database.directory, FILES), 0
    facts: SnapshotFile | None = None

    while facts is None:
        try:
            next(job)
        except StopIteration as stop:
            facts = stop.value
        database.put(5, size=1000)
        hashes[database.index] = database.machine.hash
        steps += 1

    assert steps > 5
    assert facts.index in hashes
    assert facts.index < database.index
    assert (facts.term, facts.conf_state) == (TERM, CONF)
    what = arrive(facts, tmp_path / "other")
    check(what, tmp_path / "other")
    publish(tmp_path / "other", what, FILES)
    set_current(tmp_path / "other", what.final_name, FILES)
    reader = Reader(tmp_path / "other")
    with reader.view() as view:
        assert (view.applied_index, view.hash) == (facts.index, hashes[facts.index])
    reader.close()
    database.close()


def test_writers_commit_and_checkpoints_go_on_while_a_file_is_made(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.put(2000, size=2000)
    job = make(database.directory, FILES)
    next(job)
    checkpointer = Checkpointer(tmp_path / "db")

    database.put(10)
    during = checkpointer.run()
    finish(job)
    after = checkpointer.run()

    assert during.durable_index is None
    assert 0 < during.frames_left < 100  # all but what came after the copy began
    assert after.durable_index == database.index
    checkpointer.close()
    database.close()


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.put(2000, size=2000)
    job = make(database.directory, FILES)
    next(job)
    assert (tmp_path / "db" / MAKING).exists()

    job.close()

    assert not [name for name in FILES.list(tmp_path / "db") if name.startswith("snapshot")]
    database.close()


def test_a_file_needs_nothing_beside_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.put(10)

    facts = made(database)

    names = [n for n in FILES.list(tmp_path / "db") if n.startswith("snapshot")]
    assert names == [facts.path.name]
    assert facts.path.read_bytes()[18:20] == b"\x01\x01"  # no mode that needs a log
    assert facts.size == facts.path.stat().st_size
    database.close()


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("at", [30, 5000, -1])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, at: int) -> None:
    database = Database(tmp_path / "db")
    database.put(100)
    facts = made(database)
    content = facts.path.read_bytes()

    what = arrive(facts, tmp_path / "other", damaged(content, at % len(content)))

    with pytest.raises(SnapshotError, match="the checksum differs"):
        check(what, tmp_path / "other")
    database.close()


def test_a_file_that_is_too_short_is_found(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    facts = made(database)

    what = arrive(facts, tmp_path / "other", facts.path.read_bytes()[:-1])

    with pytest.raises(SnapshotError, match="bytes instead of"):
        check(what, tmp_path / "other")
    database.close()


@pytest.mark.parametrize(
    ("index", "term", "conf_state"),
    [(1, 0, CONF), (0, 1, CONF), (0, 0, ConfState(voters=(1, 2)))],
)
def test_a_file_of_another_moment_than_announced_is_refused(
    tmp_path: Path, index: int, term: int, conf_state: ConfState
) -> None:
    database = Database(tmp_path / "db")
    facts = made(database)
    other = Announced(facts.index + index, facts.term + term, facts.size, facts.checksum)
    (tmp_path / other.partial_name).write_bytes(facts.path.read_bytes())

    with pytest.raises(SnapshotError, match="holds"):
        check(other, tmp_path, conf_state)
    database.close()


def lying(content: bytes, directory: Path) -> Announced:
    """Announce these very bytes as a snapshot."""
    import hashlib

    what = Announced(5, TERM, len(content), hashlib.sha256(content).digest())
    (directory / what.partial_name).write_bytes(content)
    return what


def test_what_is_no_database_of_ours_is_refused_though_its_checksum_is_right(
    tmp_path: Path,
) -> None:
    foreign = apsw.Connection(str(tmp_path / "foreign"))
    foreign.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    foreign.close()

    for content in (b"x" * 8192, (tmp_path / "foreign").read_bytes(), b"SQLite format 3\0"):
        with pytest.raises(SnapshotError):
            check(lying(content, tmp_path), tmp_path)


def test_a_broken_tree_is_refused_though_its_checksum_is_right(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.put(500, size=1000)
    content = bytearray(made(database).path.read_bytes())
    for page in range(20, 24):
        content[page * 4096 : page * 4096 + 12] = b"\xff" * 12

    with pytest.raises(SnapshotError):
        check(lying(bytes(content), tmp_path), tmp_path)
    database.close()


@pytest.mark.parametrize(
    "spoil",
    [
        "DELETE FROM progress",
        "DROP TABLE progress",
        "UPDATE meta SET value = x'c1' WHERE name = 'conf_state'",
        "UPDATE meta SET value = 7 WHERE name = 'conf_state'",
        "PRAGMA user_version = 99",
    ],
)
def test_tables_that_say_nonsense_are_refused_and_crash_nobody(tmp_path: Path, spoil: str) -> None:
    database = Database(tmp_path / "db")
    path = made(database).path
    connection = apsw.Connection(str(path))
    connection.execute(spoil)
    connection.close()

    with pytest.raises(SnapshotError):
        check(lying(path.read_bytes(), tmp_path), tmp_path)
    database.close()


def test_nothing_is_published_over_a_file_that_may_be_in_use(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    what = arrive(made(database), tmp_path / "other")
    (tmp_path / "other" / what.final_name).write_bytes(b"in use")

    with pytest.raises(AssertionError, match="may be in use"):
        publish(tmp_path / "other", what, FILES)
    database.close()


class NoFolderSync(OsFiles):
    """A folder that fails to sync."""

    def sync_directory(self, path: Path) -> None:
        raise OSError(5, "Input/output error")


def test_a_name_that_does_not_become_durable_is_not_kept(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    what = arrive(made(database), tmp_path / "other")

    with pytest.raises(OSError, match="Input/output"):
        publish(tmp_path / "other", what, NoFolderSync())

    assert FILES.list(tmp_path / "other") == []
    database.close()


def test_a_log_left_over_is_not_taken_for_the_snapshots_own(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.put(10)
    what = arrive(made(database), tmp_path / "other")
    (tmp_path / "other" / (what.final_name + "-wal")).write_bytes(b"old")

    publish(tmp_path / "other", what, FILES)

    assert FILES.list(tmp_path / "other") == [what.final_name]
    database.close()


def test_a_snapshot_that_the_log_names_must_exist_and_be_the_right_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    facts = made(database)

    with pytest.raises(DatabaseError, match="does not exist"):
        open_installed(tmp_path / "db", TERM, 77)
    facts.path.rename(tmp_path / "db" / snapshot_name(TERM, 77))
    with pytest.raises(DatabaseError, match="holds index 1 of term 3, not index 77"):
        open_installed(tmp_path / "db", TERM, 77)
    database.close()


def test_a_successor_goes_on_with_the_newest_of_what_it_finds(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    old = made(database)
    database.put(10)
    new = made(database)
    database.put(10)
    job = make(database.directory, FILES)
    next(job)  # a process that dies here leaves this half
    half = Announced(9, TERM, 100, b"c" * 32)
    older = Announced(8, TERM, 100, b"c" * 32)
    for what in (half, older):
        (tmp_path / "db" / what.partial_name).write_bytes(b"x")

    left = sort_leftovers(tmp_path / "db", FILES)

    assert (left.outgoing, left.incoming) == (new.path, half)
    kept = [n for n in FILES.list(tmp_path / "db") if n.startswith("snapshot")]
    assert kept == sorted([new.path.name, half.partial_name])
    assert not old.path.exists()
    job.close()
    database.close()


def test_an_earlier_process_file_is_used_only_if_it_is_whole(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    facts = made(database)

    assert finish(recheck(facts.path, FILES)) == facts
    with facts.path.open("r+b") as file:
        file.seek(5000)
        file.write(b"torn by a power loss")
    assert finish(recheck(facts.path, FILES)) is None
    database.close()


def test_names_of_databases_say_term_and_index() -> None:
    assert place(snapshot_name(7, 1234)) == (7, 1234)
    for name in ("db", "db.1-2-wal", "snapshot.making", "db.1-x"):
        with pytest.raises(DatabaseError):
            place(name)


def test_the_installed_file_is_written_to_like_any_other(tmp_path: Path) -> None:
    leader = Database(tmp_path / "leader")
    leader.put(50, key="k")
    what = arrive(made(leader), tmp_path / "other")
    publish(tmp_path / "other", what, FILES)
    open_installed(tmp_path / "other", what.term, what.index).close()
    set_current(tmp_path / "other", what.final_name, FILES)

    follower = Database(tmp_path / "other")
    follower.put(1, key="k")
    leader.put(1, key="k")

    reader = Reader(tmp_path / "other")
    assert value(reader, b"k") == (b"%d." % leader.index) * 25
    assert follower.machine.hash == leader.machine.hash
    reader.close()
    follower.close()
    leader.close()
