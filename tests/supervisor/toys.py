"""Starts a toy member for a test and looks at it; what it left behind is killed by pid."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from transport.control import ControlClient
from transport.counters import Board, Cell, State

PATIENCE_SECONDS = 15.0
ROOT_OF_SOURCES = Path(__file__).parents[2]


def eventually(holds: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """Wait until something holds; return how long it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.001)
    return time.monotonic() - began


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


class ToyMember:
    """A running toy member. `children` are names or fields of ChildSpec."""

    def __init__(
        self,
        *children: str | dict[str, Any],
        behaviour: dict[str, str] | None = None,
        stuck_detection: bool = True,
        zygote_within: float = 15.0,
        stderr: int | None = None,
    ) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="tr-", dir="/tmp"))
        fields = [{"name": child} if isinstance(child, str) else child for child in children]
        self.names = [child["name"] for child in fields]
        told = {
            "run_dir": str(self.run_dir),
            "children": fields,
            "behaviour": behaviour or {},
            "stuck_detection": stuck_detection,
            "zygote_within": zygote_within,
        }
        self._log = (self.run_dir / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.supervisor.toy_member", json.dumps(told)],
            stderr=self._log if stderr is None else stderr,
            cwd=ROOT_OF_SOURCES,
            env={**os.environ, "PYTHONPATH": str(ROOT_OF_SOURCES)},
        )
        self._board: Board | None = None
        self._pids: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            sys.stderr.write((self.run_dir / "log").read_text())
        self.see()
        self.process.kill()
        self.process.wait()
        for pid in self._pids:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self._log.close()
        shutil.rmtree(self.run_dir)

    @property
    def board(self) -> Board:
        """The member's board, once there is one."""
        if self._board is None:
            eventually((self.run_dir / "board").exists, "there is a board")
            self._board = Board(self.run_dir / "board")
        return self._board

    def see(self) -> None:
        """Note the pids there are now, to kill what is left at the end."""
        if (self.run_dir / "board").exists():
            self._pids |= {self.board.get(name, Cell.PID) for name in self.names} - {0}

    def pid(self, name: str) -> int:
        """Return an actor's process id, 0 if it has none."""
        self.see()
        return self.board.get(name, Cell.PID)

    def is_up(self, name: str, incarnation: int = 1) -> bool:
        """Whether this incarnation (or a later one) of an actor says it is running."""
        board = self.board
        return (
            board.get(name, Cell.INCARNATION) >= incarnation
            and board.get(name, Cell.STATE) == State.RUNNING
            and board.get(name, Cell.PID) != 0
        )

    def until_up(self, incarnation: int = 1) -> float:
        """Wait until all actors run; return the seconds."""
        return eventually(
            lambda: all(self.is_up(name, incarnation) for name in self.names), "all run"
        )

    def told(self, name: str) -> dict[str, Any]:
        """Return what an actor's living incarnation wrote down about itself."""
        found: dict[str, Any] = json.loads((self.run_dir / f"{name}.told").read_text())
        return found

    def zygote(self) -> int:
        """Return the zygote's process id."""
        answer = self.ask("tree")
        pid: int = answer["zygote"]["pid"]
        return pid

    def ask(self, cmd: str, name: str = "root") -> dict[str, Any]:
        """Ask an actor's control mailbox."""
        client = ControlClient(self.run_dir / f"{name}.ctl")
        try:
            return client.ask(cmd, timeout=PATIENCE_SECONDS)
        finally:
            client.close()

    def lines(self) -> list[dict[str, Any]]:
        """Return the log so far; every line must be whole."""
        text = (self.run_dir / "log").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def messages(self) -> list[str]:
        """Return the messages logged so far."""
        return [line["msg"] for line in self.lines()]

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Send a signal to root, wait for its end, return the seconds."""
        self.see()
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)
        return time.monotonic() - began
