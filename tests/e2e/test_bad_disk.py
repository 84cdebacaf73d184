"""Disks that are full, fail, lie or belong to somebody else: nothing acknowledged is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from etcdpb import rpc_pb2 as pb
from storage.wal import SEGMENT_BYTES
from tests.client import Answer, CallError, Client
from tests.member import Member

pytestmark = pytest.mark.e2e

TMPFS_BYTES = 192 << 20
REFUSED_SECONDS = 60.0
HEALED_SECONDS = 20.0
RESTARTS = 5
SPACE_EXCEEDED = "RESOURCE_EXHAUSTED: etcdserver: mvcc: database space exceeded"


@pytest.fixture(autouse=True)
def _only_trouped(tmp_path: Path) -> None:
    if not Member(tmp_path).is_trouped:
        pytest.skip("about trouped's files")


def put_all(client: Client, prefix: bytes, count: int) -> dict[bytes, int]:
    """Put numbered keys; return the acknowledged ones with their revisions."""
    return {
        key: client.put(key, b"value of " + key)
        for key in (b"%s%04d" % (prefix, number) for number in range(count))
    }


def check_kept(client: Client, acknowledged: dict[bytes, int]) -> None:
    for key, revision in acknowledged.items():
        kvs = client.range(pb.RangeRequest(key=key)).kvs
        assert kvs, f"{key!r} is gone"
        assert (kvs[0].value, kvs[0].mod_revision) == (b"value of " + key, revision)


def refused(member: Member, seconds: float = REFUSED_SECONDS) -> int:
    """Start a member that must give up without ever serving; return its exit status."""
    process = member.spawn()
    try:
        status = process.wait(seconds)
    finally:
        member.kill()
    assert status != 0
    return status


def test_a_data_dir_in_use_is_refused_and_its_owner_untouched(tmp_path: Path) -> None:
    with Member(tmp_path / "a") as owner, Client(owner.endpoint) as client:
        acknowledged = put_all(client, b"mine/", 5)
        other = Member(tmp_path / "b")
        other.data_dir = owner.data_dir

        assert refused(other, 10) == 1

        assert "in use by another process" in other.log
        check_kept(client, acknowledged)


def test_a_data_dir_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    member = Member(tmp_path)
    member.data_dir = tmp_path / "file" / "m1.etcd"

    assert refused(member, 10) == 1

    assert str(member.data_dir) in member.log


def newest_segment(member: Member) -> Path:
    return max((member.data_dir / "member" / "wal").glob("*.wal"))


def record_middle(segment: Path, needle: bytes) -> int:
    offset = segment.read_bytes().find(needle)
    assert offset > 0, f"{needle!r} is not in {segment}"
    return offset


def test_a_corrupt_record_in_the_middle_of_the_log_is_named_not_skipped(tmp_path: Path) -> None:
    member = Member(tmp_path)
    with member:
        with Client(member.endpoint) as client:
            put_all(client, b"corrupt/", 50)
        member.kill()
        segment = newest_segment(member)
        offset = record_middle(segment, b"corrupt/0010")
        with segment.open("r+b") as file:
            file.seek(offset)
            file.write(b"C")
        before = segment.read_bytes()

        refused(member)

        assert segment.name in member.log
        assert "CorruptError" in member.log
        assert segment.read_bytes() == before


def test_a_torn_tail_of_the_log_is_cut(tmp_path: Path) -> None:
    member = Member(tmp_path)
    with member:
        with Client(member.endpoint) as client:
            acknowledged = put_all(client, b"torn/", 20)
        member.kill()
        segment = newest_segment(member)
        end = len(segment.read_bytes().rstrip(b"\0")) + 7 & ~7  # the segment is filled with zeros
        with segment.open("r+b") as file:  # half of a write that was never acknowledged
            file.seek(end)
            file.write(b"\x60\x01\x00\x00half a record")

        member.start()

        with Client(member.endpoint) as client:
            check_kept(client, acknowledged)
            assert client.put(b"after", b"1") > 0


def test_a_log_without_what_was_applied_is_refused(tmp_path: Path) -> None:
    member = Member(tmp_path)
    with member:
        with Client(member.endpoint) as client:
            put_all(client, b"lost/", 20)
        member.kill()
        segment = newest_segment(member)
        offset = segment.read_bytes().rfind(b"value of lost/0019")
        assert offset > 0
        with segment.open("r+b") as file:  # acknowledged and applied, and gone from the log
            file.seek(offset)
            file.write(bytes(segment.stat().st_size - offset))  # with all that may have followed

        refused(member)

        assert "LogMismatchError" in member.log


@contextmanager
def faulty(folder: Path) -> Iterator[tuple[Member, Path]]:
    """Start a member whose log obeys a control file (storage/faults.py)."""
    control = folder / "faults.json"
    control.write_text("{}")
    with Member(folder, environ={"TROUPED_FAULT_IO": str(control)}) as member:
        yield member, control


def put_until_acknowledged(
    member: Member, key: bytes, seconds: float, *, restarts: bool = False
) -> None:
    """Put until it succeeds; with `restarts` a member that gave up is started again."""
    deadline = time.monotonic() + seconds
    with Client(member.endpoint) as client:
        while time.monotonic() < deadline:
            if member.process is None or member.process.poll() is not None:
                assert restarts, f"the member has given up:\n{member.log[-2000:]}"
                member.restart()
            try:
                client.put(key, b"value of " + key, 1.0)
            except CallError:
                continue
            return
    pytest.fail(f"no put within {seconds} s of the disk's recovery:\n{member.log[-2000:]}")


@pytest.mark.parametrize(
    "fault", [{"sync_errno": errno.EIO}, {"write_errno": errno.ENOSPC}], ids=["fsync", "space"]
)
def test_a_log_that_cannot_be_written_acknowledges_nothing_and_heals(
    tmp_path: Path, fault: dict[str, int]
) -> None:
    with faulty(tmp_path) as (member, control):
        with Client(member.endpoint) as client:
            acknowledged = put_all(client, b"before/", 20)

            control.write_text(json.dumps(fault))
            answers = [
                client.answer(pb.PutRequest(key=b"during/%d" % number, value=b"v"), 0.5)
                for number in range(4)
            ]
            control.write_text("{}")

        assert not [answer for answer in answers if answer.ok]
        broken = "sync_errno" in fault  # what a failed sync has left is not believed: exit 74
        put_until_acknowledged(member, b"healed", HEALED_SECONDS, restarts=broken)
        with Client(member.endpoint) as client:
            check_kept(client, acknowledged)
        member.restart()
        with Client(member.endpoint) as client:
            check_kept(client, acknowledged)
            assert client.get(b"healed") == b"value of healed"


def test_a_slow_disk_makes_puts_slow_and_reads_go_on(tmp_path: Path) -> None:
    with faulty(tmp_path) as (member, control), Client(member.endpoint) as client:
        client.put(b"quick", b"1")
        control.write_text(json.dumps({"sync_seconds": 0.5}))

        waiting = client.begin(pb.PutRequest(key=b"slow", value=b"1"))
        begun = time.monotonic()
        reads = [client.answer(pb.RangeRequest(key=b"quick", serializable=True)) for _ in range(20)]
        read_seconds = time.monotonic() - begun
        answer = waiting()
        put_seconds = time.monotonic() - begun
        control.write_text("{}")

        assert all(read.ok for read in reads)
        assert answer.ok
        assert put_seconds >= 0.4
        assert read_seconds < put_seconds


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")


@contextmanager
def tmpfs(folder: Path, size: int = TMPFS_BYTES) -> Iterator[Path]:
    """Mount a small file system."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("can't mount here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write a file until the file system is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))


