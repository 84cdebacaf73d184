"""The isolation matrix: every actor and every fault, and what clients of a member notice.

    python -m tests.isolation.matrix [--only applier] [--faults kill,hog] [--short] [--update]

Runs on a member of its own and prints a line for each run of a cell, then the table. All of it goes
into docs/isolation.md, with the date and the commit; with `--update` a part takes the place of the
same rows there, with a date and a commit of its own. Exit code 1 if a cell is not what
tests.isolation.declared says, in two of three runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from etcdpb import rpc_pb2 as pb
from storage.files import SCALE_VARIABLE
from tests.client import Client
from tests.isolation.declared import (
    ALL,
    ENDING,
    SMALL_FILES,
    all_rows,
)
from tests.isolation.matrix_cell import ORDERS, Cell
from tests.isolation.matrix_load import Load
from tests.isolation.matrix_table import GUIDE, document, table, update
from tests.member import Member

RUNS: Final = 3
CALM_SECONDS: Final = 0.3
SETTLE_SECONDS: Final = 0.2
SCALE: Final = "128"
"""Where files are small: the database's log begins anew after 2 MiB, not 256."""
END_SECONDS: Final = 60.0
SHORT: Final = (
    *((actor, "kill") for actor in ("gateway-0", "raft-node", "applier", "lessor")),
    ("raft-node", "fsync-fail"),
)
"""The cells of the quick form."""


def cells(only: str = "", faults: str = "") -> list[tuple[str, str]]:
    """Return the rows of an actor and of faults, or all; see all_rows."""
    chosen = faults.split(",") if faults else ()
    return [row for row in all_rows() if only in ("", row[0]) and (not chosen or row[1] in chosen)]


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
    if (actor, fault) in ENDING:
        assert member.process is not None
        cell.exit_code = member.process.wait(END_SECONDS)
        member.restart()
    time.sleep(order.seconds + SETTLE_SECONDS)
    healthy = load.wait_healthy(time.monotonic())
    for subject in ALL:
        cell.added[subject], cell.errors[subject] = load.added(subject, moment)
        if not healthy and not cell.errors[subject]:
            cell.errors[subject] = {"not well again"}
    cell.elections = _term(member) - term
    cell.data = load.data_error() if healthy else "not well again"
    return cell


def _term(member: Member) -> int:
    with Client(member.endpoint) as client:
        return client.call(pb.StatusRequest(), pb.StatusResponse).raftTerm


def measure_all(
    folder: Path,
    rows: Sequence[tuple[str, str]],
    runs: int,
    told: Callable[[Cell], None],
    *,
    believing: bool = False,
) -> list[Cell]:
    """Measure rows, all of them once, then all whose runs do not decide yet.

    On one member, and what needs small files on another after it. More than half of `runs` must
    agree; whoever is `believing` takes one good run for an answer. Returns of each row the run that
    speaks for it.
    """
    tried: dict[tuple[str, str], list[Cell]] = {row: [] for row in rows}
    for name, environ, own in (
        ("m", {}, [row for row in rows if row not in SMALL_FILES]),
        ("small", {SCALE_VARIABLE: SCALE}, [row for row in rows if row in SMALL_FILES]),
    ):
        if not own:
            continue
        flags = ["--enable-faults", "--gateways=1"]
        made = Member(folder / name, flags=flags, environ=environ)
        with made as member, Load(member.endpoint) as load:
            while open_rows := [row for row in own if not _decided(tried[row], runs, believing)]:
                for actor, fault in open_rows:
                    cell = measure(member, load, actor, fault)
                    tried[actor, fault].append(cell)
                    told(cell)
    return [spokesman(tried[row]) for row in rows]


def _decided(tried: Sequence[Cell], runs: int, believing: bool) -> bool:
    good = sum(not cell.wrong() for cell in tried)
    if believing and good == len(tried) == 1:
        return True
    return len(tried) == runs or max(good, len(tried) - good) > runs // 2


def spokesman(tried: Sequence[Cell]) -> Cell:
    """Return the last of the runs that most of the others are like."""
    good = [cell for cell in tried if not cell.wrong()]
    bad = [cell for cell in tried if cell.wrong()]
    return good[-1] if len(good) > len(bad) else bad[-1]


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write the document."""
    parser = argparse.ArgumentParser(prog="python -m tests.isolation.matrix")
    parser.add_argument("--runs", type=int, default=RUNS, help="more than half of them decide")
    parser.add_argument("--only", default="", metavar="ACTOR")
    parser.add_argument("--faults", default="", metavar="FAULT,FAULT")
    parser.add_argument("--short", action="store_true", help="the cells of the quick form")
    parser.add_argument("--update", action="store_true", help=f"put the rows into {GUIDE.name}")
    arguments = parser.parse_args(argv)
    rows = cells(arguments.only, arguments.faults)
    if arguments.short:
        rows = [row for row in SHORT if row in rows]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trouped-matrix-") as folder:
        found = measure_all(Path(folder), rows, arguments.runs, tell, believing=arguments.short)
    print(f"\n{table(found)}\n{time.monotonic() - began:.0f} s")  # noqa: T201
    if rows == cells():
        document(found, GUIDE)
    elif arguments.update:
        update(found, GUIDE, arguments.faults or arguments.only)
    return int(any(cell.wrong() for cell in found))


def tell(cell: Cell) -> None:
    """Print what one run of a cell has found."""
    shown = "  ".join(
        "errors" if cell.errors[subject] else f"{cell.added[subject]:6.2f}" for subject in ALL
    )
    ended = "" if cell.exit_code is None else f"exit code {cell.exit_code}, "
    wrong = "; ".join(cell.wrong()) or "as declared"
    print(f"{cell.actor:12} {cell.fault:10} {shown}  {ended}{wrong}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
