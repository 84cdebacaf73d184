"""Three members of trouped beside three of etcd, `make bench-cluster`: as `make bench` does it.

All six run on this machine, one cluster is loaded at a time, and they take turns. Connections are
spread over all members unless --target leader. Writes docs/benchmarks/cluster.json and
docs/benchmarks.md, whatever they say; with --only, --quick or --no-docs no file is written.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import bench, report, results
from benchmarks.cluster_members import Cluster, clusters
from benchmarks.workloads import KEYS, VALUE_BYTES, Workload

SIZE: Final = 3
PERF_TIMEOUT: Final = 180.0
WORKLOADS: Final = (
    Workload("put", 1, None),
    Workload("put", 100, 1.0),
    Workload("put", 1000, 1.0),
    Workload("range", 100, 1.0),
    Workload("serializable", 100, None),
)
_PROGRESS: Final = re.compile(r".*\r|^\s*\d+ / \d+.*%.*$", re.MULTILINE)


def check_perf(cluster: Cluster) -> list[str]:
    """Run `etcdctl check perf --load=m`, a minute, and return its verdicts (PASS: ..., FAIL: ...).

    Without an etcdctl, the one line that says so.
    """
    program = Path(sys.executable).parent / "etcdctl"
    endpoints = ",".join(node.endpoint for node in cluster.nodes)
    if not program.exists():
        return ["no etcdctl beside this Python"]
    done = subprocess.run(
        [str(program), f"--endpoints={endpoints}", "check", "perf", "--load=m"],
        capture_output=True,
        text=True,
        timeout=PERF_TIMEOUT,
        check=False,
    )
    lines = _PROGRESS.sub("", done.stdout + done.stderr).splitlines()
    return [line.strip() for line in lines if line.strip()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 when a floor is not met."""
    known = {workload.name: workload for workload in WORKLOADS}
    options = bench.parser(__doc__)
    options.add_argument("--pairs", type=int, help="pairs of runs for each workload (7)")
    options.add_argument("--seconds", type=float, help="length of a run (5)")
    options.add_argument("--only", nargs="+", choices=known, help="some workloads; no docs")
    options.add_argument("--target", choices=("all", "leader"), default="all")
    options.add_argument("--keys", type=int, default=KEYS)
    given = options.parse_args(arguments)
    pairs = given.pairs or (3 if given.quick else 7)
    seconds = given.seconds or (1.0 if given.quick else 5.0)
    both = bench.servers(given)
    result: dict[str, Any] = {
        "facts": results.facts(*both),
        "labels": [server.label for server in both],
        "pairs": pairs,
        "seconds": seconds,
        "keys": given.keys,
        "value_bytes": VALUE_BYTES,
        "target": "the leader" if given.target == "leader" else "all three in turn",
        "check_perf": {},
    }
    with clusters(both, SIZE, given.target, given.directory) as pair:
        result["fill_per_second"] = [bench.fill(cluster, given.keys) for cluster in pair]
        chosen = [known[name] for name in given.only or known]
        result["workloads"] = [bench.compare(pair, each, pairs, seconds) for each in chosen]
        if not (given.only or given.quick):
            result["check_perf"] = {each.server.label: check_perf(each) for each in pair}
    print(report.cluster_section(result))
    if not (given.only or given.quick or given.no_docs):
        results.save("cluster", result)
        report.write()
    passed = all("FAIL" not in line for line in result["check_perf"].get(both[0].label, []))
    return 0 if report.floors_met(result) and passed else 1


if __name__ == "__main__":
    sys.exit(main())
