"""Raft nodes on disks that take for ever over the log's next segment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import recovery
from actors.messages import Propose
from actors.metrics import RaftMetric
from storage.files import SCALE_VARIABLE, OsFiles, scaled
from storage.wal import SEGMENT_BYTES
from tests.actors.test_raft_cluster import Bench


class HeldFiles(OsFiles):
    """Once `held`, a sync of a file that is to be the next segment does not return."""

    def __init__(self) -> None:
        self.held = False
        self.waiting = threading.Event()
        self.gate = threading.Event()

    def fdatasync(self, descriptor: int) -> None:
        """See Files."""
        if self.held and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".next"):
            if threading.current_thread() is threading.main_thread():
                raise AssertionError("the raft node makes the next segment itself")
            self.waiting.set()
            self.gate.wait()
        super().fdatasync(descriptor)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> HeldFiles:
    """The files of all raft nodes of a test; their segments are small."""
    held = HeldFiles()
    monkeypatch.setattr(recovery, "default_files", lambda: held)
    monkeypatch.setenv(SCALE_VARIABLE, "1024")
    return held


@pytest.fixture
def bench(files: HeldFiles, tmp_path: Path) -> Iterator[Bench]:
    """Three members whose next segments are not ready, and will not be."""
    bench = Bench(tmp_path)
    files.held = True
    yield bench
    files.gate.set()
    for node in bench.nodes.values():
        node.kill()


def test_slow_syncs_of_the_next_segment_hold_up_no_heartbeat(
    bench: Bench, files: HeldFiles
) -> None:
    leader = bench.elect()
    assert files.waiting.wait(10)
    term = leader.word(RaftMetric.TERM)

    for _ in range(50):
        bench.tick(*bench.nodes.values())

    assert leader.word(RaftMetric.IS_LEADER)
    assert {node.word(RaftMetric.TERM) for node in bench.nodes.values()} == {term}


def test_a_full_segment_waits_for_no_sync_of_the_next_one(bench: Bench, files: HeldFiles) -> None:
    leader = bench.elect()
    assert files.waiting.wait(10)
    term = leader.word(RaftMetric.TERM)
    batches = 3 * scaled(SEGMENT_BYTES) // 2 // 4096

    for _ in range(batches):
        leader.actor.propose(Propose(1, 1, 1, bytes(4096)))
        bench.settle()
        bench.tick(*bench.nodes.values())

    assert leader.word(RaftMetric.IS_LEADER)
    assert leader.word(RaftMetric.TERM) == term
    assert leader.actor._applied_index >= batches
    assert [len(node.actor._log.wal.segments) for node in bench.nodes.values()] == [1, 1, 1]
    files.gate.set()
    while len(leader.actor._log.wal.segments) == 1:
        leader.actor.propose(Propose(1, 1, 1, bytes(4096)))
        bench.settle()
        bench.tick(*bench.nodes.values())
