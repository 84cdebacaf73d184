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
    Effect,
    declared,
    elections_declared,
)
from tests.isolation.matrix_cell import ORDERS, Cell

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs" / "isolation.md"
HEADING: Final = re.compile(r"(<!-- matrix -->\n).*(<!-- /matrix -->)", re.S)
NAMED: Final = (Effect.NONE, Effect.ERRORS, Effect.ENDED)
"""Classes that say all there is to say."""


def words(fault: str) -> str:
    """Return what a fault is called in the table."""
    return ORDERS[fault].words or fault


def table(found: Sequence[Cell]) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"| actor | fault | {' | '.join(ALL)} | elections | data |",
        f"|{'---|' * (len(ALL) + 4)}",
    ]
    for cell in found:
        shown = " | ".join(_shown(cell, subject) for subject in ALL)
        ended = "" if cell.exit_code is None else f", exit code {cell.exit_code}"
        elections = str(cell.elections or "")
        if cell.elections != elections_declared(cell.actor, cell.fault):
            elections = f"**{cell.elections}**"
        data = f"**{cell.data}**" if cell.data else "exact"
        fault = words(cell.fault) + ended
        lines.append(f"| {cell.actor} | {fault} | {shown} | {elections} | {data} |")
    return "\n".join(lines) + "\n"


def _shown(cell: Cell, subject: str) -> str:
    effect, wanted = cell.effect(subject), declared(cell.actor, cell.fault, subject)
    text = effect.value if effect in NAMED else f"{cell.added[subject]:.2f} s"
    said = " or ".join(one.value for one in Effect if one in wanted)
    if effect not in wanted:
        return f"**{text}** ({said})"
    return text if text == said else f"{text} ({said})"


def document(found: Sequence[Cell], path: Path) -> None:
    """Put the table into its place in the guide, and say when and of what it is."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    reasons = {reason for _, reason in EITHER.values()}
    text = (
        f"Measured by `python -m tests.isolation.matrix` on {day} at commit {_commit()}, one "
        f"member,\n{os.cpu_count()} cores, Python {platform.python_version()}, with clients that "
        "retry nothing. A cell is the class of the slowest call: none\n"
        f"is at most {NONE_SECONDS:g} s longer than usual, else by how much it was slower, and in "
        "brackets the class that is\ndeclared in `tests/isolation/declared.py`. Errors are "
        "UNAVAILABLE, of clients whose own gateway died.\nEnded: all is unavailable until the "
        "member is started again. Data is exact when every acknowledged put\nis there and none "
        "was applied twice. Two of three runs agree; a cell that differs from what is declared\n"
        f"is bold. Where two classes are declared: {'; '.join(sorted(reasons))}.\n\n"
    )
    guide = path.read_text()
    path.write_text(HEADING.sub(lambda place: place[1] + text + table(found) + place[2], guide))


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"
