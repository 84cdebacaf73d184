"""`troupectl edges`: streams between actors: sent, handled, dropped, lost, requests per message."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from control.observe import EdgeSample, MemberView

INTERVAL_SECONDS: Final = 0.5
NUMBERS: Final = (
    "sent",
    "handled",
    "depth",
    "dropped",
    "lost",
    "gaps",
    "sent_bytes",
    "per_second",
    "batch_mean",
)


def edges(view: MemberView, seconds: float = INTERVAL_SECONDS) -> list[dict[str, Any]]:
    """Return a row per edge that was ever used, from two samples `seconds` apart.

    `sent` and `handled` are of the living stream; bytes, items, drops and losses of all streams.
    `per_second` messages were sent between the samples, with `batch_mean` requests in each (None
    when there were none).
    """
    before = {(edge.sender, edge.receiver): edge for edge in view.edges()}
    began = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    return [row(edge, before.get((edge.sender, edge.receiver)), elapsed) for edge in view.edges()]


def row(edge: EdgeSample, before: EdgeSample | None, elapsed: float) -> dict[str, Any]:
    """Return an edge with its rates since it was sampled `elapsed` seconds before."""
    sent = items = 0
    if before is not None and before.stream == edge.stream:
        sent, items = edge.sent - before.sent, edge.sent_items - before.sent_items
    return asdict(edge) | {
        "per_second": round(sent / elapsed, 1),
        "batch_mean": round(items / sent, 2) if sent else None,
    }


def rendered(rows: list[dict[str, Any]]) -> Table:
    """Return the rows for people."""
    table = Table()
    table.add_column("edge", no_wrap=True)
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        edge = f"{row['sender']} → {row['receiver']}"
        table.add_row(edge, *("-" if row[name] is None else str(row[name]) for name in NUMBERS))
    return table
