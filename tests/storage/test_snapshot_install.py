"""Installing a snapshot under open readers, and dying between any two steps (RULES A4)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from etcdpb.rpc_pb2 import RangeRequest, RangeResponse
from storage.database import generation, open_installed, set_current
from storage.files import RECORD_VARIABLE, OsFiles, default_files
from storage.reader import Reader
from storage.recording import JOURNAL_NAME, open_journal, read_journal
from storage.snapshot import Announced, publish, read_facts, sort_leftovers, verify
from storage.store import SqliteStore
from tests.storage.power import Disk
from tests.storage.snapshot_bench import CONF, TERM, Database, announced, finish, made, value

FILES = OsFiles()


def snapshot_of_a_leader(folder: Path, puts: int = 60) -> tuple[Announced, bytes]:
    leader = Database(folder / "leader")
    leader.put(puts, key="k")
    facts = made(leader)
    content = facts.path.read_bytes()
    leader.close()
    return announced(facts), content


def receive(directory: Path, what: Announced, content: bytes) -> None:
    (directory / what.partial_name).write_bytes(content)
    finish(verify(directory / what.partial_name, what, CONF, FILES))
    publish(directory, what, FILES)


def install(directory: Path, what: Announced) -> SqliteStore:
    connection = open_installed(directory, what.term, what.index)
    set_current(directory, what.final_name)
    return SqliteStore(connection)


def test_an_install_under_open_readers_swallows_nothing_and_shows_nothing_stale_as_fresh(
    tmp_path: Path,
) -> None:
    what, content = snapshot_of_a_leader(tmp_path)
    old = Database(tmp_path / "db")
    old.put(5, key="k")
    reader = Reader(tmp_path / "db")
    reader_path = reader.generation

    receive(tmp_path / "db", what, content)
    old.store.abandon()
    install(tmp_path / "db", what).close()

    with reader.view() as view:
        assert view.applied_index == 6 < what.index  # whoever waits for more, waits
    assert value(reader, b"k") == b"6." * 25
    assert reader.reopen()
    assert reader.generation == what.final_name != reader_path
    with reader.view() as view:
        assert view.applied_index == what.index
    assert value(reader, b"k") == b"61." * 25
    reader.close()


def test_the_old_log_is_never_read_into_the_new_file(tmp_path: Path) -> None:
    what, content = snapshot_of_a_leader(tmp_path)
    old = Database(tmp_path / "db")
    old.put(5, key="k")
    other_process = Reader(tmp_path / "db")  # keeps the old -wal in place

    receive(tmp_path / "db", what, content)
    old.store.abandon()
    assert (tmp_path / "db" / "db.0-0-wal").stat().st_size
    store = install(tmp_path / "db", what)

    assert store.load().progress.applied_index == what.index
    store.close()
    other_process.close()


def test_a_scan_under_way_goes_on_in_the_new_file_at_its_own_revision(tmp_path: Path) -> None:
    what, content = snapshot_of_a_leader(tmp_path)
    old = Database(tmp_path / "db")
    old.put(4000)  # not what the leader has done: only the pace matters here
    old.store.begin()
    old.store.rollback()
    reader = Reader(tmp_path / "db")
    scan = reader.scan(RangeRequest(key=b"k", range_end=b"l"))
    scan.step()

    receive(tmp_path / "db", what, content)
    old.store.abandon()
    install(tmp_path / "db", what).close()
    assert reader.reopen()
    while not scan.step():
        pass

    assert not _open_by_this_process(tmp_path / "db" / "db.0-0")
    response = RangeResponse.FromString(b"".join(scan.body()))
    assert response.count
    reader.close()


def _open_by_this_process(path: Path) -> bool:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return any(os.path.realpath(link) == str(path) for link in links)


# --- dying between any two steps ------------------------------------------------------------------


class KilledError(Exception):
    """The process died before this step."""


class Dying(OsFiles):
    """A process that dies before its n-th change of the disk."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def _step(self) -> None:
        if not self.left:
            raise KilledError
        self.left -= 1

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def pwrite(self, descriptor: int, parts, offset: int) -> int:  # type: ignore[no-untyped-def]
        self._step()
        return super().pwrite(descriptor, parts, offset)

    def fdatasync(self, descriptor: int) -> None:
        self._step()
        super().fdatasync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


@pytest.mark.parametrize("steps", range(9))
def test_whoever_dies_between_any_two_steps_finds_the_old_state_or_the_new_one(
    tmp_path: Path, steps: int
) -> None:
    what, content = snapshot_of_a_leader(tmp_path)
    directory = tmp_path / "db"
    old = Database(directory)
    old.put(5, key="k")
    (directory / what.partial_name).write_bytes(content)
    files = Dying(steps)
    recorded = False  # the raft node's record: only what is complete and synced is told

    try:
        publish(directory, what, files)
        recorded = True
        open_installed(directory, what.term, what.index).close()
        set_current(directory, what.final_name, files)
    except KilledError:
        pass
    old.store.close()

    sort_leftovers(directory, FILES)
    reader = Reader(directory)
    with reader.view() as view:
        assert view.applied_index in (6, what.index)
        switched = view.applied_index == what.index
    reader.close()
    assert not switched or recorded
    if recorded and not switched:  # what the log's record asks for at the next start
        install(directory, what).close()
        assert generation(directory) == what.final_name
    assert steps < 8 or switched  # the last of them is no death at all


def test_after_a_power_loss_what_was_told_to_raft_can_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, content = snapshot_of_a_leader(tmp_path, puts=20)
    monkeypatch.setenv(RECORD_VARIABLE, str(tmp_path / "io"))
    journal = open_journal(tmp_path / "io")
    directory = tmp_path / "member" / "db"
    files = default_files()
    follower = Database(directory)
    descriptor = files.create(directory / what.partial_name)
    for offset in range(0, len(content), 16384):
        files.pwrite(descriptor, [content[offset : offset + 16384]], offset)
    files.close(descriptor)
    finish(verify(directory / what.partial_name, what, CONF, files))
    publish(directory, what, files)
    journal.acknowledge("told", what.index)
    store = install(directory, what)
    journal.acknowledge("installed", what.index)
    follower.store.abandon()
    store.close()
    monkeypatch.delenv(RECORD_VARIABLE)
    disk = Disk(read_journal(tmp_path / "io" / JOURNAL_NAME), tmp_path / "member")
    seen = set()

    for seed, cut in enumerate(disk.rare_cuts(150, seed=1)):
        labels = {label for label, _ in disk.acknowledged(cut)}
        image = tmp_path / "image"
        shutil.rmtree(image, ignore_errors=True)
        disk.write_image(cut, seed, image)
        if "told" not in labels:
            continue
        if generation(image / "db") != what.final_name:
            assert "installed" not in labels
            install(image / "db", what).close()
        store = SqliteStore(open_installed(image / "db", what.term, what.index))
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        store.close()
        assert read_facts(image / "db" / what.final_name)[:2] == (what.index, TERM)
        seen.add(frozenset(labels))

    assert len(seen) == 2
