"""The isolation matrix as the table of the guide: what was measured beside what is declared."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.isolation.declared import (
    ALL,
    EITHER,
    NONE_SECONDS,
    NOT_APPLICABLE,
    SMALL_FILES,
    Effect,
    all_rows,
    declared,
    elections_declared,
)
from tests.isolation.matrix_cell import ORDERS, Cell

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs" / "isolation.md"
HEADING: Final = re.compile(r"(<!-- matrix -->\n).*(<!-- /matrix -->)", re.S)
MEASURED: Final = re.compile(r" on (\d{4}-\d\d-\d\d) at commit (\S+), one member")
COLUMNS: Final = len(ALL) + 4
NAMED: Final = (Effect.NONE, Effect.REFUSED, Effect.ERRORS, Effect.ENDED)
"""Classes that say all there is to say."""


def words(actor: str, fault: str) -> str:
    """Return what a fault of an actor is called in the table."""
    said = ORDERS[fault].words or fault
    return f"{said} (small files)" if (actor, fault) in SMALL_FILES else said


def table(found: Sequence[Cell]) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"| actor | fault | {' | '.join(ALL)} | elections | data |",
        f"|{'---|' * COLUMNS}",
        *map(_row, found),
    ]
    return "\n".join(lines) + "\n"


def not_applicable() -> str:
    """Return the rows of what can't be ordered."""
    rest = " |" * (COLUMNS - 3)
    return "".join(
        f"| {actor} | {faults} | does not apply: {why} |{rest}\n"
        for actor, faults, why in NOT_APPLICABLE
    )


def _row(cell: Cell) -> str:
    shown = " | ".join(_shown(cell, subject) for subject in ALL)
    ended = "" if cell.exit_code is None else f", exit code {cell.exit_code}"
    elections = str(cell.elections or "")
    if cell.elections != elections_declared(cell.actor, cell.fault):
        elections = f"**{cell.elections}**"
    data = f"**{cell.data}**" if cell.data else "exact"
    fault = words(cell.actor, cell.fault) + ended
    return f"| {cell.actor} | {fault} | {shown} | {elections} | {data} |"


def _shown(cell: Cell, subject: str) -> str:
    effect, wanted = cell.effect(subject), declared(cell.actor, cell.fault, subject)
    text = effect.value if effect in NAMED else f"{cell.added[subject]:.2f} s"
    said = " or ".join(one.value for one in Effect if one in wanted)
    if effect not in wanted:
        return f"**{text}** ({said})"
    return text if text == said else f"{text} ({said})"


def document(found: Sequence[Cell], path: Path) -> None:
    """Put the table into its place in the guide, and say when and of what it is."""
    _write(path, _about(_today(), _commit()) + table(found) + not_applicable())


def update(found: Sequence[Cell], path: Path, named: str) -> None:
    """Put rows into the place of the same ones, or where they belong, and say of when they are.

    `named` says what was measured, as the command line did. Rows that are no more go.
    """
    before = HEADING.search(path.read_text())
    assert before is not None, f"{path} has no place for the table"
    when = MEASURED.search(before[0])
    assert when is not None, f"{path} has no table"
    anew = {(cell.actor, cell.fault): _row(cell) for cell in found}
    rows = []
    for row in all_rows():
        start = f"| {row[0]} | {words(*row)}"
        starts = (f"{start} |", f"{start}, exit code ")
        there = [line for line in before[0].splitlines() if line.startswith(starts)]
        rows += [anew[row]] if row in anew else there[:1]
    later = [line for line in before[0].splitlines() if line.startswith("Measured later: ")]
    later = [line for line in later if not line.startswith(f"Measured later: `{named}` ")]
    later.append(f"Measured later: `{named}` on {_today()} at commit {_commit()}.")
    about = _about(when[1], when[2]) + "\n".join(later) + "\n\n"
    _write(path, about + table([]) + "\n".join(rows) + "\n" + not_applicable())


def _write(path: Path, text: str) -> None:
    path.write_text(HEADING.sub(lambda place: place[1] + text + place[2], path.read_text()))


def _about(day: str, commit: str) -> str:
    reasons = {reason for _, reason in EITHER.values()}
    return (
        f"Measured by `python -m tests.isolation.matrix` on {day} at commit {commit}, one "
        f"member,\n{os.cpu_count()} cores, Python {platform.python_version()}, with clients that "
        "retry nothing. A cell is the class of the slowest call: none\n"
        f"is at most {NONE_SECONDS:g} s longer than usual, else by how much it was slower, and in "
        "brackets the class that is\ndeclared in `tests/isolation/declared.py`. Errors are "
        "UNAVAILABLE, of clients whose own gateway died.\nRefused: at once, with `mvcc: database "
        "space exceeded`, until there is space again. Ended: all is\nunavailable until the member "
        "is started again. Small files: the member's files are 128 times smaller than\nusual "
        "(`TROUPED_DISK_SCALE`), for the applier syncs once in 256 MiB of the database's log. Data "
        "is exact\nwhen every acknowledged put is there and none was applied twice. Two of three "
        "runs agree; a cell that differs\nfrom what is declared is bold. Where two classes are "
        f"declared: {'; '.join(sorted(reasons))}.\n\n"
    )


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"
