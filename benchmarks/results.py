"""Results as JSON under docs/benchmarks/, a file for each section, with machine and date."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.generator import ROOT
from benchmarks.members import Server

FOLDER: Final = ROOT / "docs" / "benchmarks"
SECTIONS: Final = ("bench", "cluster", "scale", "compaction", "watch", "leases")


def facts(*servers: Server) -> dict[str, Any]:
    """Return where and when: processor, cores, memory, kernel, Python, date, commit, versions."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {server.label: version(server) for server in servers},
    }


def commit() -> str:
    """Return the commit's short id, a plus when the tree differs; "unknown" without git."""
    try:
        head = _output(["git", "rev-parse", "--short", "HEAD"])
        changed = _output(["git", "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def version(server: Server) -> str:
    """Return the first line of `--version`, or "unknown"."""
    try:
        return _output([str(server.program), "--version"]).splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def save(section: str, result: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Write the result of a section."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{section}.json").write_text(json.dumps(result, indent=1) + "\n")


def load_sections(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return the results that exist, by section."""
    found = {}
    for section in SECTIONS:
        path = folder / f"{section}.json"
        if path.exists():
            found[section] = json.loads(path.read_text())
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return done.stdout.strip()
