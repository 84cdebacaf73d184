"""What observing costs: `python -m tests.observe.overhead [--alternations 60] [--tap]`.

One running member under load; recorder and histograms (with --tap also a tap of the raft node) are
switched on and off each second. A tap is open, and read as `troupectl tap` reads it, from before
such a second begins until it has ended. Prints the CPU time of all its processes per put, on and
off, as medians over the seconds, and the ratio of neighbouring seconds with a bootstrap interval:
whatever else the machine does hits both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from actors.metrics import ApplierMetric
from control.observe import MemberView
from control.peek import ask_actor
from control.run_directory import find_run_directory
from control.tap import POLL_SECONDS, TapReader
from tests.member import Member
from transport.counters import Cell

IN_FLIGHT = 100
TRIES = 20
PROC = Path("/proc")
Rest = Callable[[float], None]


def cpu_ns(pids: list[int], proc: Path = PROC) -> dict[str, int]:
    """Return the CPU time of each thread of processes, by its number; of those that still live."""
    found = {}
    for pid in pids:
        for task in (proc / str(pid) / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
                found[task.name] = int((task / "schedstat").read_text().split()[0])
    return found


def spent_ns(before: dict[str, int], after: dict[str, int]) -> int:
    """Return what threads used between two looks; what one used that has ended is not known."""
    return sum(used - before.get(thread, 0) for thread, used in after.items())


def switch(view: MemberView, *, on: bool) -> None:
    for name in view.actors():
        assert ask_actor(view, name, "observe", 5.0, on=on) == {}, name


def measure(view: MemberView, pids: list[int], seconds: float, rest: Rest) -> float:
    """Return CPU microseconds per put over some seconds, which are passed in `rest`.

    Again if nothing was put meanwhile: the load has not begun, or the machine was elsewhere.
    """
    word = Cell.METRICS + ApplierMetric.PUTS
    for _ in range(TRIES):
        puts, cpu = view.board.get("applier", word), cpu_ns(pids)
        rest(seconds)
        spent = spent_ns(cpu, cpu_ns(pids))
        puts = view.board.get("applier", word) - puts
        if puts:
            return spent / 1000 / puts
    raise RuntimeError(f"no put in {TRIES} times {seconds:g} s")


def measure_tapped(view: MemberView, pids: list[int], seconds: float) -> tuple[float, int, int]:
    """Return CPU per put while the raft node is tapped, messages shown, and those not kept."""
    shown = 0
    with TapReader(view, "raft-node") as reader:

        def read(seconds: float) -> None:
            nonlocal shown
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                messages, more = reader.read()
                shown += len(messages)
                if not more:
                    time.sleep(POLL_SECONDS)

        while not shown:  # until the first message has come the tap is not known to be open
            read(POLL_SECONDS)  # the raft node is never quiet for long: it sends grants
        shown = 0
        cost = measure(view, pids, seconds, read)
        return cost, shown, reader.dropped


def alternate(view: MemberView, pids: list[int], alternations: int, *, tap: bool) -> dict[str, Any]:
    """Return medians of CPU per put, on and off, and the cost as a fraction."""
    on: list[float] = []
    off: list[float] = []
    shown: list[int] = []
    dropped = 0
    for number in range(2 * alternations):
        observing = number % 2 == 0
        switch(view, on=observing)
        time.sleep(0.1)
        if tap and observing:
            cost, messages, lost = measure_tapped(view, pids, 0.9)
            on.append(cost)
            shown.append(messages)
            dropped += lost
        else:
            (on if observing else off).append(measure(view, pids, 0.9, time.sleep))
    switch(view, on=True)
    ratios = [a / b - 1 for a, b in zip(on, off, strict=True)]
    chance = random.Random(1)
    means = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {
        "alternations": alternations,
        "tap": {"shown_per_second": statistics.median(shown) / 0.9, "dropped": dropped}
        if tap
        else None,
        "on_us_per_put": round(statistics.median(on), 2),
        "off_us_per_put": round(statistics.median(off), 2),
        "cost": round(statistics.median(ratios), 4),
        "cost_95": [round(means[50], 4), round(means[1949], 4)],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what observing costs")
    parser.add_argument("--alternations", type=int, default=60)
    parser.add_argument("--tap", action="store_true")
    options = parser.parse_args()
    seconds = 2.5 * options.alternations + 30
    with tempfile.TemporaryDirectory() as folder, Member(Path(folder)) as member:
        load = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.load", "--endpoint", member.endpoint),
                *("--op", "put", "--in-flight", str(IN_FLIGHT), "--seconds", str(seconds)),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            view = MemberView(find_run_directory(str(member.data_dir), os.environ, ""))
            measure(view, member.pids(), 2.0, time.sleep)  # until the load has begun
            found = alternate(view, member.pids(), options.alternations, tap=options.tap)
        finally:
            load.terminate()
            load.wait()
    print(json.dumps(found))  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
