"""Runs etcdctl, and the same command on two members at once to compare what it prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.member import Member, distro_binary

DEBIAN: Final = "/usr/bin/etcdctl"  # Debian's etcd-client: 3.4
# What identifies a cluster rather than its contents, in json and in fields.
_IDENTITY: Final = (
    (re.compile(r'("(?:cluster_id|member_id|raft_term)":)\d+'), r"\1X"),
    (re.compile(r'("(?:ClusterID|MemberID|RaftTerm)" : )\d+'), r"\1X"),
)


def binaries() -> dict[str, str | None]:
    """Return version -> program of the etcdctls to test with, None for an absent one."""
    other = DEBIAN if Path(DEBIAN).exists() else shutil.which("etcdctl")
    if other is not None and version_of(other) != "3.4":
        other = None
    return {"3.5": distro_binary("etcdctl"), "3.4": other}


def version_of(binary: str) -> str:
    """Return the minor version an etcdctl calls its own."""
    output = subprocess.run([binary, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"etcdctl version: (\d+\.\d+)", output)
    return found[1] if found else ""


@dataclass(frozen=True)
class Printed:
    """What a command left: its exit status, what it printed and its `Error:` lines."""

    status: int
    out: str
    errors: tuple[str, ...]
    err: str = field(compare=False)


class Etcdctl:
    """One etcdctl for one member, by its endpoint or by another name for it."""

    def __init__(self, binary: str, member: Member, endpoint: str = "") -> None:
        self.binary = binary
        self.member = member
        self.endpoint = endpoint or member.endpoint

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command, its three streams piped."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        return subprocess.Popen(
            [self.binary, f"--endpoints={self.endpoint}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf8",
            errors="surrogateescape",
            env=environ | {"ETCDCTL_API": "3"},
        )

    def end(self, process: subprocess.Popen[str], stdin: str = "", timeout: float = 30) -> Printed:
        """Wait for a command; endpoints and the cluster's identity are blotted out."""
        try:
            out, err = process.communicate(stdin, timeout)
        finally:
            process.kill()
        out, err = (text.replace(self.endpoint, "ENDPOINT") for text in (out, err))
        for pattern, replacement in _IDENTITY:
            out = pattern.sub(replacement, out)
        errors = [line for line in err.splitlines() if line.startswith("Error:")]
        return Printed(process.returncode, out, tuple(errors), err)

    def run(self, *arguments: str, stdin: str = "", timeout: float = 30) -> Printed:
        """Run a command to its end."""
        return self.end(self.begin(*arguments), stdin, timeout)


class Both:
    """The same etcdctl for trouped and for etcd: what they print must be the same."""

    def __init__(self, binary: str, member: Member, reference: Member) -> None:
        self.member = Etcdctl(binary, member)
        self.reference = Etcdctl(binary, reference)

    def __call__(self, *arguments: str, stdin: str = "", status: int = 0) -> Printed:
        """Run a command on both, compare and return what it printed."""
        processes = self.member.begin(*arguments), self.reference.begin(*arguments)
        printed = self.member.end(processes[0], stdin)
        expected = self.reference.end(processes[1], stdin)
        assert printed == expected, (
            f"etcdctl {' '.join(arguments)}\n{printed.out}{printed.err}\n"
            f"--- etcd\n{expected.out}{expected.err}"
        )
        assert printed.status == status, printed
        return printed
