"""The rows of the isolation matrix: how each fault is ordered, and what was noticed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.isolation.declared import (
    ALL,
    NONE_SECONDS,
    Effect,
    declared,
    elections_declared,
    exit_code_declared,
)

FLOODED: Final = 5000
HOG_BYTES: Final = 512 << 20
FAIL_SECONDS: Final = 60.0
"""Until the actor syncs: the database's log begins anew when no reader is in the way."""
NO_SPACE: Final = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Order:
    """How a fault is ordered and how long it lasts."""

    seconds: float
    give: Callable[[Any, str], None]
    words: str = ""


def _flood(faults: Any, actor: str) -> None:
    faults.flood("applier" if actor == "raft-node" else "raft-node", actor, FLOODED)


def _fsync_slow(faults: Any, actor: str) -> None:
    faults.fsync_slow(400.0, 2.0, actor="" if actor == "disk" else actor)


def _orders() -> dict[str, Order]:
    return {
        "kill": Order(0.0, lambda faults, actor: faults.kill(actor)),
        "crash": Order(0.05, lambda faults, actor: faults.crash(actor)),
        "slow": Order(
            2.0, lambda faults, actor: faults.slow(actor, 100.0, 2.0), "slow, 100 ms a message, 2 s"
        ),
        "hog": Order(
            1.0,
            lambda faults, actor: faults.hog(actor, HOG_BYTES, 1.0),
            "hog 512 MiB of memory, 1 s",
        ),
        "flood": Order(0.0, _flood, f"flood with {FLOODED} messages"),
        "suspend": Order(3.0, lambda faults, actor: faults.suspend(actor, 3.0), "suspend 3 s"),
        "freeze": Order(5.0, lambda faults, actor: faults.freeze(actor, 5.0), "freeze 5 s"),
        "drop": Order(
            3.0, lambda faults, actor: faults.drop(actor, seconds=3.0), "drop what it sends, 3 s"
        ),
        "duplicate": Order(
            3.0,
            lambda faults, actor: faults.duplicate(actor, seconds=3.0),
            "duplicate what it sends, 3 s",
        ),
        "delay": Order(
            2.0,
            lambda faults, actor: faults.delay(actor, ms=400.0, seconds=2.0),
            "delay what it sends by 400 ms, 2 s",
        ),
        "reorder": Order(
            3.0,
            lambda faults, actor: faults.reorder(actor, seconds=3.0),
            "reorder what it sends, 3 s",
        ),
        "fsync-slow": Order(2.0, _fsync_slow, "syncs take 400 ms longer, 2 s"),
        "disk-full": Order(2.0, lambda faults, _: faults.disk_full(2.0), "no file may grow, 2 s"),
        "fsync-fail": Order(
            0.0,
            lambda faults, actor: faults.fsync_fail(FAIL_SECONDS, actor=actor),
            "its syncs fail",
        ),
        "crash-loop": Order(
            0.0, lambda faults, actor: faults.crash_at_start(actor), "crash at every start"
        ),
    }


ORDERS: Final = _orders()


@dataclass
class Cell:
    """One row: what each subject noticed of one fault of one actor."""

    actor: str
    fault: str
    added: dict[str, float] = field(default_factory=dict)
    errors: dict[str, set[str]] = field(default_factory=dict)
    elections: int = 0
    data: str = ""
    exit_code: int | None = None

    def effect(self, subject: str) -> Effect:
        """Return the class of what a subject noticed."""
        added = self.added[subject]
        if self.exit_code is not None:
            return Effect.ENDED
        if self.errors[subject]:
            return Effect.REFUSED if self.errors[subject] == {NO_SPACE} else Effect.ERRORS
        if added <= NONE_SECONDS:
            return Effect.NONE
        return Effect.SECOND if added <= 1 else Effect.FIVE if added <= 5 else Effect.LONG

    def wrong(self) -> list[str]:
        """Return what is not as declared, in words."""
        found = []
        for subject in ALL:
            wanted = declared(self.actor, self.fault, subject)
            if self.effect(subject) not in wanted:
                said = " or ".join(effect.value for effect in Effect if effect in wanted)
                why = ", ".join(sorted(self.errors[subject])) or f"{self.added[subject]:.2f} s"
                found.append(f"{subject}: {self.effect(subject).value} ({why}), declared {said}")
        if self.elections != elections_declared(self.actor, self.fault):
            found.append(f"{self.elections} elections")
        if self.exit_code != exit_code_declared(self.actor, self.fault):
            found.append(f"exit code {self.exit_code}")
        if self.data:
            found.append(f"data: {self.data}")
        return found
