"""What observing costs: `python -m tests.observe.overhead [--alternations 60] [--tap]`.

One running member under load; recorder and histograms (with --tap also a tap of the raft node) are
switched on and off each second. Prints the CPU time of all its processes per put, on and off, as
medians over the seconds, and the ratio of neighbouring seconds with a bootstrap interval: whatever
else the machine does hits both alike.
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
from pathlib import Path
from typing import Any

from actors.metrics import ApplierMetric
from control.observe import MemberView
from control.peek import ask_actor
from control.run_directory import find_run_directory
from tests.member import Member
from transport.counters import Cell

IN_FLIGHT = 100


def cpu_ns(pids: list[int]) -> int:
    """Return the CPU time of all threads of processes."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def switch(view: MemberView, *, on: bool) -> None:
    for name in view.actors():
        assert ask_actor(view, name, "observe", 5.0, on=on) == {}, name


def measure(view: MemberView, pids: list[int], seconds: float) -> float:
    """Return CPU microseconds per put over some seconds."""
    word = Cell.METRICS + ApplierMetric.PUTS
    puts, cpu = view.board.get("applier", word), cpu_ns(pids)
    time.sleep(seconds)
    cpu = cpu_ns(pids) - cpu
    puts = view.board.get("applier", word) - puts
    return cpu / 1000 / puts


def alternate(view: MemberView, pids: list[int], alternations: int, *, tap: bool) -> dict[str, Any]:
    """Return medians of CPU per put, on and off, and the cost as a fraction."""
    on: list[float] = []
    off: list[float] = []
    for number in range(2 * alternations):
        observing = number % 2 == 0
        switch(view, on=observing)
        tapping = _tap(view) if tap and observing else None
        time.sleep(0.1)
        (on if observing else off).append(measure(view, pids, 0.9))
        if tapping is not None:
            tapping.terminate()
            tapping.wait()
    switch(view, on=True)
    ratios = [a / b - 1 for a, b in zip(on, off, strict=True)]
    chance = random.Random(1)
    means = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {
        "alternations": alternations,
        "tap": tap,
        "on_us_per_put": round(statistics.median(on), 2),
        "off_us_per_put": round(statistics.median(off), 2),
        "cost": round(statistics.median(ratios), 4),
        "cost_95": [round(means[50], 4), round(means[1949], 4)],
    }


def _tap(view: MemberView) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "control", "tap", "raft-node", f"--run-dir={view.run_dir}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


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
            time.sleep(2.0)
            found = alternate(view, member.pids(), options.alternations, tap=options.tap)
        finally:
            load.terminate()
            load.wait()
    print(json.dumps(found))  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
