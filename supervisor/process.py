"""From a fork to an actor: what a fresh child does before its `main`, and what ends it.

Rules (RULES A11): the child waits until root is its parent, ties its life to root's, and checks
again; it ignores the terminal's signals, since only root decides; it closes what is not its own.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import setproctitle

from actors.faults import InjectedFaultError
from api.http2 import RESERVED_DESCRIPTORS
from storage.files import ACTOR_VARIABLE
from supervisor.errors import StartError
from supervisor.traces import TraceFile
from transport.context import ActorContext
from transport.log import Logger

CRASH_EXIT_CODE: Final = 70
ORPHAN_EXIT_CODE: Final = 71
SWITCH_INTERVAL_SECONDS: Final = 0.0002
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_ADOPTION_SECONDS: Final = 2.0
_libc: Final = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Become the parent of every descendant whose parent ends."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def raise_descriptor_limit() -> None:
    """Take all descriptors this process and its children may have, as Go's runtime does.

    Raises StartError, with etcd's words, where that is too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard <= RESERVED_DESCRIPTORS:
        raise StartError(
            f"file descriptor limit of etcd process is too low; please set higher: {hard} "
            f"(recommended: more than {RESERVED_DESCRIPTORS})"
        )


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends; leave at once if it already has."""
    deadline = time.monotonic() + _ADOPTION_SECONDS
    while os.getppid() != parent:
        # A root that died first adopts nobody: waiting on would keep its lock from the next one.
        if not _lives(parent) or time.monotonic() > deadline:
            os._exit(ORPHAN_EXIT_CODE)
        time.sleep(0.0002)
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(ORPHAN_EXIT_CODE)


def _lives(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] not in b"ZX"


def context_of(order: Mapping[str, Any]) -> ActorContext:
    """Return the context from a start order, as root sent it."""
    return ActorContext(
        name=order["name"],
        module=order["module"],
        incarnation=order["incarnation"],
        run_dir=Path(order["run_dir"]),
        data_dir=Path(order["data_dir"]),
        member_name=order["member_name"],
        config=order["config"],
        sockets={purpose: tuple(fds) for purpose, fds in order["sockets"].items()},
        lock_fd=order["lock_fd"],
        log_fd=order["log_fd"],
        root_pid=order["root_pid"],
    )


def run_child(order: Mapping[str, Any]) -> None:
    """Be the child of an order: never returns."""
    context = context_of(order)
    die_with(context.root_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in order["close"]:
        os.close(descriptor)
    os.dup2(context.log_fd, 1)
    os.dup2(context.log_fd, 2)
    os.environ[ACTOR_VARIABLE] = context.name
    title = f"trouped: {context.name} ({context.member_name})"
    setproctitle.setproctitle(title)
    setproctitle.setthreadtitle(context.name[:15])
    if order["oom_score_adj"]:
        _yield_memory(order["oom_score_adj"])
    if order["nice"]:
        os.nice(order["nice"])
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    gc.unfreeze()
    gc.freeze()
    trace = TraceFile(context.run_dir, context.name, context.incarnation)
    code = 0
    try:
        if order.get("crash"):
            raise InjectedFaultError("told to crash at every start")
        importlib.import_module(context.module).main(context)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else CRASH_EXIT_CODE
    except BaseException as error:  # noqa: BLE001 - the last frame: told to root, then the end
        code = CRASH_EXIT_CODE
        trace.write(error)
        Logger(context.log_fd, context.name).error(
            "actor crashed",
            error=f"{type(error).__name__}: {error}",
            stack="".join(traceback.format_exception(error))[-3000:],
        )
    os._exit(code)


def _yield_memory(score: int) -> None:
    """Offer this process to the out-of-memory killer first; raising needs no privilege."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError:
        return  # a read-only /proc: the kernel's own choice then
