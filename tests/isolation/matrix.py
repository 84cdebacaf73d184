"""The isolation matrix: every actor and every fault, and what clients of a member notice.

    python -m tests.isolation.matrix [--runs 3] [--only applier] [--document docs/isolation.md]

Runs on a member of its own, prints a line for each cell as it is measured, then the table; exit
code 1 if a cell is not what tests.isolation.declared says, in two of three runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.isolation.declared import (
    ACTORS,
    ALL,
    DISK,
    FAULTS,
    NONE_SECONDS,
    Effect,
    declared,
    elections_declared,
)
from tests.isolation.matrix_load import Load
from tests.member import Member

FLOODED: Final = 5000
CALM_SECONDS: Final = 0.3
SETTLE_SECONDS: Final = 0.2
SHORT: Final = (
    *((actor, "kill") for actor in ("gateway-0", "raft-node", "applier", "lessor")),
    ("applier", "drop"),
    ("raft-node", "reorder"),
)
"""The cells of the quick form."""
HEADING: Final = re.compile(r"(<!-- matrix -->\n).*(<!-- /matrix -->)", re.S)


@dataclass(frozen=True, slots=True)
class Order:
    """How a fault is ordered and how long it lasts."""

    seconds: float
    give: Callable[[Any, str], None]


def _flood(faults: Any, actor: str) -> None:
    faults.flood("applier" if actor == "raft-node" else "raft-node", actor, FLOODED)


ORDERS: Final[dict[str, Order]] = {
    "kill": Order(0.0, lambda faults, actor: faults.kill(actor)),
    "crash": Order(0.05, lambda faults, actor: faults.crash(actor)),
    "freeze": Order(3.0, lambda faults, actor: faults.freeze(actor, 3.0)),
    "suspend": Order(1.0, lambda faults, actor: faults.suspend(actor, 1.0)),
    "slow": Order(2.0, lambda faults, actor: faults.slow(actor, 20.0, 2.0)),
    "drop": Order(1.0, lambda faults, actor: faults.drop(actor, ratio=0.5, seconds=1.0)),
    "duplicate": Order(1.0, lambda faults, actor: faults.duplicate(actor, seconds=1.0)),
    "delay": Order(1.0, lambda faults, actor: faults.delay(actor, ms=50.0, seconds=1.0)),
    "reorder": Order(1.0, lambda faults, actor: faults.reorder(actor, seconds=1.0)),
    "flood": Order(0.0, _flood),
    "fsync-slow": Order(2.0, lambda faults, _: faults.fsync_slow(100.0, 2.0)),
    "disk-full": Order(1.0, lambda faults, _: faults.disk_full(1.0)),
}
WORDS: Final = {
    "freeze": "freeze 3 s",
    "suspend": "suspend 1 s",
    "slow": "slow, 20 ms a message, 2 s",
    "drop": "drop half of what it sends, 1 s",
    "duplicate": "duplicate what it sends, 1 s",
    "delay": "delay what it sends by 50 ms, 1 s",
    "reorder": "reorder what it sends, 1 s",
    "flood": f"flood with {FLOODED} messages",
    "fsync-slow": "syncs take 100 ms longer, 2 s",
    "disk-full": "no file of the log may grow, 1 s",
}


@dataclass
class Cell:
    """One row: what each subject noticed of one fault of one actor."""

    actor: str
    fault: str
    added: dict[str, float] = field(default_factory=dict)
    errors: dict[str, set[str]] = field(default_factory=dict)
    elections: int = 0
    data: str = ""

    def effect(self, subject: str) -> Effect:
        """Return the class of what a subject noticed."""
        added = self.added[subject]
        if self.errors[subject]:
            return Effect.ERRORS
        if added <= NONE_SECONDS:
            return Effect.NONE
        return Effect.SECOND if added <= 1 else Effect.FIVE if added <= 5 else Effect.LONG

    def wrong(self) -> list[str]:
        """Return what is not as declared, in words."""
        found = []
        for subject in ALL:
            wanted = declared(self.actor, self.fault, subject)
            if self.effect(subject) not in wanted:
                said = " or ".join(sorted(effect.value for effect in wanted))
                why = ", ".join(sorted(self.errors[subject])) or f"{self.added[subject]:.2f} s"
                found.append(f"{subject}: {self.effect(subject).value} ({why}), declared {said}")
        if self.elections not in elections_declared(self.actor, self.fault):
            found.append(f"{self.elections} elections")
        if self.data:
            found.append(f"data: {self.data}")
        return found


def cells(only: str = "") -> list[tuple[str, str]]:
    """Return all rows: (actor, fault)."""
    rows = [(actor, fault) for actor in ACTORS for fault in FAULTS]
    rows += [("zygote", "kill"), ("zygote", "freeze")]
    rows += [("disk", fault) for fault in DISK]
    return [row for row in rows if only in ("", row[0])]


def measure(member: Member, load: Load, actor: str, fault: str) -> Cell:
    """Break one actor and look at what the clients notice until all is well again."""
    cell = Cell(actor, fault)
    order = ORDERS[fault]
    faults = member.faults
    load.wait_healthy(time.monotonic())
    time.sleep(CALM_SECONDS)
    term = _term(member)
    moment = time.monotonic()
    order.give(faults, actor)
    time.sleep(order.seconds + SETTLE_SECONDS)
    healthy = load.wait_healthy(time.monotonic())
    for subject in ALL:
        cell.added[subject], cell.errors[subject] = load.added(subject, moment)
        if not healthy and not cell.errors[subject]:
            cell.errors[subject] = {"not well again"}
    cell.elections = _term(member) - term
    cell.data = load.data_error()
    return cell


def _term(member: Member) -> int:
    with Client(member.endpoint) as client:
        return client.call(pb.StatusRequest(), pb.StatusResponse).raftTerm


def measure_all(
    folder: Path, rows: Iterable[tuple[str, str]], runs: int, told: Callable[[Cell], None]
) -> list[Cell]:
    """Measure rows on one member; one that is not as declared is measured again, up to `runs`.

    Returns of each row the run that speaks for it: two of three agree.
    """
    found = []
    with Member(folder, flags=["--enable-faults"]) as member, Load(member.endpoint) as load:
        for actor, fault in rows:
            tried: list[Cell] = []
            while len(tried) < runs and sum(not cell.wrong() for cell in tried) <= runs // 2:
                cell = measure(member, load, actor, fault)
                tried.append(cell)
                told(cell)
                if len(tried) == 1 and not cell.wrong():
                    break
            found.append(_spokesman(tried))
    return found


def _spokesman(tried: Sequence[Cell]) -> Cell:
    good = [cell for cell in tried if not cell.wrong()]
    return good[-1] if 2 * len(good) >= len(tried) else next(c for c in tried if c.wrong())


def table(found: Sequence[Cell]) -> str:
    """Return the rows as Markdown; the longest wait of a subject in brackets."""
    lines = [
        f"| actor | fault | {' | '.join(ALL)} | elections | data |",
        f"|{'---|' * (len(ALL) + 4)}",
    ]
    for cell in found:
        shown = []
        for subject in ALL:
            effect, added = cell.effect(subject), cell.added[subject]
            bad = effect not in declared(cell.actor, cell.fault, subject)
            text = effect.value if effect in (Effect.NONE, Effect.ERRORS) else f"{added:.2f} s"
            shown.append(f"**{text}**" if bad else text)
        words = WORDS.get(cell.fault, cell.fault)
        data = cell.data or "exact"
        lines.append(
            f"| {cell.actor} | {words} | {' | '.join(shown)} | {cell.elections or ''} | {data} |"
        )
    return "\n".join(lines) + "\n"


def document(found: Sequence[Cell], path: Path) -> None:
    """Put the table into its place in the guide."""
    text = (
        f"Measured by `python -m tests.isolation.matrix` on one member, {os.cpu_count()} cores, "
        f"Python {platform.python_version()},\n"
        "with clients that retry nothing. A cell is the class of the slowest call: none is at most "
        f"{NONE_SECONDS:g} s\n"
        "longer than usual, else by how much it was slower. Errors are UNAVAILABLE, of clients "
        "whose own gateway\n"
        "died. Data is exact when every acknowledged put was applied once. What is declared stands "
        "in\n`tests/isolation/declared.py`; a cell that differs is bold.\n\n"
    )
    guide = path.read_text()
    path.write_text(HEADING.sub(lambda place: place[1] + text + table(found) + place[2], guide))


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write the document that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.isolation.matrix")
    parser.add_argument("--runs", type=int, default=3, help="of a cell that is not as declared")
    parser.add_argument("--only", default="", metavar="ACTOR")
    parser.add_argument("--short", action="store_true", help="the cells of the quick form")
    parser.add_argument("--document", type=Path, help="put the table between its marks there")
    arguments = parser.parse_args(argv)
    rows = [row for row in SHORT if arguments.only in ("", row[0])]
    with tempfile.TemporaryDirectory(prefix="trouped-matrix-") as folder:
        found = measure_all(
            Path(folder),
            rows if arguments.short else cells(arguments.only),
            arguments.runs,
            _tell,
        )
    print(table(found))  # noqa: T201
    if arguments.document:
        document(found, arguments.document)
    return int(any(cell.wrong() for cell in found))


def _tell(cell: Cell) -> None:
    worst = max(cell.added.values())
    wrong = "; ".join(cell.wrong()) or "as declared"
    print(f"{cell.actor:12} {cell.fault:10} {worst:6.2f} s  {wrong}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
