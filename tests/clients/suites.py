"""Runs a client's own tests against a cluster and says how each ended."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.clients.sdists import Sdist
from tests.cluster import Cluster

SUITE_SECONDS: Final = 1800.0
# What both clients' own runs (pifpaf) call the members; their tests look at the names.
NAMES: Final = ("pifpaf0", "pifpaf1", "pifpaf2")


class SuiteError(Exception):
    """A suite ended without a report."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one test ended: passed, failed, error or skipped, with the last line of why."""

    outcome: str
    why: str = ""


def prepare(cluster: Cluster) -> None:
    """Name the members of a cluster that is not started yet as the suites expect them."""
    for member, name in zip(cluster.members, NAMES, strict=True):
        member.name = name


def run(sdist: Sdist, cluster: Cluster, etcdctl: str, folder: Path) -> dict[str, Ended]:
    """Run all tests of a client against the first member. Raises SuiteError.

    The tests call `etcdctl`, and `pgrep` to find the other two members and stop them: they get
    the one we name, and one that knows these members' processes only.
    """
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (programs / "etcdctl").symlink_to(etcdctl)
    others = [str(pid) for member in cluster.members[1:] for pid in member.pids()]
    pgrep = programs / "pgrep"
    pgrep.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(others) + "\n")
    pgrep.chmod(0o755)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD", "PYTEST"))}
    report = folder / "report.xml"
    done = subprocess.run(
        [
            *(str(sdist.python), "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--junit-xml={report}", f"--rootdir={sdist.source}", *sdist.options),
        ],
        cwd=sdist.source,
        env=environ
        | {
            "PATH": f"{programs}:{environ['PATH']}",
            "TEST_ETCD_VERSION": "v3.5.1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
            sdist.endpoint: cluster.members[0].url,
        },
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
        check=False,
    )
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    if not report.exists():
        raise SuiteError(done.stdout[-3000:] + done.stderr[-3000:])
    return _read(report)


def counted(results: dict[str, Ended]) -> str:
    """Return how many tests ended how, as `70 passed, 2 failed`."""
    counts = Counter(ended.outcome for ended in results.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


def _read(report: Path) -> dict[str, Ended]:
    found: dict[str, Ended] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = next((e for kind in ("failure", "error", "skipped") for e in case.iter(kind)), None)
        if bad is None:
            found[name] = Ended("passed")
        else:
            outcome = "failed" if bad.tag == "failure" else bad.tag
            found[name] = Ended(outcome, (bad.get("message") or "").strip()[:300])
    return found
