"""CPU time and memory of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Stat:
    """What we read of /proc/<pid>/stat. `cpu_seconds` has the reaped children's in it."""

    pid: int
    parent: int
    name: str
    cpu_seconds: float


def read_stat(pid: int) -> Stat | None:
    """Return the numbers of a process, or None when it has gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(")")  # a name may hold spaces and brackets
    fields = tail.split()
    ticks = sum(int(field) for field in fields[11:15])  # utime stime cutime cstime
    name = head.partition("(")[2]
    return Stat(pid, int(fields[1]), name, ticks / os.sysconf("SC_CLK_TCK"))


def tree(root: int) -> list[Stat]:
    """Return the living processes of the tree under `root`, itself first."""
    children: dict[int, list[Stat]] = defaultdict(list)
    top = read_stat(root)
    if top is None:
        return []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            stat = read_stat(int(entry.name))
            if stat is not None:
                children[stat.parent].append(stat)
    found = [top]
    for stat in found:  # grows while it is walked: breadth first
        found += children[stat.pid]
    return found


def cpu_seconds(root: int) -> float:
    """Return user and system time of the tree, the dead that were waited for included.

    The kernel counts in ticks of 10 ms per process.
    """
    return sum(stat.cpu_seconds for stat in tree(root))


def pss_bytes(root: int) -> int:
    """Return the proportional set size of the tree: pages that are shared count by their share."""
    total = 0
    for stat in tree(root):
        try:
            text = (PROC / str(stat.pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
