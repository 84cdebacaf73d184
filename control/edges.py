"""`troupectl edges`: streams between actors: sent, handled, dropped, lost, requests per message."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from control.observe import MemberView

NUMBERS = ("sent", "handled", "depth", "dropped", "lost", "gaps", "batch_mean", "sent_bytes")


def edges(view: MemberView) -> list[dict[str, Any]]:
    """Return a row per edge that was ever used.

    `sent` and `handled` are of the living stream; bytes, items, drops and losses of all streams.
    `batch_mean` is requests per message of the living stream, as far as they are its own.
    """
    return [
        asdict(edge) | {"batch_mean": round(edge.sent_items / edge.sent, 2) if edge.sent else 0.0}
        for edge in view.edges()
    ]


def rendered(rows: list[dict[str, Any]]) -> Table:
    """Return the rows for people."""
    table = Table()
    table.add_column("edge", no_wrap=True)
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        edge = f"{row['sender']} → {row['receiver']}"
        table.add_row(edge, *(str(row[name]) for name in NUMBERS))
    return table
