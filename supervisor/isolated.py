"""One actor alone: its real process between scripted neighbours, on data of its own.

Owns a data directory (fresh, or a copy of another one) and a run directory, as a member has, so
that `troupectl state|peek|tap|fault --data-dir ...` work on it too. It is the root of the actor:
when this process ends the actor does.

A data directory of somebody else is only ever copied, and only under its lock: while a member
lives on it that is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from actors.json_form import to_json
from actors.neighbours import Heard, Neighbours
from control.fault import DISK, inject
from control.observe import BOARD_FILE, MemberView, exit_words
from storage.files import FAULT_VARIABLE
from supervisor.config import Config, parse
from supervisor.data_directory import lock_data_dir
from supervisor.errors import StartError
from supervisor.faults import DISK_FILE, RootFaults
from supervisor.listen import BoundSocket, bind_urls
from supervisor.member import served_urls, write_info
from supervisor.run_directory import remove_run_directory, run_directory
from supervisor.spec import ChildSpec
from supervisor.traces import take_trace
from supervisor.tree import children
from transport.control import ControlClient, ControlServer, ControlTimeoutError
from transport.counters import Board, Cell, State

START_SECONDS: Final = 15.0
EXPECT_SECONDS: Final = 5.0
SHOWN_MAX: Final = 20
ANYWHERE: Final = "http://127.0.0.1:0"
SOCKET_FILES: Final = ("lock", "run")
"""What belongs to the process that uses a data directory, not to the data."""


class IsolatedActorError(Exception):
    """The actor did not start, or ended when it should not."""


class ExpectationError(AssertionError):
    """The actor has not sent what was expected; the text tells what it sent instead."""


class IsolatedActor:
    """The actor `name` (such as "applier" or "gateway-0") alone. A context manager.

    `folder` gets `data` (the data directory) and `log`. `source` is a data directory to copy.
    `flags` are trouped's, as a member would be given them. `have` and `info` are what neighbours
    say of themselves (actors.neighbours). One thread uses it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        source: Path | None = None,
        flags: Sequence[str] = (),
        have: Mapping[str, int] | None = None,
        info: Mapping[str, list[int]] | None = None,
    ) -> None:
        self.name = name
        self.data_dir = folder / "data"
        self.log_path = folder / "log"
        self.heard: list[Heard] = []
        """What it has sent and nobody has expected or taken yet, in order."""
        self.process: subprocess.Popen[bytes] | None = None
        self.incarnation = 0
        self._answers: dict[type[Any], Callable[[Any], object]] = {}
        self._config = self._configured(flags)
        self._spec = self._spec_of(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if source is not None:
            copy_data_dir(source, self.data_dir)
        self._lock_fd = lock_data_dir(self.data_dir)
        try:
            self.run_dir = run_directory(self._config, os.environ)
        except StartError:
            os.close(self._lock_fd)
            raise
        self._bound = self._listen()
        specs = self._children()
        names = ["root", *(spec.name for spec in specs)]
        self.board = Board(self.run_dir / BOARD_FILE, create=names)
        self._describe(specs)
        self.neighbours = Neighbours(self.run_dir, self.board, name, have=have, info=info)
        self._log = self.log_path.open("ab")
        self._faults = RootFaults(self.run_dir, self._pid_of, enabled=True)
        ControlServer(self.run_dir / "root.ctl", {"fault": self._faults.order}).start()
        self._rooms = MemberView(self.run_dir)

    # --- what it stands on ------------------------------------------------------------------------

    def _configured(self, flags: Sequence[str]) -> Config:
        usual = [
            "--name=isolated",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={ANYWHERE}",
            f"--advertise-client-urls={ANYWHERE}",
            f"--listen-peer-urls={ANYWHERE}",
            f"--initial-advertise-peer-urls={ANYWHERE}",
            "--gateways=1",
            "--enable-faults",
        ]
        given = {flag.partition("=")[0] for flag in flags}
        kept = [flag for flag in usual if flag.partition("=")[0] not in given]
        return parse([*kept, *flags], {})

    def _children(self) -> tuple[ChildSpec, ...]:
        return children(self._config.gateways, self._config.standby_gateways)

    def _spec_of(self, name: str) -> ChildSpec:
        specs = {spec.name: spec for spec in self._children()}
        if name not in specs:
            raise IsolatedActorError(f"no actor {name!r}; there are {', '.join(specs)}")
        return specs[name]

    def _listen(self) -> dict[str, list[BoundSocket]]:
        urls = {
            "client": self._config.listen_client_urls,
            "peer": self._config.listen_peer_urls,
        }
        bound = {
            purpose: bind_urls(urls[purpose]) for purpose in urls if purpose in self._spec.listens
        }
        for entries in bound.values():
            for entry in entries:
                entry.socket.set_inheritable(True)
        return bound

    def _describe(self, specs: Iterable[ChildSpec]) -> None:
        served = {
            purpose: [url for entry in entries for url in served_urls(entry)]
            for purpose, entries in self._bound.items()
        }
        write_info(
            self.run_dir,
            specs,
            name=self._config.name,
            data_dir=self.data_dir.absolute(),
            urls={"client": [], **served},
        )
        self.board.set("root", Cell.PID, os.getpid())
        self.board.set("root", Cell.INCARNATION, 1)
        self.board.set("root", Cell.STATE, State.RUNNING)

    @property
    def endpoint(self) -> str:
        """host:port of a gateway's client socket, or of the transport's peer socket."""
        for entries in self._bound.values():
            return entries[0].address
        raise IsolatedActorError(f"{self.name} listens nowhere")

    # --- its life ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Start the (next) incarnation, and wait until it and its neighbours know each other.

        Raises IsolatedActorError if it ends instead.
        """
        self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self.neighbours.introduced:
            self.hear(0.05)
            if not self.alive:
                raise IsolatedActorError(f"{self.name} ended: {self.exit_words()}\n{self.log()}")
            if time.monotonic() > deadline:
                raise IsolatedActorError(f"{self.name} is not up after {START_SECONDS:g} s")
        return self

    def spawn(self) -> None:
        """Start the (next) incarnation and return at once."""
        if self.process is not None:
            self.kill()
        self.incarnation += 1
        for cell, value in (
            (Cell.INCARNATION, self.incarnation),
            (Cell.STATE, State.STARTING),
            (Cell.STARTED_NS, time.clock_gettime_ns(time.CLOCK_BOOTTIME)),
            (Cell.TAG, 0),
        ):
            self.board.set(self.name, cell, value)
        self.neighbours.begin()
        sockets = {
            purpose: [entry.socket.fileno() for entry in entries]
            for purpose, entries in self._bound.items()
        }
        descriptors = [fd for fds in sockets.values() for fd in fds]
        order = {
            "name": self.name,
            "module": self._spec.module,
            "incarnation": self.incarnation,
            "run_dir": str(self.run_dir),
            "data_dir": str(self.data_dir.absolute()),
            "member_name": self._config.name,
            "config": self._config.to_dict(),
            "sockets": sockets,
            "lock_fd": self._lock_fd if self._spec.keeps_lock else -1,
            "log_fd": self._log.fileno(),
            "root_pid": os.getpid(),
            "close": [],
            "oom_score_adj": 0,
            "nice": 0,
            "crash": self._faults.crashes_at_start(self.name),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.isolated_child", json.dumps(order)],
            pass_fds=(self._log.fileno(), self._lock_fd, *descriptors),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, FAULT_VARIABLE: str(self.run_dir / DISK_FILE)},
        )
        self.board.set(self.name, Cell.PID, self.process.pid)

    @property
    def alive(self) -> bool:
        """Whether its process runs (or is stopped by a signal)."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def wait_exit(self, timeout: float = EXPECT_SECONDS) -> str:
        """Wait until it has ended by itself; return how. Raises ExpectationError."""
        deadline = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > deadline:
                raise ExpectationError(f"{self.name} still runs after {timeout:g} s")
            self.hear(0.02)
        return self.exit_words()

    def exit_words(self) -> str:
        """Say how it ended: "exit code 70" (a crash), "signal 9"; "" while it runs."""
        code = self.process.poll() if self.process is not None else None
        if code is None:
            return ""
        return exit_words(-code if code < 0 else code << 8)

    def trace(self) -> str:
        """Return the last words of an incarnation that crashed, "" if there are none."""
        return take_trace(self.run_dir, self.name, self.incarnation)

    def close(self) -> None:
        """Kill it and remove the run directory; its data and log stay."""
        self.kill()
        self.neighbours.close()
        for entries in self._bound.values():
            for entry in entries:
                entry.socket.close()
        self._log.close()
        remove_run_directory(self.run_dir)
        os.close(self._lock_fd)

    def _pid_of(self, name: str) -> int:
        if name != self.name:
            raise KeyError(name)
        return self.process.pid if self.process is not None and self.alive else 0

    # --- talking to it ----------------------------------------------------------------------------

    def send(
        self, sender: str, message: object, items: int = 1, timeout: float = EXPECT_SECONDS
    ) -> None:
        """Send it a message from a neighbour; waits until it listens to that one.

        Raises ExpectationError if it does not, or if its mailbox is full.
        """
        deadline = time.monotonic() + timeout
        while not self.neighbours.is_open(sender):
            self.hear(0.01)
            if not self.alive or time.monotonic() > deadline:
                state = self.exit_words() or "it runs"
                raise ExpectationError(f"{self.name} does not listen to {sender} ({state})")
        if not self.neighbours.send(sender, message, items):
            raise ExpectationError(f"the mailbox of {self.name} is full")

    def answers(self, message_type: type[Any], answer: Callable[[Any], object]) -> None:
        """Have a neighbour answer every message of a type from now on.

        `answer` gets the message and returns the answer, or None for none.
        """
        self._answers[message_type] = answer

    def hear(self, seconds: float = 0.0, descriptors: Iterable[int] = ()) -> list[Heard]:
        """Take part for up to `seconds`, or until it says something; return what is new."""
        new = self.neighbours.hear(seconds, descriptors)
        self.heard += new
        for one in new:
            answer = self._answers.get(type(one.message))
            reply = answer(one.message) if answer is not None else None
            if reply is not None:
                self.neighbours.send(one.to, reply)
        return new

    def expect(
        self,
        message_type: type[Any],
        *,
        to: str | None = None,
        timeout: float = EXPECT_SECONDS,
        **fields: Any,
    ) -> Any:
        """Wait for a message of this type whose fields match; return it.

        A field matches what is equal, or what a function given for it says is right. The message
        is taken out of `heard`; those before it stay. Raises ExpectationError.
        """
        deadline = time.monotonic() + timeout
        looked = 0
        while True:
            for place in range(looked, len(self.heard)):
                one = self.heard[place]
                if (to is None or one.to == to) and _matches(one.message, message_type, fields):
                    del self.heard[place]
                    return one.message
            looked = len(self.heard)
            left = deadline - time.monotonic()
            if left <= 0 or not self.alive:
                if not self.hear(0.0):
                    raise ExpectationError(self._unmet(message_type, to, timeout, fields))
            else:
                self.hear(min(left, 0.1))

    def expect_no(
        self, message_type: type[Any], *, within: float, to: str | None = None, **fields: Any
    ) -> None:
        """Raise ExpectationError if it sends such a message within so many seconds."""
        try:
            found = self.expect(message_type, to=to, timeout=within, **fields)
        except ExpectationError:
            return
        raise ExpectationError(f"{self.name} has sent {found!r}")

    def _unmet(
        self, message_type: type[Any], to: str | None, timeout: float, fields: dict[str, Any]
    ) -> str:
        wanted = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        lines = [f"{message_type.__name__}({wanted}) to {to or 'anybody'}: not in {timeout:g} s"]
        if not self.alive:
            lines.append(f"{self.name} has ended: {self.exit_words()}\n{self.log()}")
        shown = self.heard[-SHOWN_MAX:]
        lines.append("it has sent:" if shown else "it has sent nothing else")
        lines += [f"  to {one.to}: {json.dumps(to_json(one.message))[:300]}" for one in shown]
        return "\n".join(lines)

    # --- looking at it, breaking it ---------------------------------------------------------------

    def ask(self, command: str, timeout: float = 2.0, **arguments: Any) -> dict[str, Any]:
        """Ask its control mailbox, such as `stats` or `peek`. Raises ControlTimeoutError."""
        client = ControlClient(self.run_dir / f"{self.name}.ctl")
        try:
            return client.ask(command, timeout, **arguments)
        finally:
            client.close()

    def state(self) -> dict[str, Any]:
        """Return its own summary; empty if it does not answer."""
        try:
            return self.ask("stats")
        except ControlTimeoutError:
            return {}

    def fault(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Break it as `troupectl fault VERB` does; `to` is the other end of an edge.

        Raises ObserveError if that is refused.
        """
        if verb == "heal":  # of this actor and the disk; there is nobody else
            return {"root": self._faults.order({"verb": verb}), self.name: self._healed()}
        to = arguments.pop("to", None)
        target = self.name if to is None else f"{self.name}:{to}"
        if verb in DISK:  # there is nobody else
            target = ""
        return inject(self._rooms, verb, target, **arguments)

    def _healed(self) -> dict[str, Any]:
        return self.ask("fault", verb="heal") if self.alive else {}

    def set_metric(self, name: str, word: int, value: int) -> None:
        """Write a metric word of a neighbour on the board: actors read each other's."""
        self.neighbours.player(name)
        self.board.set(name, Cell.METRICS + word, value)

    def metric(self, word: int) -> int:
        """Return one of its own metric words."""
        return self.board.get(self.name, Cell.METRICS + word)

    def log(self, lines: int = 20) -> str:
        """Return the end of its log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def _matches(message: Any, message_type: type[Any], fields: Mapping[str, Any]) -> bool:
    if type(message) is not message_type:
        return False
    return all(
        wanted(getattr(message, name)) if callable(wanted) else getattr(message, name) == wanted
        for name, wanted in fields.items()
    )


def copy_data_dir(source: Path, target: Path) -> None:
    """Copy a data directory that nobody uses. Raises StartError if a member has its lock."""
    if not (source / "member").is_dir():
        raise StartError(f'no data directory "{source}": it has no member folder')
    descriptor = lock_data_dir(source)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns(*SOCKET_FILES)
        shutil.copytree(source / "member", target / "member", ignore=ignored, dirs_exist_ok=True)
    finally:
        os.close(descriptor)
