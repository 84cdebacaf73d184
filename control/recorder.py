"""`troupectl recorder ACTOR`: the last messages of an actor, also of one that is stuck or dead."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from rich.table import Table

from control.observe import MemberView
from kv.operations import operation_names
from transport.recorder import Kind, Record

COLUMNS = ("at", "", "peer", "type", "seq", "items", "bytes", "wait", "work", "")


def recorder(view: MemberView, name: str, last: int = 0) -> list[dict[str, Any]]:
    """Return the records of an actor's ring as rows, oldest first; only the `last` ones if > 0.

    `ts` is seconds since the epoch. `work_ns` is None for what was sent, and for a message whose
    handling has not ended: of a dead actor, the one it died in.
    """
    epoch = time.time() - time.monotonic_ns() / 1e9
    found = [row(view, record, epoch) for record in view.records(name)]
    return found[-last:] if last > 0 else found


def row(view: MemberView, record: Record, epoch: float) -> dict[str, Any]:
    """Return one record in words; `epoch` turns CLOCK_MONOTONIC into time."""
    handled = record.kind in (Kind.IN, Kind.LOCAL)
    names = view.board.names
    return {
        "number": record.number,
        "ts": round(epoch + record.time_ns / 1e9, 6),
        "direction": Kind(record.kind).name.lower(),
        "peer": names[record.peer] if record.kind != Kind.LOCAL else "",
        "type": view.type_name(record.tag),
        "sequence": record.sequence,
        "items": record.items,
        "bytes": record.size,
        "correlation": record.correlation,
        "operations": operation_names(record.operations),
        "wait_ns": record.wait_ns if record.kind == Kind.IN else None,
        "work_ns": record.work_ns if handled and record.work_ns else None,
        "unfinished": record.kind == Kind.IN and not record.work_ns,
        "incarnation": record.incarnation,
    }


def rendered(rows: list[dict[str, Any]], name: str) -> Table:
    """Return the rows for people."""
    table = Table(title=name)
    right = {"seq", "items", "bytes", "wait", "work"}
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for found in rows:
        table.add_row(
            datetime.fromtimestamp(found["ts"]).strftime("%H:%M:%S.%f"),
            found["direction"],
            found["peer"],
            found["type"],
            str(found["sequence"]) if found["peer"] else "",
            str(found["items"]) if found["peer"] else "",
            str(found["bytes"]) if found["peer"] else "",
            duration(found["wait_ns"]),
            duration(found["work_ns"]),
            "not finished" if found["unfinished"] else "",
        )
    return table


def duration(nanoseconds: int | None) -> str:
    """Return a duration as people read it: `4.1 us`, `12.0 ms`, `3.20 s`; empty for None."""
    if nanoseconds is None:
        return ""
    for size, unit, digits in ((1e9, "s", 2), (1e6, "ms", 1), (1e3, "us", 0)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.{digits}f} {unit}"
    return f"{nanoseconds} ns"
