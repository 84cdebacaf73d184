"""`troupectl state ACTOR`: the actor's own summary of its inner state, from its control mailbox."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from control.observe import MemberView
from control.peek import ask_actor


def state(view: MemberView, name: str) -> dict[str, Any]:
    """Return what the actor says of itself; `answers` False if it does not answer."""
    stats = ask_actor(view, name, "stats")
    return {"actor": name, "answers": stats is not None, "state": stats or {}}


def rendered(found: dict[str, Any]) -> RenderableType:
    """Return the summary for people, nested values as dotted names."""
    if not found["answers"]:
        return Text(f"{found['actor']} does not answer: frozen, dead or not up yet")
    table = Table(title=found["actor"], show_header=False)
    for name, value in flat(found["state"]):
        table.add_row(Text(name), Text(value))
    return table


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested maps and lists with dotted names."""
    if isinstance(value, dict):
        pairs = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list):
        pairs = [(str(place), one) for place, one in enumerate(value)]
    else:
        return [(prefix, str(value))]
    found: list[tuple[str, str]] = []
    for key, one in pairs:
        found += flat(one, f"{prefix}.{key}" if prefix else key)
    return found
