"""Breaking a running member from a test: what `troupectl fault` does, as methods.

Every fault ends by itself after `seconds`. What makes no sense, and a member that was started
without --enable-faults, raises control.observe.ObserveError.
"""

from __future__ import annotations

import time
from typing import Any, Final

from control.fault import inject
from control.observe import MemberView
from transport.counters import Cell

SECONDS: Final = 10.0
STORM_SECONDS: Final = 60.0
AGAIN_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.005


class Faults:
    """The faults of one member. Actors are named as in `troupectl tree`."""

    def __init__(self, view: MemberView) -> None:
        self._view = view

    # --- actors -----------------------------------------------------------------------------------

    def kill(self, actor: str) -> None:
        """SIGKILL it; the supervisor starts the next incarnation."""
        self._inject("kill", actor)

    def crash(self, actor: str) -> None:
        """Raise an exception in it."""
        self._inject("crash", actor)

    def crash_at_start(self, actor: str, seconds: float = STORM_SECONDS) -> None:
        """Kill it, and have each successor raise as it starts: the supervisor gives up on it."""
        self._inject("crash", actor, seconds, at_start=True)

    def freeze(self, actor: str, seconds: float = SECONDS) -> None:
        """SIGSTOP it; the supervisor may take it for stuck and replace it."""
        self._inject("freeze", actor, seconds)

    def suspend(self, actor: str, seconds: float = SECONDS) -> None:
        """Have it handle nothing, and say so: the supervisor lets it be."""
        self._inject("suspend", actor, seconds)

    def hang(self, actor: str, seconds: float = SECONDS, *, message: str = "") -> None:
        """Have it loop in a handler, or in that of the next such message; it is found stuck."""
        self._inject("hang", actor, seconds, type=message)

    def resume(self, actor: str) -> None:
        """End a freeze, a suspension, a hang or a flood."""
        self._inject("resume", actor)

    def slow(self, actor: str, ms: float, seconds: float = SECONDS) -> None:
        """Have it wait so long before every message."""
        self._inject("slow", actor, seconds, ms=ms)

    def slow_p99(self, actor: str, ms: float, seconds: float = SECONDS) -> None:
        """Have one message of 50 take so long in its handler: the p99 of its work."""
        self._inject("slow", actor, seconds, p99_ms=ms)

    def hog(self, actor: str, size: int, seconds: float = SECONDS) -> None:
        """Have it take and touch so many bytes of memory."""
        self._inject("hog", actor, seconds, bytes=size)

    # --- edges: from one actor to another, or all that it sends; all messages, or those of a name,
    # --- or a share of them -----------------------------------------------------------------------

    def drop(
        self,
        sender: str,
        to: str = "",
        *,
        message: str = "",
        ratio: float = 1.0,
        seconds: float = SECONDS,
    ) -> None:
        """Lose messages of an edge."""
        self._inject("drop", f"{sender}:{to}", seconds, type=message, ratio=ratio)

    def duplicate(
        self,
        sender: str,
        to: str = "",
        *,
        message: str = "",
        ratio: float = 1.0,
        seconds: float = SECONDS,
    ) -> None:
        """Send messages of an edge twice."""
        self._inject("duplicate", f"{sender}:{to}", seconds, type=message, ratio=ratio)

    def delay(
        self,
        sender: str,
        to: str = "",
        *,
        ms: float = 100.0,
        message: str = "",
        ratio: float = 1.0,
        seconds: float = SECONDS,
    ) -> None:
        """Hold messages of an edge back."""
        self._inject("delay", f"{sender}:{to}", seconds, ms=ms, type=message, ratio=ratio)

    def reorder(
        self,
        sender: str,
        to: str = "",
        *,
        message: str = "",
        ratio: float = 1.0,
        seconds: float = SECONDS,
    ) -> None:
        """Let messages of an edge overtake each other."""
        self._inject("reorder", f"{sender}:{to}", seconds, type=message, ratio=ratio)

    def flood(self, sender: str, to: str, count: int = 1000) -> None:
        """Send so many messages that mean nothing."""
        self._inject("flood", f"{sender}:{to}", count=count)

    # --- disk and peers ---------------------------------------------------------------------------

    def fsync_slow(self, ms: float, seconds: float = SECONDS, *, actor: str = "") -> None:
        """Make every sync, or those of one actor, take so much longer."""
        self._inject("fsync-slow", actor, seconds, ms=ms)

    def fsync_fail(self, seconds: float = SECONDS, *, actor: str = "") -> None:
        """Fail every sync, or those of one actor, with EIO: the member ends with exit code 74.

        The raft node syncs in every batch, the snapshotter at a checkpoint, the applier when the
        database's log begins anew; no other actor does, and to name it is refused.
        """
        self._inject("fsync-fail", actor, seconds)

    def disk_full(self, seconds: float = SECONDS) -> None:
        """Let no file of the log or the database grow: ENOSPC. What is allocated can be written."""
        self._inject("disk-full", "", seconds)

    def cut(self, peer: str = "", seconds: float = SECONDS) -> None:
        """Lose all that goes to and comes from a peer, or every peer."""
        self._inject("cut", peer, seconds)

    def heal(self) -> None:
        """End every fault: also cuts, freezes and hangs.

        An actor that does not answer is passed over; it is dead, or about to be replaced.
        """
        self._inject("heal", "")

    # --- looking ----------------------------------------------------------------------------------

    def incarnation(self, actor: str) -> int:
        """Return which incarnation of an actor lives; it grows with every restart."""
        return self._view.board.get(actor, Cell.INCARNATION)

    def wait_restarted(self, actor: str, after: int, timeout: float = AGAIN_SECONDS) -> float:
        """Wait until a later incarnation than `after` runs; return the seconds it took.

        Raises TimeoutError.
        """
        began = time.monotonic()
        while True:
            sample = self._view.sample(actor)
            if sample.incarnation > after and sample.state == "running":
                return time.monotonic() - began
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"{actor}: no incarnation after {after} in {timeout:g} s")
            time.sleep(POLL_SECONDS)

    def _inject(
        self, verb: str, target: str, seconds: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        return inject(self._view, verb, target, **{"for": seconds}, **arguments)