def put_until_refused(client: Client, prefix: bytes) -> tuple[dict[bytes, int], Answer]:
    """Put big values until one is refused; return the acknowledged ones and the refusal."""
    acknowledged: dict[bytes, int] = {}
    for number in range(400):
        key = b"%s%04d" % (prefix, number)
        answer = client.answer(pb.PutRequest(key=key, value=b"value of " + key), 5.0)
        if not answer.ok:
            return acknowledged, answer
        assert isinstance(answer.message, pb.PutResponse)
        acknowledged[key] = answer.message.header.revision
        ballast = pb.PutRequest(key=b"ballast", value=bytes(100_000))
        answer = client.answer(ballast, 5.0)
        if not answer.ok:
            return acknowledged, answer
    pytest.fail("400 big values found room on a full disk")


@pytest.mark.slow
def test_a_full_disk_refuses_puts_serves_reads_and_heals(tmp_path: Path) -> None:
    needs_root()
    with tmpfs(tmp_path / "disk") as disk:
        member = Member(tmp_path / "m")
        member.data_dir = disk / "m1.etcd"
        with member, Client(member.endpoint) as client:
            acknowledged = put_all(client, b"before/", 50)
            filler = disk / "filler"
            fill(filler)
            actors = member.actors()

            more, refusal = put_until_refused(client, b"full/")
            acknowledged |= more
            reads = [
                client.answer(pb.RangeRequest(key=b"before/0001", serializable=serializable))
                for serializable in (True, False)
            ]
            filler.unlink()
            put_until_acknowledged(member, b"healed", HEALED_SECONDS)

            print(f"{len(more)} puts on a full disk, then {refusal}")  # noqa: T201
            assert str(refusal) == SPACE_EXCEEDED
            assert all(read.ok for read in reads)
            check_kept(client, acknowledged)
            assert member.actors() == actors
            member.restart()
        with member, Client(member.endpoint) as client:
            check_kept(client, acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize("ballast", ["in reserve", "used up"])
def test_a_member_restarted_on_a_full_disk_serves_reads_refuses_puts_and_heals(
    tmp_path: Path, ballast: str
) -> None:
    needs_root()
    with tmpfs(tmp_path / "disk") as disk:
        member = Member(tmp_path / "m")
        member.data_dir = disk / "m1.etcd"
        with member:
            with Client(member.endpoint) as client:
                acknowledged = put_all(client, b"before/", 50)
                fill(disk / "filler")
                if ballast == "used up":
                    acknowledged |= put_until_refused(client, b"full/")[0]
            member.kill()
            fill(disk / "filler-2")

            process = member.spawn()

            with Client(member.endpoint) as client:
                read = client.begin(
                    pb.RangeRequest(key=b"before/0001", serializable=True), 20, wait=True
                )
                assert read().ok, member.log[-2000:]
                more, refusal = put_until_refused(client, b"after/")
                acknowledged |= more
                assert str(refusal) == SPACE_EXCEEDED
                for filler in disk.glob("filler*"):
                    filler.unlink()
                put_until_acknowledged(member, b"healed", HEALED_SECONDS)
                check_kept(client, acknowledged)
            assert process.poll() is None
            assert "actor ended" not in member.log


def wait_for_segments(member: Member, count: int) -> None:
    """Wait until the log has so many segments, the one that is to be the next among them."""
    deadline = time.monotonic() + 60
    while True:
        files = (member.data_dir / "member" / "wal").iterdir()
        if sum(file.stat().st_size == SEGMENT_BYTES for file in files) == count:
            return
        assert time.monotonic() < deadline, member.log[-2000:]
        time.sleep(0.1)


def check_reads(member: Member) -> None:
    """Read both ways."""
    with Client(member.endpoint) as client:
        for serializable in (True, False):
            read = pb.RangeRequest(key=b"before/0001", serializable=serializable)
            answer = client.begin(read, 20, wait=True)()
            assert answer.ok, f"{answer}\n{member.log[-2000:]}"


@pytest.mark.slow
def test_a_member_restarted_on_a_disk_without_any_space_serves_linearizable_reads(
    tmp_path: Path,
) -> None:
    """Somebody else has taken what the ballast was, and whatever else there was."""
    needs_root()
    with tmpfs(tmp_path / "disk", TMPFS_BYTES + (32 << 20)) as disk:
        member = Member(tmp_path / "m")
        member.data_dir = disk / "m1.etcd"
        with member:
            wait_for_segments(member, 2)  # of half a segment a start makes space
            with Client(member.endpoint) as client:
                acknowledged = put_all(client, b"before/", 50)
                fill(disk / "filler")
                acknowledged |= put_until_refused(client, b"full/")[0]
            for restart in range(RESTARTS):
                member.kill()
                fill(disk / f"filler-{restart}")
                assert os.statvfs(disk).f_bavail == 0
                member.spawn()
                check_reads(member)
            for filler in disk.glob("filler*"):
                filler.unlink()
            put_until_acknowledged(member, b"healed", HEALED_SECONDS)
            with Client(member.endpoint) as client:
                check_kept(client, acknowledged)


@pytest.mark.slow
def test_a_read_only_mount_is_refused_with_its_reason(tmp_path: Path) -> None:
    needs_root()
    with tmpfs(tmp_path / "disk") as disk:
        member = Member(tmp_path / "m")
        member.data_dir = disk / "m1.etcd"
        with member, Client(member.endpoint) as client:
            acknowledged = put_all(client, b"kept/", 10)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)

        assert refused(member, 15) == 1

        assert "read-only file system" in member.log.lower()
        subprocess.run(["mount", "-o", "remount,rw,bind", str(disk)], check=True)
        with member, Client(member.endpoint) as client:
            check_kept(client, acknowledged)


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with Member(tmp_path / "a") as owner:
        other = Member(tmp_path / "b")
        other.client_port, other.peer_port = owner.client_port, owner.peer_port

        assert refused(other, 10) == 1

        assert "address already in use" in other.log
