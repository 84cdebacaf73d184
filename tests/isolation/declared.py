"""What clients are promised to notice of each fault, before anybody measures it.

Rows are (actor, fault); a subject that is not named notices nothing. A cell is one class, and fails
if what was measured is another, worse or better. Where chance decides between two, both are named
with the reason (`EITHER`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from storage.failures import STORAGE_EXIT_CODE
from supervisor.faults import SYNCING
from supervisor.root import ZYGOTE
from supervisor.tree import children


class Effect(Enum):
    """How much worse a subject was off, by its slowest call."""

    NONE = "none"
    SECOND = "≤ 1 s"
    FIVE = "≤ 5 s"
    LONG = "> 5 s"
    REFUSED = "refused"
    """At once, with `mvcc: database space exceeded`: nothing was changed."""
    ERRORS = "errors"
    ENDED = "ended"
    """Unavailable until the member is started again."""


NONE_SECONDS: Final = 0.3
ALL: Final = ("put", "get", "serializable get", "watch", "keep-alive")
ASKED: Final = ("put", "get", "serializable get", "keep-alive")
"""A frozen gateway delays an event no more than the answer to its put: the watch sees nothing."""
ACTORS: Final = (
    "gateway-0", "raft-node", "applier", "lessor", "compactor", "snapshotter", "transport",
)  # fmt: skip
FAULTS: Final = (
    "kill", "crash", "slow", "hog", "flood", "suspend", "freeze",
    "drop", "duplicate", "delay", "reorder",
)  # fmt: skip
OF_THE_ZYGOTE: Final = ("kill", "freeze")
"""It has no mailbox and runs nothing between two forks."""
DISK: Final = ("fsync-slow", "disk-full")
"""Of the whole member."""
FSYNC_SLOW: Final = "fsync-slow"
FSYNC_FAIL: Final = "fsync-fail"
STORM: Final = "crash-loop"
ENDING: Final = (
    *((actor, STORM) for actor in (*ACTORS, "zygote")),
    *((actor, FSYNC_FAIL) for actor in SYNCING),
)
"""What the member does not outlive."""
SMALL_FILES: Final = (("applier", FSYNC_SLOW), ("applier", FSYNC_FAIL))
"""Measured on a member whose files are small: it syncs once in 256 MiB of the database's log."""
NOT_APPLICABLE: Final = (
    *(
        (actor, "syncs are slow or fail", "it syncs no file")
        for actor in ACTORS
        if actor not in SYNCING
    ),
    ("zygote", "syncs are slow or fail", "it syncs no file"),
    ("zygote", "slow, hog, flood, and what else an actor is ordered", "it has no mailbox"),
)
"""(actor, faults, why they can't be ordered)."""
LOST: Final = ("drop", "duplicate", "reorder")
"""An edge delivers in order or not at all: each of these stops it for as long as it lasts."""
LOOKED_UP: Final = ("drop", "reorder")
"""Results that are lost are found in the database after half a second; a copy does no harm."""


def all_rows() -> list[tuple[str, str]]:
    """Return all rows: (actor, fault), those that end the member last.

    An actor's next turn comes when all others had theirs: restarts in a row wait for each other.
    """
    rows = [(actor, fault) for fault in FAULTS for actor in ACTORS]
    rows += [("zygote", fault) for fault in OF_THE_ZYGOTE]
    rows += [("disk", fault) for fault in DISK]
    rows += [(actor, FSYNC_SLOW) for actor in SYNCING]
    rows += ENDING
    return rows


def declared(actor: str, fault: str, subject: str) -> frozenset[Effect]:
    """Return the effects that are as promised."""
    if (actor, fault) in ENDING:
        return frozenset({Effect.ENDED})
    effect = _DECLARED.get((actor, fault), {}).get(subject, Effect.NONE)
    other, _ = EITHER.get((actor, fault, subject), (effect, ""))
    return frozenset({effect, other})


def exit_code_declared(actor: str, fault: str) -> int | None:
    """Return the exit code of the member, None if it lives on."""
    if fault == FSYNC_FAIL:
        return STORAGE_EXIT_CODE
    return _EXIT_CODES[actor] if fault == STORM else None


def elections_declared(actor: str, fault: str) -> int:
    """Return how many elections a fault costs a member on its own: one for each start of raft."""
    ends = (actor, fault) in ENDING
    return int(ends or (actor == "raft-node" and fault in ("kill", "crash", "freeze")))


def _rows() -> dict[tuple[str, str], dict[str, Effect]]:
    rows: dict[tuple[str, str], dict[str, Effect]] = {}
    # Who ends is back within NONE_SECONDS; only a gateway takes its clients' connections along.
    # A frozen one is found stuck after 4 s and ends then.
    for fault in ("kill", "crash", "freeze"):
        rows["gateway-0", fault] = dict.fromkeys(ALL, Effect.ERRORS)
    for fault in ("freeze", "suspend", *LOST):
        rows["raft-node", fault] = {"put": Effect.FIVE, "keep-alive": Effect.FIVE}
        rows["lessor", fault] = {"keep-alive": Effect.FIVE}
    for fault in ("freeze", "suspend"):
        rows["applier", fault] = {"put": Effect.FIVE}
    for fault in LOOKED_UP:
        rows["applier", fault] = {"put": Effect.SECOND}
    rows["gateway-0", "suspend"] = dict.fromkeys(ASKED, Effect.FIVE)
    for fault in LOST:
        rows["gateway-0", fault] = {"put": Effect.FIVE, "keep-alive": Effect.FIVE}
    rows["gateway-0", "delay"] = {"put": Effect.SECOND, "keep-alive": Effect.SECOND}
    rows["raft-node", "delay"] = {"put": Effect.SECOND}
    rows["applier", "delay"] = {"put": Effect.SECOND}
    rows["lessor", "delay"] = {"keep-alive": Effect.SECOND}
    for actor in ("raft-node", "applier"):
        rows[actor, "slow"] = {"put": Effect.SECOND}
    rows["lessor", "slow"] = {"keep-alive": Effect.SECOND}
    for actor in ("disk", "raft-node", "applier"):
        rows[actor, FSYNC_SLOW] = {"put": Effect.SECOND}
    rows["disk", "disk-full"] = {"put": Effect.REFUSED}
    return rows


_DECLARED: Final = _rows()
_EXIT_CODES: Final = {spec.name: spec.exit_code for spec in (*children(1), ZYGOTE)}
UNDER_WAY: Final = "an error only for a call that is under way"
EITHER: Final = {
    **{
        ("gateway-0", fault, subject): (Effect.NONE, UNDER_WAY)
        for fault in ("kill", "crash")
        for subject in ("put", "get", "serializable get")
    },
}
"""(actor, fault, subject) -> the second class, and why there are two."""
