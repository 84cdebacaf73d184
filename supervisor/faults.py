"""Faults only root can inject: signals to its children, and a disk that is slow, fails or is full.

On members started with --enable-faults. Runs on root's control thread and on timers; signals go
through a pidfd, so a process that has been reaped meanwhile is never mistaken for another.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from actors.faults import FOR_SECONDS_MAX, REFUSED, BadFaultError, number_of, seconds_of

DISK_FILE: Final = "disk-faults"
"""Name, in the run directory, of the control file of storage.faults."""
SYNCING: Final = ("raft-node", "applier", "snapshotter")
"""Who syncs a file: the log, the database's log when it begins anew, the database's checkpoints."""


class RootFaults:
    """The faults of one member. `pid_of` tells a child's process id, 0 if it has none."""

    def __init__(self, run_dir: Path, pid_of: Callable[[str], int], *, enabled: bool) -> None:
        self._disk = run_dir / DISK_FILE
        self._pid_of = pid_of
        self._enabled = enabled
        self._disk_number = 0
        self._crashing: dict[str, float] = {}
        self._frozen: dict[str, tuple[int, threading.Timer]] = {}
        self._lock = threading.Lock()
        """Of `_frozen`: a timer thaws too."""

    def order(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `fault`: {verb, actor, for, ms, at_start} -> {pid} or {for}.

        Of the orders for the disk those for syncs may name an actor.
        """
        if not self._enabled:
            return {"error": REFUSED}
        try:
            return self._carry_out(request.get("verb"), request, seconds_of(request))
        except BadFaultError as error:
            return {"error": str(error)}

    def _carry_out(self, verb: Any, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if verb in ("kill", "freeze", "resume"):
            return self._signal(str(verb), str(request.get("actor")), seconds)
        if verb == "crash" and request.get("at_start"):
            return self._crash_at_start(str(request.get("actor")), seconds)
        if verb == "heal":
            self._crashing.clear()
            for actor in tuple(self._frozen):
                self._thaw(actor)
        orders: dict[Any, dict[str, Any]] = {
            "fsync-slow": {
                "sync_seconds": number_of(request, "ms", 100.0, FOR_SECONDS_MAX * 1000) / 1000
            },
            "fsync-fail": {"sync_errno": errno.EIO},
            "disk-full": {"growth_errno": errno.ENOSPC},
            "heal": {},
        }
        if verb not in orders:
            return {"error": f"no such fault: {verb!r}"}
        actor = "" if verb == "heal" else request.get("actor") or ""
        return self._break_disk(orders[verb] | self._only(str(verb), str(actor)), seconds)

    def _only(self, verb: str, actor: str) -> dict[str, Any]:
        """Return what restricts an order for the disk to one actor. Raises BadFaultError."""
        if not actor:
            return {}
        if verb == "disk-full":
            raise BadFaultError("a disk is full for the whole member")
        try:
            self._pid_of(actor)
        except KeyError:
            raise BadFaultError(f"no actor {actor!r}") from None
        if actor not in SYNCING:
            raise BadFaultError(f"{verb} does not apply to {actor}: it syncs no file")
        return {"actor": actor}

    def crashes_at_start(self, actor: str) -> bool:
        """Whether this actor was told to crash at every start; any thread may ask."""
        return time.monotonic() < self._crashing.get(actor, 0.0)

    def _crash_at_start(self, actor: str, seconds: float) -> dict[str, Any]:
        """End the incarnation that lives, and have its successors crash as they start."""
        try:
            self._pid_of(actor)
        except KeyError:
            return {"error": f"no actor {actor!r}"}
        self._crashing[actor] = time.monotonic() + seconds
        self._signal("kill", actor, seconds)  # one that does not run is about to start
        return {"for": seconds}

    def _signal(self, verb: str, actor: str, seconds: float) -> dict[str, Any]:
        try:
            pid = self._pid_of(actor)
        except KeyError:
            return {"error": f"no actor {actor!r}"}
        try:
            descriptor = os.pidfd_open(pid) if pid else -1
        except ProcessLookupError:
            descriptor = -1
        if descriptor < 0 or self._pid_of(actor) != pid:
            return {"error": f"{actor} does not run"}
        if verb != "kill":
            self._thaw(actor)  # what was ordered before is over
        if verb == "freeze":
            _send(descriptor, signal.SIGSTOP)
            self._thaw_later(actor, descriptor, seconds)
            return {"pid": pid, "for": seconds}
        _send(descriptor, signal.SIGKILL if verb == "kill" else signal.SIGCONT)
        os.close(descriptor)
        return {"pid": pid}

    def _thaw_later(self, actor: str, descriptor: int, seconds: float) -> None:
        timer = threading.Timer(seconds, self._thaw, (actor, descriptor))
        timer.daemon = True
        with self._lock:
            self._frozen[actor] = descriptor, timer
        timer.start()

    def _thaw(self, actor: str, only: int | None = None) -> None:
        """Continue a frozen process; with `only`, if that is still its order's descriptor."""
        with self._lock:
            frozen = self._frozen.get(actor)
            if frozen is None or only not in (None, frozen[0]):
                return
            del self._frozen[actor]
            descriptor, timer = frozen
            timer.cancel()
            _send(descriptor, signal.SIGCONT)
            os.close(descriptor)

    def _break_disk(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        partial = self._disk.with_suffix(".new")
        partial.write_text(json.dumps(order))
        partial.rename(self._disk)
        self._disk_number += 1
        timer = threading.Timer(seconds, self._heal_disk, (self._disk_number,))
        timer.daemon = True
        timer.start()
        return {"for": seconds}

    def _heal_disk(self, number: int) -> None:
        if number == self._disk_number:
            self._disk.unlink(missing_ok=True)


def _send(descriptor: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)
