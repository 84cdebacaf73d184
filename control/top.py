"""`troupectl top`: what every actor does now, from two samples of the board."""

from __future__ import annotations

import time
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from control.observe import MemberView, Sample

INTERVAL_SECONDS: Final = 0.5
COLUMNS: Final = (
    ("actor", "left"),
    ("state", "left"),
    ("pid", "right"),
    ("restarts", "right"),
    ("mailbox", "right"),
    ("handled/s", "right"),
    ("batch", "right"),
    ("cpu %", "right"),
    ("PSS MiB", "right"),
    ("doing", "left"),
)


def samples(view: MemberView) -> dict[str, Sample]:
    """Look at all actors, without their memory."""
    return {name: view.sample(name) for name in view.actors()}


def rates(view: MemberView, before: dict[str, Sample], seconds: float) -> list[dict[str, Any]]:
    """Return a row per actor: what has changed since `before`, `seconds` ago.

    `handled_per_second` counts messages from other actors, `batch_mean` the requests in one of
    them; a restart in between counts as 0. `cpu` is a fraction of one core.
    """
    rows = []
    for name in view.actors():
        now, then = view.sample(name, memory=True), before[name]
        same = now.pid == then.pid
        handled = max(0, now.handled - then.handled)
        items = max(0, now.handled_items - then.handled_items)
        rows.append(
            {
                "name": name,
                "state": now.state,
                "pid": now.pid,
                "incarnation": now.incarnation,
                "restarts": now.restarts,
                "mailbox_depth": now.depth,
                "handled_per_second": round(handled / seconds, 1),
                "batch_mean": round(items / handled, 2) if handled else 0.0,
                "cpu": round((now.cpu_seconds - then.cpu_seconds) / seconds, 3) if same else 0.0,
                "pss_bytes": now.pss_bytes,
                "doing": now.doing,
                "doing_seconds": round(now.doing_seconds, 4),
            }
        )
    return rows


def once(view: MemberView, seconds: float = INTERVAL_SECONDS) -> list[dict[str, Any]]:
    """Sample twice, `seconds` apart."""
    before, began = samples(view), time.monotonic()
    time.sleep(seconds)
    return rates(view, before, time.monotonic() - began)


def rendered(rows: list[dict[str, Any]], title: str) -> Table:
    """Return the rows for people."""
    table = Table(title=title)
    for name, justify in COLUMNS:
        table.add_column(name, justify="left" if justify == "left" else "right", no_wrap=True)
    for row in rows:
        doing = f"{row['doing']} {row['doing_seconds'] * 1000:.1f} ms" if row["doing"] else ""
        pss = f"{row['pss_bytes'] / 2**20:.1f}" if row["pss_bytes"] >= 0 else "?"
        table.add_row(
            row["name"],
            row["state"],
            str(row["pid"]),
            str(row["restarts"]),
            str(row["mailbox_depth"]),
            f"{row['handled_per_second']:.0f}",
            f"{row['batch_mean']:.1f}",
            f"{row['cpu'] * 100:.0f}",
            pss,
            doing,
        )
    return table


def live(view: MemberView, console: Console) -> None:
    """Show the table until interrupted, or until the member has ended."""
    title = f"{view.info['name']}  {view.run_dir}"
    with Live(rendered(once(view), title), console=console, auto_refresh=False) as shown:
        while (view.run_dir / "board").exists():
            shown.update(rendered(once(view, 1.0), title), refresh=True)
