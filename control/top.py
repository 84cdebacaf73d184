"""`troupectl top`: what every actor does now, from two samples of the board."""

from __future__ import annotations

import time
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from control.observe import MemberView, Sample
from control.recorder import duration

INTERVAL_SECONDS: Final = 0.5
WIDE: Final = 150
"""From so many characters on there is room for all columns."""
COLUMNS: Final = (
    ("actor", "left", True),
    ("state", "left", True),
    ("pid", "right", True),
    ("inc", "right", False),
    ("restarts", "right", True),
    ("mailbox", "right", True),
    ("oldest", "right", False),
    ("in/s", "right", True),
    ("out/s", "right", False),
    ("batch", "right", False),
    ("wait p50", "right", False),
    ("wait p99", "right", False),
    ("work p50", "right", False),
    ("work p99", "right", False),
    ("flush p99", "right", False),
    ("busy %", "right", False),
    ("cpu %", "right", True),
    ("PSS MiB", "right", True),
    ("dropped", "right", False),
    ("lost", "right", False),
    ("expired", "right", False),
    ("doing", "left", True),
)
"""Name, side, and whether it is shown in a narrow window too."""


def samples(view: MemberView) -> dict[str, Sample]:
    """Look at all actors, without their memory."""
    return {name: view.sample(name) for name in view.actors()}


def rates(view: MemberView, before: dict[str, Sample], seconds: float) -> list[dict[str, Any]]:
    """Return a row per actor: what has changed since `before`, `seconds` ago."""
    return [
        row(view.sample(name, memory=True), before[name], seconds)
        for name in view.actors()
        if name in before
    ]


def row(now: Sample, then: Sample, seconds: float) -> dict[str, Any]:
    """Return what an actor did between two samples.

    `handled_per_second` counts messages from other actors, `batch_mean` the requests in one of
    them; a restart in between counts as 0. `cpu` and `busy` are fractions of one core; `busy` is
    the time inside handlers. Quantiles are of the time between the samples, None without messages.
    """
    same = now.pid == then.pid
    handled = max(0, now.handled - then.handled)
    items = max(0, now.handled_items - then.handled_items)
    wait, work = now.wait.since(then.wait), now.work.since(then.work)
    busy = max(0, now.busy_ns - then.busy_ns) / 1e9 / seconds
    return {
        "name": now.name,
        "state": now.state,
        "pid": now.pid,
        "incarnation": now.incarnation,
        "restarts": now.restarts,
        "mailbox_depth": now.depth,
        "oldest_seconds": round(now.oldest_seconds, 4),
        "handled_per_second": round(handled / seconds, 1),
        "sent_per_second": round(max(0, now.sent - then.sent) / seconds, 1),
        "batch_mean": round(items / handled, 2) if handled else 0.0,
        "wait_p50_ns": wait.quantile(0.5),
        "wait_p99_ns": wait.quantile(0.99),
        "work_p50_ns": work.quantile(0.5),
        "work_p99_ns": work.quantile(0.99),
        "flush_p99_ns": now.flush.since(then.flush).quantile(0.99),
        "busy": round(busy, 3),
        "cpu": round((now.cpu_seconds - then.cpu_seconds) / seconds, 3) if same else 0.0,
        "pss_bytes": now.pss_bytes,
        "dropped": now.dropped,
        "lost": now.lost,
        "expired": now.expired,
        "doing": now.doing,
        "doing_seconds": round(now.doing_seconds, 4),
    }


def once(view: MemberView, seconds: float = INTERVAL_SECONDS) -> list[dict[str, Any]]:
    """Sample twice, `seconds` apart."""
    before, began = samples(view), time.monotonic()
    time.sleep(seconds)
    return rates(view, before, time.monotonic() - began)


def rendered(rows: list[dict[str, Any]], title: str, width: int = WIDE) -> Table:
    """Return the rows for people; a `width` below WIDE leaves columns out."""
    shown = [place for place, (_, _, always) in enumerate(COLUMNS) if always or width >= WIDE]
    # Without frame and padding all of a narrow table's columns fit into 80 characters.
    table = (
        Table(title=title) if width >= WIDE else Table(title=title, box=None, padding=(0, 1, 0, 0))
    )
    for place in shown:
        name, justify, _ = COLUMNS[place]
        table.add_column(name, justify="left" if justify == "left" else "right", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[place] for place in shown))
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row's texts in the order of COLUMNS."""
    doing = f"{row['doing']} {row['doing_seconds'] * 1000:.1f} ms" if row["doing"] else ""
    oldest = duration(round(row["oldest_seconds"] * 1e9)) if row["oldest_seconds"] else ""
    return (
        row["name"],
        row["state"],
        str(row["pid"]),
        str(row["incarnation"]),
        str(row["restarts"]),
        str(row["mailbox_depth"]),
        oldest,
        f"{row['handled_per_second']:.0f}",
        f"{row['sent_per_second']:.0f}",
        f"{row['batch_mean']:.1f}",
        duration(row["wait_p50_ns"]),
        duration(row["wait_p99_ns"]),
        duration(row["work_p50_ns"]),
        duration(row["work_p99_ns"]),
        duration(row["flush_p99_ns"]),
        f"{row['busy'] * 100:.0f}",
        f"{row['cpu'] * 100:.0f}",
        f"{row['pss_bytes'] / 2**20:.1f}" if row["pss_bytes"] >= 0 else "?",
        str(row["dropped"]),
        str(row["lost"]),
        str(row["expired"]),
        doing,
    )


def live(view: MemberView, console: Console) -> None:
    """Show the table until interrupted, or until the member has ended."""
    title = f"{view.info['name']}  {view.run_dir}"
    with Live(
        rendered(once(view), title, console.width), console=console, auto_refresh=False
    ) as shown:
        while (view.run_dir / "board").exists():
            shown.update(rendered(once(view, 1.0), title, console.width), refresh=True)
