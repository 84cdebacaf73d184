"""How many puts share one fdatasync: by the server's own counters, and by strace.

strace slows every system call of what it traces, so its run is short and nothing else is measured
in it; counting is all it is good for. It also sees the syncs that are not the log's (checkpoints,
snapshots), so it names the process that made each.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from benchmarks import procfs
from benchmarks.generator import Options, load
from benchmarks.members import Member

# The first name a server exports counts. etcd's proposals are puts; trouped's are batches of them.
REQUESTS: Final = ("trouped_requests_total", "etcd_server_proposals_committed_total")
SYNCS: Final = ("etcd_disk_wal_fsync_duration_seconds_count", "trouped_wal_fsyncs_total")
_CALL: Final = re.compile(r"^(\d+) +(?:fdatasync|fsync)\(")
_ATTACH_SECONDS: Final = 1.0


def puts_per_sync(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Return requests / log syncs between two scrapes; None when the server does not say."""
    requests = _growth(REQUESTS, before, after)
    syncs = _growth(SYNCS, before, after)
    return requests / syncs if requests and syncs else None


def _growth(
    names: Iterable[str], before: Mapping[str, float], after: Mapping[str, float]
) -> float | None:
    for name in names:
        if name in before and name in after:
            return after[name] - before[name]
    return None


def count_calls(trace: str, names: Mapping[int, str]) -> dict[str, int]:
    """Return syncs by process name of `strace -f -o` output; `names` maps thread ids."""
    counts: Counter[str] = Counter()
    for line in trace.splitlines():
        found = _CALL.match(line)
        if found:
            counts[names.get(int(found[1]), "other")] += 1
    return dict(counts)


def traced(member: Member, folder: Path, puts: int, in_flight: int) -> dict[str, object] | None:
    """Run so many puts under strace; None without strace or without the right to trace.

    Returns `puts` and `syncs` by process name.
    """
    if shutil.which("strace") is None:
        return None
    output = folder / "strace"
    names = {
        int(task.name): stat.name
        for stat in procfs.tree(member.pid)
        for task in (procfs.PROC / str(stat.pid) / "task").iterdir()
    }
    pids = [str(stat.pid) for stat in procfs.tree(member.pid)]
    command = ["strace", "-f", "-q", "-e", "trace=fdatasync,fsync", "-o", str(output)]
    for pid in pids:
        command += ["-p", pid]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(_ATTACH_SECONDS)
        if tracer.poll() is not None:
            return None
        result = load(member.endpoint, Options(op="put", in_flight=in_flight, count=puts))
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)  # detaches; the server goes on
        tracer.wait()
    return {"puts": result.ops, "syncs": count_calls(output.read_text(), names)}
