"""Root's end of the zygote: what is ordered is started, once, whatever becomes of zygotes."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.nursery import Nursery
from tests.supervisor.toys import ToyMember, eventually

CGROUPS: Final = Path("/sys/fs/cgroup")


def test_without_a_process_for_a_zygote_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused, told = subprocess.Popen, [3], list[OSError]()

    def popen(*arguments: Any, **options: Any) -> Any:
        if refused[0]:
            refused[0] -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*arguments, **options)

    zygotes = Nursery(member_name="m", modules=(), descriptors=(), failed=told.append)
    first, descriptors = zygotes.pid, len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(subprocess, "Popen", popen)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)

    assert zygotes.answers() == []
    assert (zygotes.pid, zygotes.fileno()) == (0, -1)
    zygotes.order({"name": "applier"})
    zygotes.retry()
    assert zygotes.awaits_answers
    assert [error.errno for error in told] == [errno.EAGAIN]
    assert len(os.listdir("/proc/self/fd")) < descriptors

    zygotes.retry()
    assert zygotes.pid not in (0, first)
    assert zygotes.restarts == 1
    os.kill(zygotes.pid, signal.SIGKILL)
    os.waitpid(zygotes.pid, 0)


def test_an_answer_is_not_lost_when_its_zygote_ends_with_orders_unread() -> None:
    """The kernel tells of the unread order first, and of the answer after that: it was forked."""
    zygotes = Nursery(member_name="m", modules=(), descriptors=(), failed=lambda _: None)
    first = zygotes.pid
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    zygotes._channel, real = ours, zygotes._channel
    assert real is not None
    for name in ("applier", "lessor"):
        zygotes.order({"name": name})
    theirs.recv(1 << 16)
    theirs.send(json.dumps({"name": "applier", "incarnation": 3, "pid": 77}).encode())
    theirs.close()  # the order for the lessor is in it

    found = zygotes.answers()

    assert found == [("applier", 3, 77)]
    assert list(zygotes._outstanding) == ["lessor"]
    real.close()
    for pid in {first, zygotes.pid}:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of processes, without a limit yet."""
    folder = CGROUPS / "pids" if (CGROUPS / "pids").exists() else CGROUPS
    made = folder / f"trouped-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        if not (made / "pids.max").exists():
            pytest.skip("control groups here do not count processes")
        yield made
        eventually(lambda: not (made / "cgroup.procs").read_text(), "nobody is left in the group")
    finally:
        made.rmdir()


def test_a_member_without_a_process_left_serves_on_and_is_mended_when_there_is_one(
    group: Path,
) -> None:
    with ToyMember("applier", "lessor") as member:
        member.until_up()
        lessor = member.pid("lessor")
        for pid in (member.process.pid, member.zygote(), member.pid("applier"), lessor):
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")

        os.kill(member.zygote(), signal.SIGKILL)
        os.kill(member.pid("applier"), signal.SIGKILL)
        eventually(
            lambda: "no process for a zygote, trying again" in member.messages(), "root says so"
        )
        assert member.process.poll() is None
        assert member.pid("lessor") == lessor
        (group / "pids.max").write_text("max")

        eventually(lambda: member.is_up("applier", 2), "it runs again")
        assert member.pid("lessor") == lessor
