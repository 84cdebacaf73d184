"""Root's mailbox: signals, children's log lines, pids from the zygote and time, as messages."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections import deque
from typing import Any, Final

from pykka._envelope import Envelope

from raft.message import message
from supervisor.nursery import Nursery
from transport.mailbox import Tick

LOG_BYTES: Final = 1 << 18
TICK_SECONDS: Final = 0.1


@message
class ChildExited:
    """A process was reaped; `status` is waitpid's."""

    pid: int
    status: int


@message
class ChildForked:
    """The zygote has made a child."""

    name: str
    incarnation: int
    pid: int


@message
class LogWritten:
    """Bytes from the children's log pipe."""

    data: bytes


@message
class StopRequested:
    """SIGTERM or SIGINT."""

    number: int


class RootInbox:
    """Implements pykka's ActorInbox for root. Root's own thread polls everything."""

    def __init__(self, nursery: Nursery, log_fd: int) -> None:
        self._nursery = nursery
        self._log_fd = log_fd
        self._messages: deque[Any] = deque()
        self._local: deque[Envelope[Any]] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._next_tick = 0.0
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def put(self, envelope: Envelope[Any], /) -> None:
        """Queue a local message; any thread may."""
        self._local.append(envelope)
        os.write(self._wake_write, b"\0")

    def empty(self) -> bool:
        """Tell whether local messages are left."""
        return not self._local

    def wake_at(self, when: float) -> None:
        """Hand out the next Tick at `when` (CLOCK_MONOTONIC) if that is sooner than planned."""
        self._next_tick = min(self._next_tick, when)

    def get(self) -> Envelope[Any]:
        """Return the next message."""
        while True:
            if self._local:
                return self._local.popleft()
            if self._messages:
                return Envelope(self._messages.popleft())
            now = time.monotonic()
            if now >= self._next_tick:
                self._next_tick = now + TICK_SECONDS
                return Envelope(Tick(now))
            self._wait(self._next_tick - now)

    def _wait(self, seconds: float) -> None:
        poll, zygote = select.poll(), self._nursery.fileno()
        for descriptor in (self._wake_read, self._log_fd, zygote):
            if descriptor >= 0:  # there may be no zygote just now
                poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(math.ceil(seconds * 1000))}
        if self._log_fd in ready:
            self._messages.append(LogWritten(os.read(self._log_fd, LOG_BYTES)))
        if zygote in ready:
            self._messages += [ChildForked(*answer) for answer in self._nursery.answers()]
        if self._wake_read in ready:
            for number in os.read(self._wake_read, 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._messages.append(StopRequested(number))
            self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._messages.append(ChildExited(pid, status))
