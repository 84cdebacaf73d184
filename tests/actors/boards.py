"""A board and contexts for actors on a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transport.context import ActorContext
from transport.counters import Board, Cell, State

NAMES = [
    "root", "transport", "applier", "raft-node", "lessor", "compactor", "snapshotter",
    "gateway-0", "gateway-1",
]  # fmt: skip


def make_board(folder: Path) -> Board:
    """Make a member's board in which all actors run."""
    board = Board(folder / "board", create=NAMES)
    for name in NAMES:
        board.set(name, Cell.PID, 1)
        board.set(name, Cell.INCARNATION, 1)
        board.set(name, Cell.STATE, State.RUNNING)
    return board


def context(folder: Path, name: str, config: dict[str, Any], incarnation: int = 1) -> ActorContext:
    """Return the context of an actor whose run and data directory is `folder`."""
    return ActorContext(
        name=name,
        module="",
        incarnation=incarnation,
        run_dir=folder,
        data_dir=folder,
        member_name="m1",
        config=config,
        sockets={},
        lock_fd=-1,
        log_fd=2,
        root_pid=0,
    )
