"""Run seeds: `python -m tests.sim --seeds 0..2000 --minutes 10`, `python -m tests.sim --seed 7`.

A single seed is run with its trace, which is the same every time. A row of seeds ends with a
summary in words and as one line of JSON.

`--seeds A..B` means all of them: the exit status is 1 if any failed, if the minutes were over
before the last one, or if a long row did not meet every situation of POINTS. `--seeds A..` has no
end: it takes as many as the minutes allow.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from threading import Semaphore
from typing import Any, Final

from tests.sim.cluster import Report, run_seed

POINTS: Final = (
    "answer looked up",
    "call failed: etcdserver: request timed out",
    "database fell back",
    "gateway waits for more",
    "killed in the middle of a turn: applier",
    "killed in the middle of a turn: gateway-0",
    "killed in the middle of a turn: raft-node",
    "killed in the middle of a turn: snapshotter",
    "leader elected",
    "log ahead of the database at start",
    "log opened whose roll was not synced",
    "log resumed behind its beginning",
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
    "results before their commit",
    "session closed under a gateway",
    "snapshot lost on its way",
    "snapshot received",
    "snapshot recorded",
    "snapshot sent",
    "torn tail cut off",
    "write torn by a power loss",
)
"""Situations that a long run must have met."""
LONG_RUN: Final = 1000
"""Seeds from which on a run must have met them all."""


def _numbers(text: str) -> range | count[int]:
    first, dots, last = text.partition("..")
    if dots and not last:
        return count(int(first))
    return range(int(first), int(last or first) + (not last))


class _InTime:
    """Seeds until the time is over; `over` says that there were more."""

    def __init__(self, seeds: Iterable[int], seconds: float, jobs: int) -> None:
        self._seeds = seeds
        self._until = time.monotonic() + seconds
        # A pool would take all at once.
        self._room = Semaphore(2 * jobs)
        self.over = False

    def __iter__(self) -> Iterator[int]:
        for seed in self._seeds:
            self._room.acquire()
            if time.monotonic() >= self._until:
                self.over = True
                return
            yield seed

    def done(self) -> None:
        """One of them is through."""
        self._room.release()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run one seed and print its trace")
    parser.add_argument("--seeds", type=_numbers, default=range(2000), help="A..B, B excluded; A..")
    parser.add_argument("--minutes", type=float, default=10.0, help="a bound")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        report = run_seed(options.seed, tracing=True)
        _print("\n".join(report.log))
        _print(report.error or f"seed {options.seed}: ok, {report.operations} operations")
        return bool(report.error)
    return _many(options.seeds, options.minutes, options.jobs)


def _many(seeds: range | count[int], minutes: float, jobs: int) -> int:
    started = time.monotonic()
    todo = _InTime(seeds, 60 * minutes, jobs)
    reports = []
    for report in _reports(todo, jobs):
        todo.done()
        if report.error:
            _print(f"seed {report.seed} failed: {report.error}\nmake sim SEED={report.seed}")
        reports.append(report)
    summary = summarize(reports, time.monotonic() - started)
    for kind, times in sorted(summary["faults"].items()):
        _print(f"{times:9d} {kind}")
    _print("points not reached: " + (", ".join(summary["points_missing"]) or "none"))
    _print(
        f"{len(reports)} seeds, {summary['seeds_per_second']} a second, "
        f"{summary['simulated_hours']} simulated hours, {len(summary['failed'])} failed, "
        f"{len(summary['undecided'])} histories undecided"
    )
    _print(json.dumps(summary))
    unfinished = isinstance(seeds, range) and todo.over
    if unfinished:
        _print(f"{minutes:g} minutes were over before the last seed")
    unmet = len(reports) >= LONG_RUN and summary["points_missing"]
    return int(bool(summary["failed"] or unfinished or unmet))


def _reports(seeds: Iterable[int], jobs: int) -> Iterator[Report]:
    if jobs == 1:
        yield from map(run_seed, seeds)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(run_seed, seeds)


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
        "undecided": [report.seed for report in reports if report.undecided],
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
