"""Puts while history is compacted, `make bench-compaction`: nobody may wait for the pruning.

Puts come on a schedule at half the measured saturation and are timed from when they were due, so
a stall shows whoever waits in it. Each round makes the history anew, looks at a window, calls
Compact (physical, everything) and looks at an equally long window from that call on. Writes
docs/benchmarks/compaction.json and docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import bench, report, results, unary
from benchmarks.generator import GeneratorError, Options, load, running
from benchmarks.latency import worst
from benchmarks.members import Member, members
from benchmarks.pairs import turns

REVISIONS: Final = 500_000
KEYS: Final = 1_000
IN_FLIGHT: Final = 100
FILL_IN_FLIGHT: Final = 1_000
WINDOW_SECONDS: Final = 20.0  # longer than Compact takes: 8 to 19 s
SETTLE_SECONDS: Final = 2.0
BIN_SECONDS: Final = 0.02
# Puts due just before the call may wait in a stall of its making: they belong to it, and a gap
# between the windows keeps them out of the one before.
MARGIN_SECONDS: Final = 0.1
GAP_SECONDS: Final = 1.0


def saturation(member: Member, seconds: float) -> float:
    """Return puts a second with IN_FLIGHT in flight and no schedule."""
    options = Options(op="put", in_flight=IN_FLIGHT, seconds=seconds, keys=KEYS)
    return load(member.endpoint, options).ops_per_second


def one_round(member: Member, revisions: int, rate: float, window: float) -> dict[str, Any]:
    """Make the history, run the two windows; worst puts in ms, and how long Compact took in s.

    Raises GeneratorError when a put failed or Compact outlasted its window, CallError when it
    failed.
    """
    endpoint = member.endpoint
    load(endpoint, Options(op="put", in_flight=FILL_IN_FLIGHT, count=revisions, keys=KEYS))
    time.sleep(SETTLE_SECONDS)
    revision = unary.put(endpoint)
    options = Options(
        op="put",
        in_flight=IN_FLIGHT,
        rate=rate,
        seconds=2 * window + GAP_SECONDS,
        warmup=1.0,
        keys=KEYS,
        timeline=BIN_SECONDS,
    )
    with running(endpoint, options) as run:
        time.sleep(max(run.started + window + GAP_SECONDS - time.monotonic(), 0))
        begun = time.monotonic()
        unary.compact(endpoint, revision)
        took = time.monotonic() - begun
    if run.result is None or run.result.errors:
        raise GeneratorError(f"puts failed: {run.result and run.result.errors}")
    if took > window:
        raise GeneratorError(f"Compact took {took:.1f} s, the window has {window:g}")
    bins = run.result.timeline
    called = begun - run.started - MARGIN_SECONDS
    return {
        "before_ms": worst(bins, 0, window),
        "during_ms": worst(bins, called, called + window),
        "compaction_seconds": round(took, 3),
        "p50_ms": run.result.p50,
        "p99_ms": run.result.p99,
        "ops_per_second": run.result.ops_per_second,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = bench.parser(__doc__)
    options.add_argument("--rounds", type=int, help="rounds for each server (3)")
    options.add_argument("--revisions", type=int, help=f"default {REVISIONS:,}")
    options.add_argument("--rate", type=float, help="puts a second instead of half the saturation")
    given: argparse.Namespace = options.parse_args(arguments)
    rounds = given.rounds or (1 if given.quick else 3)
    revisions = given.revisions or (20_000 if given.quick else REVISIONS)
    window = 2.0 if given.quick else WINDOW_SECONDS
    both = bench.servers(given)
    result: dict[str, Any] = {
        "facts": results.facts(*both),
        "revisions": revisions,
        "keys": KEYS,
        "in_flight": IN_FLIGHT,
        "window_seconds": window,
    }
    with members(both, given.directory) as pair:
        fastest = [saturation(member, 1.0 if given.quick else 3.0) for member in pair]
        rates = [given.rate or speed / 2 for speed in fastest]
        found: list[list[dict[str, Any]]] = [[], []]
        for order in turns(rounds):
            for which in order:
                found[which].append(one_round(pair[which], revisions, rates[which], window))
    result["servers"] = [
        {
            "label": both[which].label,
            "saturation": fastest[which],
            "rate": rates[which],
            "rounds": found[which],
        }
        for which in (0, 1)
    ]
    print(report.compaction_section(result))
    if not (given.quick or given.no_docs):
        results.save("compaction", result)
        report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
