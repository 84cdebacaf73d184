"""Start and stop real servers, trouped or etcd, in fresh data directories on one file system."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import procfs
from benchmarks.unary import CallError, linearizable_range, put

QUOTA_BYTES: Final = 8 << 30
READY_TIMEOUT: Final = 60.0
STOP_TIMEOUT: Final = 20.0
_PROBE_PAUSE: Final = 0.002


class MemberError(Exception):
    """A server that did not start, or ended by itself; holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A program with etcd's flags. `label` names it in tables, `extra` are more flags."""

    label: str
    program: Path
    extra: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str) -> Server:
        """Return `trouped` or `etcd` beside this Python, else on PATH.

        Raises MemberError when there is none.
        """
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None:
            raise MemberError(f"no program {name} beside {sys.executable} or on PATH")
        return cls(name, Path(found))


@dataclass(slots=True)
class Member:
    """A server as a subprocess; its tree is its own session."""

    server: Server
    folder: Path
    client_port: int = field(default_factory=lambda: free_port())
    peer_port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """host:port of the client API."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def log(self) -> Path:
        """The server's output."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The root of the tree. Raises MemberError when it is not running."""
        if self.process is None:
            raise MemberError(f"{self.server.label} is not running")
        return self.process.pid

    def command(self) -> list[str]:
        """Return the command line: the same flags for every server."""
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{self.peer_port}"
        return [
            str(self.server.program),
            *("--name", "bench"),
            *("--data-dir", str(self.folder / "data")),
            *("--listen-client-urls", client),
            *("--advertise-client-urls", client),
            *("--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"bench={peer}"),
            *("--quota-backend-bytes", str(QUOTA_BYTES)),
            *("--log-level", "error"),
            *self.server.extra,
        ]

    def start(self, ready: Callable[[str], object] = put) -> float:
        """Start and return the seconds until `ready(endpoint)` gave an answer.

        Raises MemberError when the server ends or READY_TIMEOUT passes first.
        """
        begun = time.monotonic()
        self.spawn()
        self.wait(ready)
        return time.monotonic() - begun

    def spawn(self) -> None:
        """Start the process and return at once."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )

    def wait(self, ready: Callable[[str], object] = put) -> None:
        """Wait until `ready(endpoint)` gave an answer. Raises as `start` does."""
        begun = time.monotonic()
        while True:
            try:
                ready(self.endpoint)
            except (CallError, OSError):
                waited = time.monotonic() - begun
                code = self.process.poll() if self.process else None
                if code is not None or waited > READY_TIMEOUT:
                    self.stop()
                    raise MemberError(
                        f"{self.server.label} not ready (exit code {code})\n{self._log_end()}"
                    ) from None
                time.sleep(_PROBE_PAUSE)
            else:
                return

    def stop(self) -> None:
        """Ask it to end with SIGTERM; after STOP_TIMEOUT kill what is left of its tree."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        pids = [stat.pid for stat in procfs.tree(process.pid)]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _kill_session(pids[1:], process.pid)

    def kill(self) -> None:
        """Kill its root with SIGKILL, then what is left of its tree."""
        process, self.process = self.process, None
        if process is None:
            return
        pids = [stat.pid for stat in procfs.tree(process.pid)]
        process.kill()
        process.wait()
        _kill_session(pids[1:], process.pid)

    def cpu_seconds(self) -> float:
        """Return user and system time of the whole tree since it started."""
        return procfs.cpu_seconds(self.pid)

    def pss_bytes(self) -> int:
        """Return the proportional set size of the whole tree."""
        return procfs.pss_bytes(self.pid)

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics without labels, by name; empty when there is no page."""
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/metrics", timeout=10) as page:
                text = page.read().decode()
        except OSError:
            return {}
        return parse_metrics(text)

    def _log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def _kill_session(pids: Iterable[int], session: int) -> None:
    """Kill those of our orphans that still live: the session tells them from a reused pid."""
    for pid in pids:
        try:
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def parse_metrics(text: str) -> dict[str, float]:
    """Return the samples of Prometheus' text format that have no labels."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name and name != "#" and "{" not in name:
            samples[name] = float(number.split()[0])
    return samples


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def members(servers: Sequence[Server], parent: Path | None = None) -> Iterator[list[Member]]:
    """Give a started member of each server, all folders below one; stop and delete at the end.

    Raises MemberError when one does not start.
    """
    with tempfile.TemporaryDirectory(prefix="trouped-bench-", dir=parent) as folder:
        started: list[Member] = []
        try:
            for number, server in enumerate(servers):
                home = Path(folder) / f"{number}-{server.label}"
                home.mkdir()
                member = Member(server, home)
                started.append(member)
                member.start()
            yield started
        finally:
            for member in started:
                member.stop()


def answers_reads(endpoint: str) -> int:
    """Probe for `Member.start`: the first linearizable range is the moment of readiness."""
    return linearizable_range(endpoint, timeout=30.0)
