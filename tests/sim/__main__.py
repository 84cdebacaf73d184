"""Run seeds: `python -m tests.sim --seeds 0..2000 --minutes 10`, `python -m tests.sim --seed 7`.

A single seed is run with its trace, which is the same every time. A row of seeds ends with a
summary in words and as one line of JSON; exit status 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tests.sim.cluster import Report, run_seed

POINTS: Final = (
    "answer looked up",
    "call failed: etcdserver: request timed out",
    "database fell back",
    "killed in the middle of a turn: applier",
    "killed in the middle of a turn: gateway-0",
    "killed in the middle of a turn: raft-node",
    "killed in the middle of a turn: snapshotter",
    "leader elected",
    "log ahead of the database at start",
    "member ended by its disk",
    "message held in a cut link delivered",
    "power lost before a create",
    "power lost before a rename",
    "power lost before a sync",
    "power lost before a unlink",
    "power lost before a write",
    "proposal late",
    "proposed again",
    "read of the only voter",
    "session closed under a gateway",
    "snapshot lost on its way",
    "snapshot received",
    "snapshot recorded",
    "snapshot sent",
    "torn tail cut off",
    "write torn by a power loss",
)
"""Situations that a long run must have met."""


def _numbers(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + (not last))


def _in_time(seeds: range, until: float) -> Iterator[int]:
    for seed in seeds:
        if time.monotonic() > until:
            return
        yield seed


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run one seed and print its trace")
    parser.add_argument("--seeds", type=_numbers, default=range(2000), help="A..B, B excluded")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        report = run_seed(options.seed, tracing=True)
        _print("\n".join(report.log))
        _print(report.error or f"seed {options.seed}: ok, {report.operations} operations")
        return bool(report.error)
    return _many(options.seeds, options.minutes, options.jobs)


def _many(seeds: range, minutes: float, jobs: int) -> int:
    started = time.monotonic()
    todo = _in_time(seeds, started + 60 * minutes)
    if jobs == 1:
        reports = list(map(_told, todo))
    else:
        with multiprocessing.Pool(jobs) as pool:
            reports = [_say(report) for report in pool.imap_unordered(run_seed, todo)]
    summary = summarize(reports, time.monotonic() - started)
    for kind, count in sorted(summary["faults"].items()):
        _print(f"{count:9d} {kind}")
    _print("points not reached: " + (", ".join(summary["points_missing"]) or "none"))
    _print(json.dumps(summary))
    return bool(summary["failed"])


def _told(seed: int) -> Report:
    return _say(run_seed(seed))


def _say(report: Report) -> Report:
    if report.error:
        _print(f"seed {report.seed} failed: {report.error}\nmake sim SEED={report.seed}")
    return report


def summarize(reports: list[Report], seconds: float) -> dict[str, Any]:
    """Return what many runs came to."""
    faults: Counter[str] = Counter()
    points: Counter[str] = Counter()
    for report in reports:
        faults += report.faults
        points += report.points
    recoveries = sorted(report.recovery_seconds for report in reports if not report.error)
    missing = [point for point in POINTS if not points[point]]
    return {
        "seeds": len(reports),
        "failed": [report.seed for report in reports if report.error],
        "seeds_per_second": round(len(reports) / seconds, 2),
        "simulated_hours": round(sum(report.seconds for report in reports) / 3600, 3),
        "events": sum(report.events for report in reports),
        "operations": sum(report.operations for report in reports),
        "unknown_outcomes": sum(report.unknown for report in reports),
        "elections": sum(report.elections for report in reports),
        "recovery_seconds_median": recoveries[len(recoveries) // 2] if recoveries else None,
        "recovery_seconds_max": recoveries[-1] if recoveries else None,
        "faults": dict(sorted(faults.items())),
        "points": dict(sorted(points.items())),
        "points_missing": missing,
        "points_reached": f"{len(POINTS) - len(missing)} of {len(POINTS)}",
    }


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
