"""The raft node alone, over a real log; what it sends is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.messages import AppliedTo, Durable, Propose
from actors.metrics import Histogram, RaftMetric
from actors.raft_log import MEMORY_BYTES_MAX, TAIL_BYTES
from actors.raft_node import RaftNode
from actors.recovery import NEW
from kv.batch import encode_batch
from storage.files import OsFiles
from tests.actors.boards import context, make_board
from transport.mailbox import Flush

PEER = "http://127.0.0.1:2380"
CONFIG = {
    "snapshot_count": 10_000,
    "snapshot_catchup_entries": 5000,
    "max_wals": 5,
    "heartbeat_interval_ms": 100,
    "election_timeout_ms": 1000,
    "pre_vote": True,
    "initial_cluster_token": "token",
    "initial_cluster": {"m1": [PEER]},
    "name": "m1",
    "wal_dir": "",
}


class KilledError(Exception):
    """Stands for the end of the process."""


def start(
    folder: Path, incarnation: int, config: dict[str, Any] = CONFIG
) -> tuple[RaftNode, list[tuple[str, Any]]]:
    """Start a raft node; the second of the pair is what it has sent."""
    node = RaftNode(context(folder, "raft-node", config, incarnation))
    sent: list[tuple[str, Any]] = []

    def send(receiver: str, message: object, items: int = 1) -> bool:
        sent.append((receiver, message))
        return True

    node.send = send  # type: ignore[method-assign]
    node.on_start()
    return node, sent


def stop(node: RaftNode) -> None:
    """End it as a SIGKILL would: nothing is told to anybody."""
    node._log.close()
    node.links.close()


def test_a_log_is_made_in_a_folder_that_is_there_already_and_holds_no_log(tmp_path: Path) -> None:
    """As etcd's wal.Exist has it: a volume that is mounted at --wal-dir is empty or nearly so."""
    make_board(tmp_path)
    wal_dir = tmp_path / "volume"
    (wal_dir / "lost+found").mkdir(parents=True)
    (wal_dir / "new").mkdir()  # left by a start that was cut short
    (wal_dir / "new" / f"{0:016x}-{1:016x}.wal").write_bytes(b"half of it")
    config = CONFIG | {"wal_dir": str(wal_dir)}
    node, _ = start(tmp_path, 1, config)
    log = sorted(path.name for path in wal_dir.glob("*.wal"))
    stop(node)

    again, _ = start(tmp_path, 2, config)

    assert log == [f"{0:016x}-{1:016x}.wal"]
    assert again.stats()["last_index"] == 1
    assert (wal_dir / "lost+found").exists()
    assert not (wal_dir / "new").exists()
    stop(again)


def test_a_new_log_whose_names_may_not_be_durable_is_not_written_to_before_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_board(tmp_path)
    wal_dir = tmp_path / "wal"
    config = CONFIG | {"wal_dir": str(wal_dir)}

    def die(_: OsFiles, path: Path) -> None:
        if path == wal_dir and list(wal_dir.glob("*.wal")):
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(OsFiles, "sync_directory", die)
        with pytest.raises(KilledError):
            start(tmp_path, 1, config)
    (wal_dir / NEW / "old name").touch()  # brought back by a power loss
    synced: list[Path] = []
    monkeypatch.setattr(OsFiles, "sync_directory", lambda _, path: synced.append(path))

    node, _ = start(tmp_path, 2, config)

    assert synced[:2] == [wal_dir, tmp_path]
    assert not (wal_dir / NEW).exists()
    assert node.stats()["last_index"] == 1
    stop(node)


def test_the_only_voter_leads_once_its_configuration_is_applied(tmp_path: Path) -> None:
    make_board(tmp_path)
    node, _ = start(tmp_path, 1)
    before = node.stats()["role"]

    node.applied_to(AppliedTo(1))
    node.flush(Flush())

    assert before == "StateFollower"
    assert node.stats()["role"] == "StateLeader"
    stop(node)


