"""Raft nodes on disks that take for ever over the log's next segment, or long over every sync."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import recovery
from actors.messages import Apply, PeerMessages, PeerReceived, Propose
from actors.metrics import RaftMetric
from actors.raft_log import FAST_SYNC_NS
from storage.faults import FaultyFiles
from storage.files import SCALE_VARIABLE, OsFiles, scaled
from storage.wal import SEGMENT_BYTES
from tests.actors.test_raft_cluster import Bench
from transport.mailbox import Flush, Tick

SCALE = "64"  # segments of 64 KiB


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
    monkeypatch.setenv(SCALE_VARIABLE, SCALE)
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


def pass_time(bench: Bench) -> float:
    """Take a turn of every node without waiting for any sync; return the longest turn's seconds."""
    longest = 0.0
    for node in bench.nodes.values():
        began, actor = time.monotonic(), node.actor
        syncer = actor._log.syncer
        if syncer is not None and select.select([syncer.descriptor], [], [], 0)[0]:
            actor._synced()
        actor.tick(Tick(began))
        actor.flush(Flush())
        longest = max(longest, time.monotonic() - began)
        for apply in node.take(Apply):
            actor._words[node.applied_word] = apply.committed
        for order in node.take(PeerMessages):
            for to, payload in zip(order.to, order.payloads, strict=True):
                bench.nodes[to].actor.peer_received(PeerReceived([node.id], [0], [payload]))
    return longest


def test_a_roll_on_a_disk_that_syncs_in_500_ms_holds_up_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "control"
    monkeypatch.setattr(recovery, "default_files", lambda: FaultyFiles(control))
    monkeypatch.setenv(SCALE_VARIABLE, SCALE)
    bench = Bench(tmp_path)
    leader = bench.elect()
    while not all(node.actor._log.wal.prepared for node in bench.nodes.values()):
        bench.tick(*bench.nodes.values())
    control.write_text('{"sync_seconds": 0.5}')  # as `fsync-slow` has it
    leader.actor.propose(Propose(1, 1, 1, bytes(4096)))
    slow = [node.actor._log for node in bench.nodes.values()]
    while not all(log.sync_ns > FAST_SYNC_NS for log in slow):
        pass_time(bench)  # a follower finds out how slow it is by one sync of its own

    longest, rolls_in_doubt, deadline = 0.0, 0, time.monotonic() + 30
    while any(len(log.wal.segments) == 1 for log in slow):
        before = [len(log.wal.segments) for log in slow]
        leader.actor.propose(Propose(1, 1, 1, bytes(4096)))
        longest = max(longest, pass_time(bench))
        for log, segments in zip(slow, before, strict=True):
            rolls_in_doubt += len(log.wal.segments) > segments and log.wal._finished is not None
        time.sleep(0.005)
        assert time.monotonic() < deadline

    assert rolls_in_doubt
    assert longest < 0.25
    assert leader.word(RaftMetric.IS_LEADER)
    control.unlink()
    last = leader.actor._log.wal.last_index
    bench.settle()
    assert leader.actor._applied_index >= last
    for node in bench.nodes.values():
        node.kill()
