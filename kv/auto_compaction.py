"""When to compact by itself: etcd's two policies, as functions of time and revision.

periodic  keeps the history of the last `retention`: revisions are noted ten times per interval (the
          retention, at most an hour), and once the window is full the oldest is compacted away.
revision  every five minutes keeps the last `retention` revisions.

Neither knows a clock: seconds come in, a revision to compact to comes out.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

HOUR_SECONDS: Final = 3600.0
REVISION_INTERVAL_SECONDS: Final = 300.0
SAMPLES_PER_INTERVAL: Final = 10


class AutoCompaction(Protocol):
    """What the compactor asks of a policy; `mode` is etcd's name of it."""

    mode: str

    @property
    def next_run(self) -> float | None:
        """When it may compact next, as `now` of `poll`; None while nothing is noted."""

    def poll(self, now: float, revision: int) -> int | None:
        """Return the revision to compact to, or None; `now` in seconds, any origin."""

    def pause(self) -> None:
        """Leadership is lost: forget what was noted."""


class Periodic:
    """etcd's v3compactor.Periodic. Invariant: noted revisions are in the order of time."""

    mode = "periodic"

    def __init__(self, retention: float) -> None:
        """`retention` in seconds, > 0."""
        assert retention > 0
        interval = min(retention, HOUR_SECONDS)
        self._step = interval / SAMPLES_PER_INTERVAL
        self._window = max(1, int(retention / self._step)) + 1
        self._interval = interval
        self._noted: deque[int] = deque(maxlen=self._window)
        self._next_note: float | None = None
        self._last: float | None = None
        self._done = 0

    def poll(self, now: float, revision: int) -> int | None:
        """Note the revision when it is time; compact to the oldest once the window is full."""
        if self._next_note is not None and now < self._next_note:
            return None
        self._next_note = now + self._step
        self._noted.append(revision)
        if self._last is None:
            self._last = now
        if len(self._noted) < self._window or now - self._last < self._interval:
            return None
        self._last = now
        target = self._noted[0]
        if target <= self._done:
            return None
        self._done = target
        return target

    @property
    def next_run(self) -> float | None:
        """When the window is full and an interval has passed."""
        if self._next_note is None or self._last is None:
            return None
        missing = max(0, self._window - len(self._noted) - 1)
        return max(self._next_note + missing * self._step, self._last + self._interval)

    def pause(self) -> None:
        """Start a new window at the next poll."""
        self._noted.clear()
        self._next_note = None
        self._last = None


class Revision:
    """etcd's v3compactor.Revision."""

    mode = "revision"

    def __init__(self, retention: int) -> None:
        """`retention` in revisions, > 0."""
        assert retention > 0
        self._retention = retention
        self._next: float | None = None
        self._done = 0

    def poll(self, now: float, revision: int) -> int | None:
        """Every five minutes compact to `retention` revisions ago."""
        if self._next is None:
            self._next = now + REVISION_INTERVAL_SECONDS
            return None
        if now < self._next:
            return None
        self._next = now + REVISION_INTERVAL_SECONDS
        target = revision - self._retention
        if target <= 0 or target == self._done:
            return None
        self._done = target
        return target

    @property
    def next_run(self) -> float | None:
        """When the interval has passed."""
        return self._next

    def pause(self) -> None:
        """Start a new interval at the next poll."""
        self._next = None


def policy(seconds: float, revisions: int) -> AutoCompaction | None:
    """Return the policy that keeps so many seconds, or so many revisions, of history; 0 is off."""
    if seconds > 0:
        return Periodic(seconds)
    return Revision(revisions) if revisions > 0 else None