def test_a_configuration_whose_applied_notice_died_with_a_raft_node_is_taken_up(
    tmp_path: Path,
) -> None:
    make_board(tmp_path)
    first, _ = start(tmp_path, 1)
    stop(first)  # the applier has entry 1 and tells the dead
    second, _ = start(tmp_path, 2)

    second.welcome("applier", 1)
    second.flush(Flush())

    assert second.stats()["role"] == "StateLeader"
    assert second.stats()["applied_index"] == 1
    stop(second)


def test_a_log_too_big_for_memory_keeps_its_newest_entries_for_those_behind(
    tmp_path: Path,
) -> None:
    make_board(tmp_path)
    node, _ = start(tmp_path, 1)
    node.applied_to(AppliedTo(1))
    node.flush(Flush())
    batch = bytes(1 << 20)
    for _ in range(MEMORY_BYTES_MAX // len(batch) + 1):
        node.propose(Propose(1, 1, 1, batch))
        node.flush(Flush())
    last = node._storage.last_index()
    node.applied_to(AppliedTo(last))
    before = node._storage.first_index()

    node.durable(Durable(last, node._storage.term(last)))
    assert node._log.snapshot_index < last, "the core has not passed what was applied"
    for _ in range(4):  # it gives out so many bytes at a time
        node.flush(Flush())
    node.durable(Durable(last, node._storage.term(last)))

    kept = last + 1 - node._storage.first_index()
    assert before == 1
    assert kept == TAIL_BYTES // len(batch)
    assert node._log.memory_bytes <= TAIL_BYTES
    assert node._log.snapshot_index == last
    stop(node)


def test_each_batch_is_one_observed_write_and_one_observed_sync(tmp_path: Path) -> None:
    make_board(tmp_path)
    node, _ = start(tmp_path, 1)
    node.applied_to(AppliedTo(1))
    node.flush(Flush())
    writes = Histogram(node.board, "raft-node", RaftMetric.WAL_WRITE)
    syncs = Histogram(node.board, "raft-node", RaftMetric.FSYNC)
    before = sum(writes.read()[0]), sum(syncs.read()[0]), writes.read()[1]

    for _ in range(5):
        for _ in range(3):
            node.propose(Propose(1, 1, 1, bytes(100)))
        node.flush(Flush())

    after = sum(writes.read()[0]), sum(syncs.read()[0]), writes.read()[1]
    assert (after[0] - before[0], after[1] - before[1]) == (5, 5)
    assert 0 < after[2] - before[2] < 5
    stop(node)


def test_expiries_are_appended_before_the_puts_of_the_same_turn(tmp_path: Path) -> None:
    make_board(tmp_path)
    node, _ = start(tmp_path, 1)
    node.applied_to(AppliedTo(1))
    node.flush(Flush())
    last = node._storage.last_index()

    node.propose(Propose(7, 1, 1, b"first put"))
    node.propose(Propose(7, 2, 1, b"second put"))
    node.propose(Propose(0, 0, 1, b"expiry"))
    node.flush(Flush())

    entries = node._storage.entries(last + 1, node._storage.last_index() + 1, 1 << 30)
    assert [entry.data for entry in entries] == [b"expiry", b"first put", b"second put"]
    stop(node)


def test_it_waits_awake_for_a_lone_client_and_not_for_many(tmp_path: Path) -> None:
    make_board(tmp_path)
    node, _ = start(tmp_path, 1)
    node.applied_to(AppliedTo(1))
    node.flush(Flush())
    node.applied_to(AppliedTo(2))
    node.flush(Flush())

    def lingers() -> bool:
        node.flush(Flush())
        return node.actor_inbox.lingers

    def lingers_after(number: int, requests: int) -> bool:
        node.propose(Propose(9, number, requests, encode_batch(9, number, number, b"", [])))
        return lingers()

    assert lingers_after(1, 1)
    assert not lingers_after(2, 100)
    assert lingers_after(102, 2)
    assert lingers()  # after a tick too

    node._conf_state = replace(node._conf_state, learners=(2,))
    node._sole_voter = False

    assert not lingers()
    stop(node)
