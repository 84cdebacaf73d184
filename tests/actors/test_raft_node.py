"""The raft node alone, over a real log; what it sends is caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.messages import AppliedTo, Propose, ReadIndex
from actors.raft_node import RaftNode
from actors.raft_reads import READS_ASKED_MAX
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


def start(folder: Path, incarnation: int) -> tuple[RaftNode, list[tuple[str, Any]]]:
    """Start a raft node; the second of the pair is what it has sent."""
    node = RaftNode(context(folder, "raft-node", CONFIG, incarnation))
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


def test_reads_asked_without_a_leader_are_forgotten_in_the_end(tmp_path: Path) -> None:
    make_board(tmp_path)
    node, sent = start(tmp_path, 1)

    for number in range(READS_ASKED_MAX + 10):
        node.read_index(ReadIndex("gateway-0", number))
        node.flush(Flush())

    assert len(node._reads) == READS_ASKED_MAX
    assert sent == []
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
