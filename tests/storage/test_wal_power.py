"""The log after a power loss at any moment: nothing promised is lost, nothing torn is believed."""

from __future__ import annotations

import random
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raft.state import ConfState, Entry, HardState, SnapshotMetadata
from storage.files import OsFiles
from storage.recording import JOURNAL_NAME, RecordingFiles, open_journal, read_journal
from storage.wal import Wal
from storage.wal_errors import WalError, WalMissingError, WalSyncError
from tests.storage.power import Disk

SEGMENT_BYTES = 16 << 10
Seen = tuple[HardState, SnapshotMetadata, tuple[tuple[int, int, int], ...]]


class UnsyncedFiles(RecordingFiles):
    """A disk that forgets to sync."""

    def fdatasync(self, descriptor: int) -> None:
        pass


class HastyFiles(OsFiles):
    """For opening images: their durability is not what is tested."""

    def fdatasync(self, descriptor: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


class FailingFiles(RecordingFiles):
    """A disk whose syncs fail from a moment on."""

    failing = False

    def fdatasync(self, descriptor: int) -> None:
        if self.failing:
            raise OSError(5, "Input/output error")
        super().fdatasync(descriptor)


def seen(hard_state: HardState, snapshot: SnapshotMetadata, entries: list[Entry]) -> Seen:
    return hard_state, snapshot, tuple((e.index, e.term, zlib.crc32(e.data)) for e in entries)


@dataclass
class Load:
    """A random life of a log, with what it should hold after each step."""

    wal: Wal
    files: RecordingFiles
    chance: random.Random
    hard_state: HardState = field(default_factory=HardState)
    snapshot: SnapshotMetadata = field(default_factory=SnapshotMetadata)
    entries: list[Entry] = field(default_factory=list)
    states: list[Seen] = field(default_factory=list)

    def step(self) -> None:
        chance = self.chance.random()
        if chance < 0.75:
            self.append()
        elif chance < 0.80:
            self.save_snapshot()
        elif chance < 0.82:
            self.install_snapshot()
        elif chance < 0.85:
            self.wal.release(self.snapshot.index, keep=2)
        else:
            self.wal.prepare_slice(4 << 10)
        if self.chance.random() < 0.6:
            self.wal.sync()
            self.files.journal.acknowledge("synced", len(self.states) - 1)

    def append(self) -> None:
        term = self.hard_state.term
        count = self.chance.choice((0, 1, 1, 1, 2, 5))
        if count and self.entries and self.chance.random() < 0.1:
            del self.entries[self.chance.randrange(len(self.entries)) :]
            term += 1
        last = self.entries[-1].index if self.entries else self.snapshot.index
        new = [
            Entry(term, last + 1 + i, self.chance.randbytes(self.chance.randint(0, 1500)))
            for i in range(count)
        ]
        self.entries += new
        self.hard_state = HardState(term, 1, self.snapshot.index)
        self.begin()
        self.wal.append(new, self.hard_state)

    def save_snapshot(self) -> None:
        if self.entries:
            kept = self.chance.randrange(len(self.entries))
            covered = self.entries[kept]
            self.entries = self.entries[kept + 1 :]
            self.take_snapshot(SnapshotMetadata(covered.index, covered.term, ConfState((1, 2))))

    def install_snapshot(self) -> None:
        last = self.entries[-1].index if self.entries else self.snapshot.index
        jump = self.chance.choice((5, 50))
        if self.entries and self.chance.random() < 0.5:
            jump = 0
        self.entries = []
        self.take_snapshot(SnapshotMetadata(last + jump, self.hard_state.term + 1))
        self.hard_state = HardState(self.hard_state.term + 1, 0, self.snapshot.index)
        self.begin()
        self.wal.append([], self.hard_state)

    def take_snapshot(self, snapshot: SnapshotMetadata) -> None:
        self.snapshot = snapshot
        self.begin()
        now = self.chance.random() < 0.5
        self.wal.save_snapshot(snapshot, now=now)
        if now:
            self.files.journal.acknowledge("synced", len(self.states) - 1)

    def begin(self) -> None:
        self.states.append(seen(self.hard_state, self.snapshot, self.entries))
        self.files.journal.acknowledge("begun", len(self.states) - 1)


def run_load(folder: Path, files: RecordingFiles, steps: int, seed: int) -> list[Seen]:
    wal = Wal.create(folder / "wal", b"me", files, segment_bytes=SEGMENT_BYTES)
    wal.outgrows = seed % 2 == 0
    files.journal.acknowledge("created", 0)
    load = Load(wal, files, random.Random(seed))
    load.states.append(seen(HardState(), SnapshotMetadata(), []))
    for _ in range(steps):
        load.step()
    wal.close()
    return load.states


def verdict(disk: Disk, states: list[Seen], cut: int, seed: int, image: Path) -> str:
    """Open one image; return what is wrong with it, or nothing."""
    shutil.rmtree(image, ignore_errors=True)
    image.mkdir()
    disk.write_image(cut, seed, image)
    marks = disk.acknowledged(cut)
    try:
        wal, replay = Wal.open(image / "wal", HastyFiles(), segment_bytes=SEGMENT_BYTES)
    except WalMissingError:
        return "created and missing" if marks else ""
    except WalError as error:
        return f"does not open: {error}"
    found = seen(replay.hard_state, replay.snapshot, replay.entries)
    promised = max((value for label, value in marks if label == "synced"), default=0)
    begun = max((value for label, value in marks if label == "begun"), default=0)
    if found not in states[promised : begun + 1]:
        wal.close()
        return f"holds none of the states {promised} to {begun}"
    index = wal.last_index + 1
    wal.append([Entry(99, index, b"after")], None)
    wal.sync()
    wal.close()
    wal, again = Wal.open(image / "wal", HastyFiles(), segment_bytes=SEGMENT_BYTES)
    wal.close()
    if again.entries != [*replay.entries, Entry(99, index, b"after")]:
        return "does not go on"
    return ""


def failures(folder: Path, states: list[Seen], images: int) -> list[str]:
    disk = Disk(read_journal(folder / JOURNAL_NAME), folder)
    verdicts = [
        (cut, number, verdict(disk, states, cut, number, folder / "image"))
        for number, cut in enumerate(disk.cuts(images, seed=7))
    ]
    return [f"cut {cut} seed {number}: {text}" for cut, number, text in verdicts if text]


@pytest.mark.parametrize("seed", [3, 4])  # with 4 segments outgrow their size
def test_every_image_of_a_loaded_log_opens_with_all_that_was_acknowledged(
    tmp_path: Path, seed: int
) -> None:
    files = RecordingFiles(open_journal(tmp_path))

    states = run_load(tmp_path, files, steps=400, seed=seed)

    assert len(set(states)) > 200
    assert failures(tmp_path, states, images=300) == []


def test_a_log_that_does_not_sync_is_caught(tmp_path: Path) -> None:
    files = UnsyncedFiles(open_journal(tmp_path))

    states = run_load(tmp_path, files, steps=100, seed=3)

    assert failures(tmp_path, states, images=60) != []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_lives_and_many_images(tmp_path: Path, seed: int) -> None:
    files = RecordingFiles(open_journal(tmp_path))

    states = run_load(tmp_path, files, steps=500, seed=1000 + seed)

    assert failures(tmp_path, states, images=500) == []


def test_power_may_go_again_while_the_log_is_being_opened(tmp_path: Path) -> None:
    files = RecordingFiles(open_journal(tmp_path))
    states = run_load(tmp_path, files, steps=120, seed=5)
    disk = Disk(read_journal(tmp_path / JOURNAL_NAME), tmp_path)
    wrong = []

    for number, cut in enumerate(disk.cuts(25, seed=9)):
        if not disk.acknowledged(cut):
            continue
        life = tmp_path / f"life{number}"
        disk.write_image(cut, number, life)
        base = {f"wal/{p.name}": p.read_bytes() for p in (life / "wal").iterdir()}
        second = RecordingFiles(open_journal(tmp_path / f"journal{number}"))
        wal, replay = Wal.open(life / "wal", second, segment_bytes=SEGMENT_BYTES)
        second.journal.acknowledge("synced", 0)
        wal.close()
        again = Disk(read_journal(tmp_path / f"journal{number}" / JOURNAL_NAME), life, base)
        opened = seen(replay.hard_state, replay.snapshot, replay.entries)
        for moment in range(len(again.events) + 1):
            # Before the open is through, any state that the first loss allowed is right.
            marks = disk.acknowledged(cut)
            low = max((value for label, value in marks if label == "synced"), default=0)
            allowed = [opened] if again.acknowledged(moment) else states[low:]
            target = tmp_path / "image"
            shutil.rmtree(target, ignore_errors=True)
            again.write_image(moment, number, target)
            wal, replay = Wal.open(target / "wal", HastyFiles(), segment_bytes=SEGMENT_BYTES)
            wal.close()
            if seen(replay.hard_state, replay.snapshot, replay.entries) not in allowed:
                wrong.append((number, cut, moment))

    assert wrong == []


def test_after_a_failed_sync_the_doubtful_tail_is_written_again_elsewhere(tmp_path: Path) -> None:
    files = FailingFiles(open_journal(tmp_path))
    wal = Wal.create(tmp_path / "wal", b"me", files, segment_bytes=SEGMENT_BYTES)
    wal.append([Entry(1, 1, b"durable")], HardState(1, 1, 0))
    wal.sync()
    wal.append([Entry(1, 2, b"doubtful")], HardState(1, 1, 1))
    files.failing = True
    with pytest.raises(WalSyncError):
        wal.sync()
    with pytest.raises(WalSyncError):
        wal.append([Entry(1, 3, b"")], None)
    wal.close()
    before = wal.segments
    files.failing = False

    wal, replay = Wal.open(tmp_path / "wal", files, segment_bytes=SEGMENT_BYTES)

    assert [entry.data for entry in replay.entries] == [b"durable", b"doubtful"]
    assert replay.hard_state == HardState(1, 1, 1)
    assert wal.segments[:-1] == before
    assert not (tmp_path / "wal" / "sync-failed").exists()
    disk = Disk(read_journal(tmp_path / JOURNAL_NAME), tmp_path)
    for seed in range(20):
        shutil.rmtree(tmp_path / "image", ignore_errors=True)
        disk.write_image(len(disk.events), seed, tmp_path / "image")
        _, found = Wal.open(tmp_path / "image/wal", HastyFiles(), segment_bytes=SEGMENT_BYTES)
        assert (found.hard_state, found.entries) == (replay.hard_state, replay.entries)
