"""The three-member benchmark: command lines of its members, and its section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.cluster_members import Cluster
from benchmarks.members import MemberError, Server

SERVER = Server("some", Path("/bin/false"))
FACTS = {
    "date": "2026-01-01 00:00 UTC", "commit": "abc", "cpu": "one", "cores": 2,
    "memory_bytes": 2**30, "kernel": "Linux", "python": "3.11", "load_average": 0.1,
    "versions": {"trouped": "1", "etcd": "2"},
}  # fmt: skip


def run(ops: float) -> dict[str, float]:
    names = ("p50", "p99", "max", "server_us_per_op", "pss_bytes")
    return {"ops_per_second": ops, **dict.fromkeys(names, 1.0)}


def section(subject: float) -> dict[str, Any]:
    workload = {
        "name": "put-100",
        "op": "put",
        "in_flight": 100,
        "connections": 10,
        "floor": 1.0,
        "runs": [[run(subject)], [run(100.0)]],
    }
    return {
        "facts": FACTS,
        "labels": ["trouped", "etcd"],
        "pairs": 1,
        "seconds": 1.0,
        "keys": 10,
        "value_bytes": 256,
        "target": "all three in turn",
        "check_perf": {"trouped": ["PASS: Throughput is 1 writes/s"]},
        "workloads": [workload],
    }


def test_every_member_is_told_of_all(tmp_path: Path) -> None:
    cluster = Cluster.of(SERVER, tmp_path, 3, "all")

    commands = [node.command() for node in cluster.nodes]
    lists = {command[command.index("--initial-cluster") + 1] for command in commands}
    names = [command[command.index("--name") + 1] for command in commands]
    assert names == ["m1", "m2", "m3"]
    assert len(lists) == 1
    assert lists.pop().count("http://127.0.0.1:") == 3


def test_a_member_that_ends_is_said_to_have_ended(tmp_path: Path) -> None:
    cluster = Cluster.of(SERVER, tmp_path, 3, "all")

    with pytest.raises(MemberError, match="exit code 1"):
        cluster.start()
    cluster.stop()


def test_the_section_has_the_ratio_and_the_verdict_of_etcdctl() -> None:
    text = report.cluster_section(section(150.0))

    assert "| put 100 | 10 | 150 | 100 | 1.50 (1.50 to 1.50) | 1.00 | met |" in text
    assert "PASS: Throughput" in text
    assert "**not met**" in report.cluster_section(section(50.0))
