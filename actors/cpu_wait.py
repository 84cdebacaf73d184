"""How long this thread waits for a CPU: what Linux tells of the run queue, by /proc/.../schedstat.

On a machine with CPUs to spare it is next to nothing. Where all are busy, whatever a process does
keeps others waiting, of this member and of the others on the machine: then it is time to do more at
once, less often. The share is 0.05 for one sequential client of a cluster whose three members have
two cores, and 0.25 under a load that fills these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

LOOK_SECONDS: Final = 0.1
SPACING_MAX: Final = 0.01
BUSY_SHARE: Final = 0.1
SPACING_PER_SHARE: Final = 0.125
_PATH: Final = Path("/proc/thread-self/schedstat")


class CpuWait:
    """Of the thread that looks. Where the kernel keeps no such figures it is 0."""

    def __init__(self) -> None:
        self.share = 0.0
        """Of the time, over the last two looks or so, this thread could run and had no CPU."""
        self._looked = 0.0
        self._waited_ns: int | None = None

    @property
    def spacing(self) -> float:
        """For how long to gather what many ask for, in seconds: 0 to SPACING_MAX."""
        return min(SPACING_MAX, max(0.0, self.share - BUSY_SHARE) * SPACING_PER_SHARE)

    def look(self, now: float) -> None:
        """Read the clock of the run queue, every LOOK_SECONDS; `now` is CLOCK_MONOTONIC."""
        past = now - self._looked
        if past < LOOK_SECONDS:
            return
        self._looked = now
        try:
            waited_ns = int(_PATH.read_bytes().split()[1])
        except OSError:  # no such figures, or no descriptor left
            return
        if self._waited_ns is not None:
            self.share = (self.share + (waited_ns - self._waited_ns) / past / 1e9) / 2
        self._waited_ns = waited_ns
