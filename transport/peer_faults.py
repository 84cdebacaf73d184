"""Faults to put between members for tests and drills: cuts, delays, losses, duplicates, pauses.

Set by one thread, read by the actor's: a change replaces the whole table by one assignment, so
nothing is ever seen half made. The table is empty without faults, and then costs one look.

A cut is a blackhole, as a firewall that drops: nobody is told. `cut_out` drops what would be sent,
`cut_in` what arrives, so a cut can be one-way. Paused payloads wait in the outbox, at most an
election timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

FIELDS = ("cut_in", "cut_out", "paused", "delay_seconds", "drop_ratio", "duplicate_ratio")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the link to one peer, until a moment (monotonic seconds)."""

    cut_in: bool = False
    cut_out: bool = False
    paused: bool = False
    delay_seconds: float = 0.0
    drop_ratio: float = 0.0
    duplicate_ratio: float = 0.0
    until: float = float("inf")

    @property
    def is_none(self) -> bool:
        """Whether nothing is wrong."""
        return not any(getattr(self, field) for field in FIELDS)


class Faults:
    """The faults of all links, by peer id."""

    def __init__(self) -> None:
        self.table: Mapping[int, Fault] = {}

    def of(self, peer: int, now: float) -> Fault | None:
        """Return what is wrong with the link to a peer now."""
        fault = self.table.get(peer)
        return fault if fault is not None and now < fault.until else None

    def change(self, peer: int, now: float, **fields: Any) -> None:
        """Change some fields of the fault of one peer. Only the control thread may."""
        fault = replace(self.of(peer, now) or Fault(), **fields)
        table = {**self.table, peer: fault}
        if fault.is_none:
            del table[peer]
        self.table = table

    def mend(self, peer: int) -> None:
        """Take everything off the link to one peer. Only the control thread may."""
        self.table = {other: fault for other, fault in self.table.items() if other != peer}
