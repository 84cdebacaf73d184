"""Root's mailbox on real descriptors."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from supervisor.nursery import Nursery
from supervisor.root_inbox import ChildForked, LogWritten, RootInbox
from transport.mailbox import Tick

HIGH = 1100  # beyond what select() can watch
ENOUGH = HIGH + 100
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class FakeNursery:
    """A zygote that has just made one child."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def answers(self) -> list[tuple[str, int, int]]:
        os.read(self._descriptor, 1)
        return [("applier", 2, 4711)]


@contextmanager
def _high_pipe() -> Iterator[tuple[int, int]]:
    """Yield a pipe whose reading end has a number that select() refuses."""
    read, write = os.pipe2(os.O_NONBLOCK)
    high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(read)
    try:
        yield high, write
    finally:
        os.close(high)
        os.close(write)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH:
        pytest.skip("no process may have that many descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, ENOUGH), hard))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_root_goes_on_with_more_descriptors_than_select_knows() -> None:
    with _high_pipe() as (log, log_end), _high_pipe() as (zygote, zygote_end):
        inbox = RootInbox(cast(Nursery, FakeNursery(zygote)), log)
        inbox.wake_at(0.0)
        assert isinstance(inbox.get().message, Tick)
        os.write(log_end, b"a line\n")
        assert inbox.get().message == LogWritten(b"a line\n")
        os.write(zygote_end, b"\0")
        assert inbox.get().message == ChildForked("applier", 2, 4711)
