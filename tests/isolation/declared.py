"""What clients are promised to notice of each fault, before anybody measures it.

Rows are (actor, fault); a subject that is not named notices nothing. "brief" is anything up to a
second: how long a restart takes depends on the machine, so a cell that is a restart away may be
better than that. A cell fails if what was measured is not what is declared, worse or better.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Effect(Enum):
    """How much worse a subject was off, by its slowest call."""

    NONE = "none"
    SECOND = "≤ 1 s"
    FIVE = "≤ 5 s"
    LONG = "> 5 s"
    ERRORS = "errors"


NONE_SECONDS: Final = 0.3
NOTHING: Final = frozenset({Effect.NONE})
BRIEF: Final = frozenset({Effect.NONE, Effect.SECOND})
SECONDS: Final = frozenset({Effect.SECOND, Effect.FIVE})
WHILE_IT_LASTS: Final = BRIEF | {Effect.FIVE}
"""A broken edge delivers in order or not at all: nothing while the fault lasts (1 s), and what was
lost is asked for again after 0.5 s, doubling. How much is lost is chance."""
BROKEN: Final = frozenset({Effect.ERRORS})
AT_ONCE_OR_BROKEN: Final = BRIEF | BROKEN
"""Of a connection that ends: an error only for a call that was under way."""

WRITES: Final = ("put", "watch")
ALL: Final = ("put", "get", "serializable get", "watch", "keep-alive")
ACTORS: Final = (
    "gateway-0", "raft-node", "applier", "lessor", "compactor", "snapshotter", "transport",
)  # fmt: skip
FAULTS: Final = (
    "kill", "crash", "freeze", "suspend", "slow", "drop", "duplicate", "delay", "reorder", "flood",
)  # fmt: skip
DISK: Final = ("fsync-slow", "disk-full")
TELLING: Final = frozenset({"drop", "duplicate", "delay", "reorder"})


def declared(actor: str, fault: str, subject: str) -> frozenset[Effect]:
    """Return the effects that are as promised."""
    return _DECLARED.get((actor, fault), {}).get(subject, NOTHING)


def elections_declared(actor: str, fault: str) -> range:
    """Return how many elections a fault may cost a member on its own."""
    if actor == "raft-node" and fault in ("kill", "crash"):
        return range(1, 2)
    if actor == "raft-node" and fault == "freeze":  # found stuck, or thawed just in time
        return range(2)
    return range(1)


def _rows() -> dict[tuple[str, str], dict[str, frozenset[Effect]]]:
    rows: dict[tuple[str, str], dict[str, frozenset[Effect]]] = {}
    for fault in ("kill", "crash"):
        rows["gateway-0", fault] = dict.fromkeys(ALL, AT_ONCE_OR_BROKEN)  # its own clients
        rows["gateway-0", fault] |= {"watch": BROKEN, "keep-alive": BROKEN}
        rows["raft-node", fault] = {"put": BRIEF, "get": BRIEF, "keep-alive": BRIEF}
        rows["applier", fault] = {"put": BRIEF, "get": BRIEF, "watch": BRIEF}
        rows["lessor", fault] = {"keep-alive": BRIEF}
    # An event is late only if it comes later than the put's answer: a frozen gateway delays both.
    for fault in ("freeze", "suspend"):
        asked = ("put", "get", "serializable get", "keep-alive")
        rows["gateway-0", fault] = dict.fromkeys(asked, SECONDS)
        rows["raft-node", fault] = {"put": SECONDS, "keep-alive": BRIEF}
        rows["applier", fault] = {"put": SECONDS}
        rows["lessor", fault] = {"keep-alive": SECONDS}
    rows["raft-node", "freeze"] |= {"keep-alive": SECONDS}  # its grant ends after a second
    for actor in ("gateway-0", "raft-node", "applier"):
        for fault in TELLING:
            rows[actor, fault] = dict.fromkeys(("put", "get", "keep-alive"), WHILE_IT_LASTS)
            rows[actor, fault] |= {"watch": BRIEF}
        for fault in ("slow", "flood"):
            rows[actor, fault] = dict.fromkeys(ALL if actor == "gateway-0" else WRITES, BRIEF)
    rows["raft-node", "slow"] |= {"keep-alive": BRIEF}
    for fault in TELLING:
        rows["lessor", fault] = {"keep-alive": WHILE_IT_LASTS}
    for fault in ("slow", "flood"):
        rows["lessor", fault] = {"keep-alive": BRIEF}
    rows["disk", "fsync-slow"] = {"put": BRIEF}
    return rows


_DECLARED: Final = _rows()
