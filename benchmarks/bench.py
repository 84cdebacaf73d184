"""trouped beside etcd, `make bench`: the same load in turn, both running, one loaded at a time.

Writes docs/benchmarks/bench.json and, from all the JSON there, docs/benchmarks.md, whatever they
say. With --only or --no-docs the table is printed and no file is written.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks import report, results
from benchmarks.generator import Options, load
from benchmarks.members import Member, Server, members
from benchmarks.pairs import turns
from benchmarks.syncs import puts_per_sync, traced
from benchmarks.workloads import KEYS, VALUE_BYTES, WORKLOADS, Workload

FILL_IN_FLIGHT: Final = 200
SETTLE_SECONDS: Final = 0.3
IDLE_SECONDS: Final = 3.0
TRACED_PUTS: Final = 5_000
TRACED_IN_FLIGHT: Final = (100, 1000)


class Loaded(Protocol):
    """What a workload is run against: a member, or all members of a cluster."""

    @property
    def endpoint(self) -> str:
        """host:port of the client API, or several with commas between."""

    def cpu_seconds(self) -> float:
        """CPU time of all processes since they started."""

    def pss_bytes(self) -> int:
        """Memory of all processes."""

    def metrics(self) -> dict[str, float]:
        """The samples of one /metrics page."""


def parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    """Return the options that all benchmarks share."""
    options = argparse.ArgumentParser(description=description)
    add = options.add_argument
    add("--subject", default="trouped", help="program under test")
    add("--reference", default="etcd", help="program beside it; may be the same, to see the noise")
    add("--directory", type=Path, help="parent of the data directories (one file system)")
    add("--quick", action="store_true", help="a look, not a measurement")
    add("--no-docs", action="store_true", help="print the table, write no file")
    return options


def servers(options: argparse.Namespace) -> list[Server]:
    """Return the two servers; the same program twice gets two labels."""
    subject, reference = Server.named(options.subject), Server.named(options.reference)
    if subject.label == reference.label:
        reference = replace(reference, label=f"{reference.label} again")
    return [subject, reference]


def measure(member: Loaded, workload: Workload, seconds: float, seed: int) -> dict[str, Any]:
    """Run one workload once and return its figures: those of the load, CPU, memory, syncs.

    Raises GeneratorError when a request failed.
    """
    time.sleep(SETTLE_SECONDS)
    metrics = member.metrics()
    cpu = member.cpu_seconds()
    result = load(
        member.endpoint,
        Options(
            op=workload.op,
            in_flight=workload.in_flight,
            connections=workload.connections,
            seconds=seconds,
            keys=KEYS,
            seed=seed,
        ),
    )
    cpu = member.cpu_seconds() - cpu
    return {
        "ops_per_second": result.ops_per_second,
        "p50": result.p50,
        "p90": result.p90,
        "p99": result.p99,
        "max": result.max,
        "server_us_per_op": round(cpu / result.all_ops * 1e6, 2),
        "client_us_per_op": result.client_us_per_op,
        "pss_bytes": member.pss_bytes(),
        "puts_per_sync": puts_per_sync(metrics, member.metrics()),
    }


def idle_cpu_percent(pair: Sequence[Loaded], seconds: float) -> list[float]:
    """Return the share of one core that each member takes when nobody asks it anything."""
    begun = [member.cpu_seconds() for member in pair]
    time.sleep(seconds)
    spent = [member.cpu_seconds() - cpu for member, cpu in zip(pair, begun, strict=True)]
    return [round(100 * cpu / seconds, 1) for cpu in spent]


def fill(member: Loaded, keys: int) -> float:
    """Put every key once and return puts a second. Raises GeneratorError when one failed."""
    options = Options(op="fill", in_flight=FILL_IN_FLIGHT, count=keys, keys=keys)
    return load(member.endpoint, options).ops_per_second


def compare(
    pair: Sequence[Loaded], workload: Workload, pairs: int, seconds: float
) -> dict[str, Any]:
    """Run a workload in turn on both; `runs` are the figures of each server in the order taken."""
    runs: list[list[dict[str, Any]]] = [[], []]
    for number, order in enumerate(turns(pairs)):
        for which in order:
            runs[which].append(measure(pair[which], workload, seconds, seed=number + 1))
        _say(
            f"{workload.name} {number + 1}/{pairs}: "
            + ", ".join(f"{runs[which][-1]['ops_per_second']:,.0f}/s" for which in (0, 1))
        )
    return {
        "name": workload.name,
        "op": workload.op,
        "in_flight": workload.in_flight,
        "connections": workload.connections,
        "floor": workload.floor,
        "runs": runs,
    }


def count_syncs(pair: Sequence[Member]) -> list[dict[str, Any]]:
    """Count the syncs of short runs by strace: one row for each number in flight."""
    return [
        {
            "in_flight": in_flight,
            "counts": [traced(each, each.folder, TRACED_PUTS, in_flight) for each in pair],
        }
        for in_flight in TRACED_IN_FLIGHT
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 when a floor is not met."""
    known = {workload.name: workload for workload in WORKLOADS}
    options = parser()
    options.add_argument("--pairs", type=int, help="pairs of runs for each workload (9)")
    options.add_argument("--seconds", type=float, help="length of a run (5)")
    options.add_argument("--only", nargs="+", choices=known, help="some workloads; no docs")
    given = options.parse_args(arguments)
    pairs = given.pairs or (3 if given.quick else 9)
    seconds = given.seconds or (1.0 if given.quick else 5.0)
    both = servers(given)
    result: dict[str, Any] = {
        "facts": results.facts(*both),
        "labels": [server.label for server in both],
        "pairs": pairs,
        "seconds": seconds,
        "keys": KEYS,
        "value_bytes": VALUE_BYTES,
    }
    with members(both, given.directory) as pair:
        result["idle_cpu_percent"] = idle_cpu_percent(pair, IDLE_SECONDS)
        result["idle_pss_bytes"] = [member.pss_bytes() for member in pair]
        result["fill_per_second"] = [fill(member, KEYS) for member in pair]
        chosen = [known[name] for name in given.only or known]
        result["workloads"] = [compare(pair, each, pairs, seconds) for each in chosen]
        result["syncs"] = count_syncs(pair) if not given.only else []
    print(report.bench_section(result))
    if not (given.only or given.no_docs):
        results.save("bench", result)
        report.write()
    return 0 if report.floors_met(result) else 1


if __name__ == "__main__":
    sys.exit(main())
