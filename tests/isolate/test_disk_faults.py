"""Faults of the disk: what is allocated goes on, what grows fails; syncs of one actor or of all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from actors.space import Ballast
from control.fault import inject
from control.observe import ObserveError
from etcdpb import rpc_pb2 as pb
from pytest_trouped.client import Client
from pytest_trouped.member import Member
from storage.database import DiskFullError, open_or_create, open_writer
from storage.failures import STORAGE_EXIT_CODE
from storage.faults import FaultyFiles
from storage.files import ACTOR_VARIABLE, FAULT_VARIABLE, default_files
from supervisor.faults import SYNCING, RootFaults
from tests.supervisor.toys import eventually


@pytest.fixture
def faults(tmp_path: Path) -> RootFaults:
    return RootFaults(tmp_path, lambda _: 0, enabled=True)


@pytest.fixture
def applier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be an actor of a member with --enable-faults; return which."""
    monkeypatch.setenv(FAULT_VARIABLE, str(tmp_path / "disk-faults"))
    monkeypatch.setenv(ACTOR_VARIABLE, "applier")
    return "applier"


def test_only_writes_that_make_a_file_longer_find_no_space(
    tmp_path: Path, faults: RootFaults
) -> None:
    files = FaultyFiles(tmp_path / "disk-faults")
    descriptor = files.create(tmp_path / "file")
    files.pwrite(descriptor, [b"0123456789"], 0)

    faults.order({"verb": "disk-full"})

    files.pwrite(descriptor, [b"ab", b"cd"], 6)
    with pytest.raises(OSError, match="No space left") as full:
        files.pwrite(descriptor, [b"ab", b"cd"], 7)
    assert full.value.errno == errno.ENOSPC
    assert files.free_bytes(tmp_path) == 0
    faults.order({"verb": "heal"})
    files.pwrite(descriptor, [b"ab", b"cd"], 7)
    files.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"012345aabcd"
    assert files.free_bytes(tmp_path) > 0


def test_a_file_that_is_removed_leaves_its_space_until_the_next_order(
    tmp_path: Path, faults: RootFaults
) -> None:
    files = FaultyFiles(tmp_path / "disk-faults")
    (tmp_path / "old").write_bytes(bytes(8192))
    (tmp_path / "older").write_bytes(bytes(8192))
    descriptor = files.create(tmp_path / "file")
    faults.order({"verb": "disk-full"})

    files.unlink(tmp_path / "old")
    files.pwrite(descriptor, [bytes(8000)], 0)
    with pytest.raises(OSError, match="No space left"):
        files.pwrite(descriptor, [bytes(8000)], 8000)
    files.unlink(tmp_path / "older")
    faults.order({"verb": "disk-full"})

    with pytest.raises(OSError, match="No space left"):
        files.pwrite(descriptor, [b"x"], 8000)
    files.close(descriptor)


@pytest.mark.usefixtures("applier")
def test_a_full_disk_refuses_the_databases_commits_until_the_ballast_is_gone(
    tmp_path: Path, faults: RootFaults
) -> None:
    ballast = Ballast(tmp_path)
    assert ballast.keep()
    database = open_or_create(tmp_path / "db")
    database.execute("CREATE TABLE own (value)")
    faults.order({"verb": "disk-full"})

    with pytest.raises(DiskFullError):
        database.execute("INSERT INTO own VALUES (1)")
    assert ballast.release() > 0
    assert not ballast.keep()
    database.execute("INSERT INTO own VALUES (2)")

    assert database.execute("SELECT value FROM own").fetchall() == [(2,)]
    faults.order({"verb": "heal"})
    assert ballast.keep()
    ballast.release()
    database.close()


