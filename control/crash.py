"""`troupectl crash`: the reports root writes when a child ends that should not.

A report is a JSON file in `<data-dir>/member/crash`, named by time, actor and incarnation. It holds
no values: the recorder knows no payloads, and of an exception's text what is quoted is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from control import recorder
from control.observe import MemberView, ObserveError

CRASH_DIRECTORY: Final = Path("member") / "crash"
SUFFIX: Final = ".json"
LAST_SHOWN: Final = 20


def crash_directory(data_dir: Path) -> Path:
    """Return where a member keeps its crash reports."""
    return data_dir / CRASH_DIRECTORY


def names(folder: Path) -> list[str]:
    """Return the names of the reports in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob(f"*{SUFFIX}"))


def load(folder: Path, name: str) -> dict[str, Any]:
    """Return a report; `name` may be its beginning, or `last`. Raises ObserveError."""
    known = names(folder)
    found = known[-1:] if name == "last" else [one for one in known if one.startswith(name)]
    if len(found) != 1 and name not in found:
        raise ObserveError(f"{len(found)} crash reports match {name!r} in {folder}")
    try:
        report: dict[str, Any] = json.loads((folder / (found[-1] + SUFFIX)).read_text())
    except (OSError, ValueError) as error:
        raise ObserveError(f"cannot read the crash report {found[-1]}: {error}") from None
    return report


def listing(view: MemberView) -> list[dict[str, Any]]:
    """Return a row per report, oldest first."""
    folder = crash_directory(Path(view.info["data_dir"]))
    rows = []
    for name in names(folder):
        report = load(folder, name)
        rows.append(
            {
                "name": name,
                "actor": report["actor"],
                "incarnation": report["incarnation"],
                "time": report["time"],
                "reason": report["reason"],
                "doing": report["doing"],
                "decision": report["decision"],
            }
        )
    return rows


def rendered_listing(rows: list[dict[str, Any]]) -> Table:
    """Return the rows for people."""
    columns = ("name", "actor", "incarnation", "reason", "doing", "decision")
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    return table


def rendered(report: dict[str, Any]) -> RenderableType:
    """Return a report for people."""
    doing = report["doing"] or "nothing"
    if report["doing_seconds"]:
        doing += f" for {report['doing_seconds']:.3f} s"
    stuck = report["stuck_seconds"]
    found = f" (found stuck for {stuck:.1f} s)" if stuck else ""
    lines = [
        f"{report['actor']} incarnation {report['incarnation']} (pid {report['pid']}) of "
        f"{report['member']}, {report['time']}",
        f"ended: {report['reason']}{found}",
        f"decision: {report['decision']}",
        f"doing: {doing}",
        f"restarts: {report['restarts_used']} of {report['restarts_allowed']}",
        f"mailbox: {report['mailbox'] or 'empty'}",
    ]
    parts: list[RenderableType] = [Text("\n".join(lines))]
    if report["traceback"]:
        parts.append(Text(report["traceback"]))
    parts.append(recorder.rendered(report["recorder"][-LAST_SHOWN:], "last messages"))
    return Group(*parts)
