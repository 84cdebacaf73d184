"""A million keys, `make bench-scale`: how starts and memory change with the store.

Both members are measured side by side, their starts in turn. Readiness is the first linearizable
range answered. Writes docs/benchmarks/scale.json and docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import bench, report, results
from benchmarks.generator import Options, load
from benchmarks.members import Member, MemberError, Server, answers_reads
from benchmarks.pairs import turns
from benchmarks.unary import count_keys, put
from benchmarks.workloads import VALUE_BYTES

KEYS: Final = 1_000_000
IDLE_SECONDS: Final = 5.0
RANGES: Final = 500_000


def restart(member: Member, how: signal.Signals = signal.SIGTERM) -> float:
    """End the member by a signal and return the seconds its next start took to answer a read."""
    if how == signal.SIGKILL:
        member.kill()
    else:
        member.stop()
    return member.start(answers_reads)


def restarts(
    pair: Sequence[Member], rounds: int, how: signal.Signals = signal.SIGTERM
) -> list[list[float]]:
    """Restart both in turn, `rounds` times; the seconds of each start, by member."""
    found: list[list[float]] = [[], []]
    for order in turns(rounds):
        for which in order:
            found[which].append(round(restart(pair[which], how), 4))
    return found


def idle_pss(pair: Sequence[Member], seconds: float) -> list[int]:
    """Return the memory of both after so many quiet seconds."""
    time.sleep(seconds)
    return [member.pss_bytes() for member in pair]


def read(member: Member, count: int, keys: int) -> None:
    """Read so many keys at random, 100 in flight: what a member keeps for its readers."""
    load(member.endpoint, Options(op="range", in_flight=100, count=count, keys=keys))


def data_bytes(folder: Path) -> int:
    """Return the bytes on disk of all files below a folder: blocks, not lengths."""
    return sum(
        os.lstat(Path(root) / name).st_blocks * 512
        for root, _, names in os.walk(folder)
        for name in names
    )


def measure(
    servers: Sequence[Server],
    folder: Path,
    *,
    keys: int,
    ranges: int,
    rounds: int,
    idle_seconds: float,
) -> list[dict[str, Any]]:
    """Return the figures of each server. Raises MemberError when keys are missing at the end."""
    pair = []
    for number, server in enumerate(servers):
        home = folder / f"{number}-{server.label}"
        home.mkdir()
        pair.append(Member(server, home))
    try:
        first = [member.start(answers_reads) for member in pair]
        for member in pair:
            put(member.endpoint)
        columns: dict[str, Sequence[Any]] = {
            "label": [server.label for server in servers],
            "first_start_seconds": [round(seconds, 4) for seconds in first],
            "empty_start_seconds": restarts(pair, rounds),
            "empty_pss_bytes": idle_pss(pair, idle_seconds),
            "fill_per_second": [bench.fill(member, keys) for member in pair],
            "filled_pss_bytes": idle_pss(pair, idle_seconds),
            "full_start_seconds": restarts(pair, rounds),
            "killed_start_seconds": restarts(pair, rounds, signal.SIGKILL),
            "idle_pss_bytes": idle_pss(pair, idle_seconds),
            "data_bytes": [data_bytes(member.folder / "data") for member in pair],
        }
        for member in pair:
            read(member, ranges, keys)
        columns["read_pss_bytes"] = idle_pss(pair, idle_seconds)
        for member in pair:
            found = count_keys(member.endpoint, keys)
            if found != keys:
                raise MemberError(f"{member.server.label} holds {found} of {keys} keys")
    finally:
        for member in pair:
            member.stop()
    return [{name: column[which] for name, column in columns.items()} for which in (0, 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = bench.parser(__doc__)
    options.add_argument("--keys", type=int, help=f"default {KEYS:,}; 20,000 with --quick")
    options.add_argument("--rounds", type=int, default=3, help="starts of each kind")
    given: argparse.Namespace = options.parse_args(arguments)
    keys = given.keys or (20_000 if given.quick else KEYS)
    ranges = min(RANGES, keys)
    idle_seconds = 1.0 if given.quick else IDLE_SECONDS
    servers = bench.servers(given)
    result: dict[str, Any] = {
        "facts": results.facts(*servers),
        "keys": keys,
        "value_bytes": VALUE_BYTES,
        "rounds": given.rounds,
        "ranges": ranges,
        "idle_seconds": idle_seconds,
    }
    with tempfile.TemporaryDirectory(prefix="trouped-bench-", dir=given.directory) as folder:
        result["servers"] = measure(
            servers,
            Path(folder),
            keys=keys,
            ranges=ranges,
            rounds=given.rounds,
            idle_seconds=idle_seconds,
        )
    print(report.scale_section(result))
    if not (given.quick or given.no_docs):
        results.save("scale", result)
        report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
