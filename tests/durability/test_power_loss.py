"""Power loss at any moment of a member's life: whatever a client was told is still there.

One life under load is recorded (recorded.py); from it come images of the disk after a power loss
(tests/storage/power), at any moment and right after each sort of event. The member's own start runs
on each of them, in this process (image.py); on some the whole member starts. A disk that forgets
one kind of sync must be caught by the same check.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from etcdpb import rpc_pb2 as pb
from storage.checkpoint import Checkpointer
from storage.files import RECORD_VARIABLE, SCALE_VARIABLE
from storage.recording import JOURNAL_NAME, Kind, read_journal
from tests.client import Client, paged
from tests.durability.image import States, Truth, revision_of, verdict
from tests.durability.recorded import FLAGS, SCALE, record_life
from tests.member import Member
from tests.storage.power import Disk

pytestmark = pytest.mark.e2e

SECONDS, SECONDS_SLOW = 2.0, 5.0
IMAGES, IMAGES_SLOW = 200, 1500
STARTS, STARTS_SLOW = 2, 10
AGAIN, AGAIN_SLOW = 3, 20
IMAGES_OF_A_BAD_DISK = 40


@dataclass(frozen=True)
class Life:
    """A recorded life and what was true in it."""

    disk: Disk
    truth: Truth

    def cuts(self, count: int, seed: int, disk: Disk | None = None) -> list[int]:
        """Half of the moments anywhere, half right after each sort of event alike often."""
        disk = disk or self.disk
        return sorted(disk.cuts(count // 2, seed) + disk.rare_cuts(count - count // 2, seed))


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return lived(tmp_path_factory.mktemp("life"), SECONDS, seed=1)


def lived(folder: Path, seconds: float, seed: int) -> Life:
    disk = record_life(folder, seconds, seed)
    return Life(disk, Truth(disk.acknowledged(len(disk.events))))


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, if there is such: nobody cuts the power of the images themselves."""
    monkeypatch.setenv(SCALE_VARIABLE, SCALE)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield folder / "image"
    shutil.rmtree(folder)


def write_image(disk: Disk, cut: int, seed: int, target: Path) -> Path:
    """Write an image in place of the last one; return its data directory."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    disk.write_image(cut, seed, target)
    return target / "m1.etcd"


def failures(life: Life, disk: Disk, cuts: Sequence[int], image: Path) -> Iterator[str]:
    """Start on an image of each moment; say what is wrong with which."""
    states = States()
    for seed, cut in enumerate(cuts):
        data_dir = write_image(disk, cut, seed, image)
        if text := verdict(data_dir, life.truth, disk.acknowledged(cut), states):
            yield f"cut {cut} seed {seed}: {text}"


def caught(life: Life, disk: Disk, image: Path) -> bool:
    """Whether some image of a disk that is not as it should be fails; it has more than one try."""
    tries = (life.cuts(IMAGES_OF_A_BAD_DISK, seed, disk) for seed in range(10))
    return any(True for cuts in tries for _ in failures(life, disk, cuts, image))


def events_of(disk: Disk, kind: Kind, pattern: str) -> list[int]:
    """Return the numbers of the events of a kind on files or folders whose path matches."""
    paths: dict[int, str] = {}
    found = []
    for number, event in enumerate(disk.events):
        subject = event[1]
        if event[0] == Kind.OPEN:
            paths[subject] = event[2]
        if event[0] == kind and re.search(pattern, str(paths.get(subject, subject))):
            found.append(number)
    return found


def assert_eventful(disk: Disk) -> None:
    """Everything that can happen to a member's files has happened while it was under load."""
    labels = [label for label, _ in disk.acknowledged(len(disk.events))]
    starts_of_log = [
        n for n in events_of(disk, Kind.WRITE, r"/db\.0-0-wal$") if disk.events[n][2] == 0
    ]

    assert all(labels.count(label) >= 2 for label in ("put", "delete", "compact", "read"))
    assert len(events_of(disk, Kind.RENAME, r"\.next$")) >= 5  # segments begun
    assert len(events_of(disk, Kind.RENAME, r"\.wal$")) >= 2  # and released
    assert len(events_of(disk, Kind.SYNC_END, r"/db\.0-0$")) >= 3  # checkpoints
    assert len(starts_of_log) >= 3  # the database's log begun again


