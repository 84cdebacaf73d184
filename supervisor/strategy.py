"""What to do when a child ends: a pure function of its spec and its past.

Children are permanent and restarted one for one: a fault stays in its room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.intensity import RestartIntensity
from supervisor.spec import ChildSpec


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the next incarnation `delay` seconds from now."""

    delay: float


@dataclass(frozen=True, slots=True)
class Escalate:
    """The child can't be kept alive: stop the member and exit with this code."""

    exit_code: int


@dataclass(slots=True)
class History:
    """The past of one child, as far as it counts."""

    spec: ChildSpec
    intensity: RestartIntensity = field(init=False)
    ended: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.intensity = RestartIntensity(limit=self.spec.restarts, period=self.spec.period)


def child_ended(history: History, now: float, chance: Callable[[], float]) -> Restart | Escalate:
    """Decide what follows; `chance` returns a number in [0, 1) for the jitter of back-offs."""
    spec = history.spec
    history.ended = [when for when in history.ended if now - when <= spec.period]
    earlier = len(history.ended)
    history.ended.append(now)
    if not history.intensity.permits(now):
        return Escalate(spec.exit_code)
    if earlier == 0:
        return Restart(0.0)
    return Restart(_pause(spec, earlier) * (0.5 + chance() / 2))


def next_pause(history: History, now: float) -> float:
    """Return the most seconds that a restart would wait if the child ended now."""
    earlier = sum(1 for when in history.ended if now - when <= history.spec.period)
    return _pause(history.spec, earlier) if earlier else 0.0


def _pause(spec: ChildSpec, earlier: int) -> float:
    return min(spec.backoff_max, spec.backoff_min * 2.0 ** (earlier - 1))