def test_syncs_of_a_database_fail_in_the_actor_that_was_named_alone(
    tmp_path: Path, faults: RootFaults, applier: str
) -> None:
    database = open_or_create(tmp_path / "db")
    database.execute("CREATE TABLE own (value)")

    faults.order({"verb": "fsync-fail", "actor": "snapshotter"})
    database.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    database.execute("INSERT INTO own VALUES (1)")
    faults.order({"verb": "fsync-fail", "actor": applier})

    with pytest.raises(apsw.IOError) as failed:
        database.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert getattr(failed.value, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC
    descriptor = default_files().create(tmp_path / "file")
    with pytest.raises(OSError, match="Input/output error"):
        default_files().fdatasync(descriptor)
    default_files().close(descriptor)
    faults.order({"verb": "heal"})
    database.close()
    assert open_writer(tmp_path / "db").execute("SELECT value FROM own").fetchall() == [(1,)]


def test_what_can_not_be_ordered_is_refused(tmp_path: Path) -> None:
    faults = RootFaults(tmp_path, {"lessor": 1, "applier": 2}.__getitem__, enabled=True)

    assert faults.order({"verb": "fsync-fail", "actor": "lessor"}) == {
        "error": "fsync-fail does not apply to lessor: it syncs no file"
    }
    assert "no actor" in faults.order({"verb": "fsync-slow", "actor": "nobody"})["error"]
    assert "whole member" in faults.order({"verb": "disk-full", "actor": "applier"})["error"]
    assert not (tmp_path / "disk-faults").exists()


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("m"), flags=["--enable-faults"]) as made:
        yield made


def writes_to(pid: int, folder: Path) -> set[str]:
    """Return the files below a folder that a process may write to.

    Without the lock, and without a database's -wal and -shm: SQLite opens them for writing in
    readers too, which have the database itself read-only and so neither write nor sync.
    """
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        path, flags = Path(os.readlink(entry)), (entry.parent.parent / "fdinfo" / entry.name)
        mode = int(flags.read_text().split("flags:")[1].split()[0], 8) & os.O_ACCMODE
        if (
            mode != os.O_RDONLY
            and path.is_relative_to(folder)
            and stat.S_ISREG(path.stat().st_mode)
        ):
            found.add(path.name)
    return {name for name in found if not name.endswith(("-wal", "-shm")) and name != "lock"}


@pytest.mark.e2e
def test_the_actors_that_sync_are_those_that_have_a_file_to_write_to(member: Member) -> None:
    with Client(member.endpoint) as client:
        client.put(b"colour", b"blue", timeout=20.0)
    eventually(
        lambda: bool(writes_to(member.actors()["snapshotter"], member.data_dir)),
        "the snapshotter has the database open",
    )

    found = {name: writes_to(pid, member.data_dir) for name, pid in member.actors().items()}

    assert {name for name, files in found.items() if files} == set(SYNCING), found


@pytest.mark.e2e
@pytest.mark.parametrize("actor", ["gateway-0", "lessor", "compactor", "transport", "zygote"])
@pytest.mark.parametrize("verb", ["fsync-slow", "fsync-fail"])
def test_who_syncs_nothing_can_not_be_told_to_fail_at_it(
    member: Member, actor: str, verb: str
) -> None:
    with pytest.raises(ObserveError, match=f"does not apply to {actor}: it syncs no file"):
        inject(member.view, verb, actor)


@pytest.mark.e2e
def test_a_full_disk_refuses_puts_serves_reads_and_heals_by_itself(member: Member) -> None:
    before = member.actors()
    with Client(member.endpoint) as client:
        revision = client.put(b"kept", b"1", timeout=20.0)
        member.faults.disk_full(2.0)
        put = pb.PutRequest(key=b"refused", value=b"v")
        finished = client.put(b"finished", b"with the ballast", timeout=5.0)

        eventually(lambda: not client.answer(put, 5.0).ok, "puts are refused")
        refusal = client.answer(put, 5.0)
        reads = [
            client.answer(pb.RangeRequest(key=b"finished", serializable=serializable), 1.0)
            for serializable in (True, False)
        ]
        assert str(refusal) == "RESOURCE_EXHAUSTED: etcdserver: mvcc: database space exceeded"
        assert finished == revision + 1
        assert all(read.ok for read in reads)
        eventually(lambda: client.answer(put, 5.0).ok, "puts are taken again")
        assert (client.get(b"kept"), client.get(b"finished")) == (b"1", b"with the ballast")
    assert member.actors() == before
    assert "no space left for the database" in member.log


@pytest.mark.e2e
def test_a_checkpoint_that_can_not_be_synced_ends_the_member_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with Member(tmp_path, flags=["--enable-faults"]) as broken:
        with Client(broken.endpoint) as client:
            broken.faults.fsync_fail(actor="snapshotter")
            client.put(b"colour", b"blue", timeout=20.0)
        assert broken.process is not None
        assert broken.process.wait(20.0) == STORAGE_EXIT_CODE
        assert '"caller":"snapshotter","msg":"cannot go on with this data directory' in broken.log
        broken.restart()

        with Client(broken.endpoint) as client:
            assert client.get(b"colour") == b"blue"
            assert client.put(b"colour", b"red", timeout=20.0) > 2