def test_every_image_starts_with_all_that_was_acknowledged(life: Life, image: Path) -> None:
    cuts = life.cuts(IMAGES, seed=1)

    wrong = list(failures(life, life.disk, cuts, image))

    assert_eventful(life.disk)
    assert sum(bool(life.disk.acknowledged(cut)) for cut in cuts) >= IMAGES / 2
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_many_images_of_longer_lives(tmp_path: Path, image: Path, seed: int) -> None:
    life = lived(tmp_path, SECONDS_SLOW, seed=100 + 10 * seed)

    wrong = list(failures(life, life.disk, life.cuts(IMAGES_SLOW, seed), image))

    writes = len(life.truth.writes)
    print(f"{IMAGES_SLOW} images of {writes} writes: {len(wrong)} wrong")  # noqa: T201
    assert_eventful(life.disk)
    assert wrong == []


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        (Kind.SYNC_END, "."),
        (Kind.SYNC_END, r"/wal[^/]*/"),
        (Kind.SYNC_END, r"/db\.0-0$"),
        (Kind.SYNC_END, r"/db\.0-0-wal$"),
        (Kind.FOLDER_END, r"/(wal|db)$"),
        (Kind.FOLDER_END, r"/m1\.etcd/member$"),
        (Kind.FOLDER_END, r"/m1\.etcd$"),
    ],
    ids=["any file", "log", "database", "database's log", "files", "member folder", "data folder"],
)
def test_a_disk_that_forgets_a_kind_of_sync_is_caught(
    life: Life, image: Path, kind: Kind, pattern: str
) -> None:
    """The same journal, had this kind of fdatasync done nothing."""
    forgotten = set(events_of(life.disk, kind, pattern))
    events = [e for number, e in enumerate(life.disk.events) if number not in forgotten]
    disk = Disk(events, life.disk.root)

    assert forgotten
    assert caught(life, disk, image)


def test_an_answer_ahead_of_its_sync_is_caught(life: Life, image: Path) -> None:
    """The same journal, had every sync of the log ended some answers later than it did."""
    late = set(events_of(life.disk, Kind.SYNC_END, r"/wal/"))
    order = sorted(range(len(life.disk.events)), key=lambda n: n + 100.5 if n in late else float(n))
    disk = Disk([life.disk.events[number] for number in order], life.disk.root)

    assert caught(life, disk, image)


def check_second_losses(
    life: Life, folder: Path, image: Path, lives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record the start on an image, and cut the power of that start."""
    for number, cut in enumerate(life.cuts(lives, seed=5)):
        marks, states = life.disk.acknowledged(cut), States()
        first = folder / str(number)
        data_dir = write_image(life.disk, cut, number, first)
        base = {str(p.relative_to(first)): p.read_bytes() for p in first.rglob("*") if p.is_file()}
        monkeypatch.setenv(RECORD_VARIABLE, str(folder / f"io{number}"))
        assert verdict(data_dir, life.truth, marks, states) == ""
        Checkpointer(data_dir / "member" / "db").run()
        monkeypatch.delenv(RECORD_VARIABLE)
        again = Disk(read_journal(folder / f"io{number}" / JOURNAL_NAME), first, base)
        for moment in life.cuts(30, number, again):
            again_dir = write_image(again, moment, moment, image)
            text = verdict(again_dir, life.truth, marks, States())
            assert text == "", f"cut {cut} seed {number}, then cut {moment}"


def test_power_may_go_again_while_a_member_starts(
    life: Life, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_second_losses(life, tmp_path, image, AGAIN, monkeypatch)


@pytest.mark.slow
def test_power_goes_again_often_while_a_member_starts(
    life: Life, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_second_losses(life, tmp_path, image, AGAIN_SLOW, monkeypatch)


def check_served(life: Life, cut: int, member: Member) -> None:
    """Read all that a member has kept through its front door, and write on."""
    promised = [revision_of(*mark) for mark in life.disk.acknowledged(cut)]
    with Client(member.endpoint) as client:
        kept = {kv.key: kv for kv in paged(client, b"k", b"l")}
        revision = client.range(pb.RangeRequest(key=b"k")).header.revision
        expected = life.truth.state_at(revision)
        assert revision >= max(promised, default=1)
        assert {key: kv.value for key, kv in kept.items()} == {
            key: value for key, value in expected.items() if value is not None
        }
        for kv in kept.values():
            assert life.truth.writes[kv.mod_revision][kv.key] == kv.value
        assert client.put(b"later", b"on") == revision + 1
        assert client.get(b"later") == b"on"


def check_starts(life: Life, folder: Path, count: int) -> None:
    for seed, cut in enumerate(life.cuts(count, seed=3)):
        target = folder / str(seed)
        write_image(life.disk, cut, seed, target)
        with Member(target, flags=FLAGS, environ={SCALE_VARIABLE: SCALE}) as member:
            check_served(life, cut, member)
            assert member.terminate() == 0


def test_a_member_serves_what_an_image_holds(life: Life, tmp_path: Path) -> None:
    check_starts(life, tmp_path, STARTS)


@pytest.mark.slow
def test_members_serve_what_images_hold(life: Life, tmp_path: Path) -> None:
    check_starts(life, tmp_path, STARTS_SLOW)
