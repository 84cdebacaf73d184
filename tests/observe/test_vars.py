"""`/debug/vars` while the raft node is in every state that it can be asked in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from actors.debug_vars import expvars
from control.observe import ObserveError
from tests.observe.desk import Paper
from transport.control import ControlServer
from transport.counters import Cell


def test_a_raft_node_that_only_starts_is_told_of_as_one_that_does_not_answer(
    tmp_path: Path,
) -> None:
    paper, stats = Paper(tmp_path), dict[str, Any]()
    for name in ("root", "raft-node"):
        paper.board.set(name, Cell.PID, os.getpid())
    with pytest.raises(ObserveError):
        expvars(paper.view())  # nobody listens yet

    ControlServer(
        tmp_path / "raft-node.ctl", {"stats": lambda _: {"status": stats["made"]}}
    ).start()
    with pytest.raises(ObserveError):
        expvars(paper.view())  # it has no core yet
    stats["made"] = {"term": 5}

    assert expvars(paper.view())["raft.status"] == {"term": 5}
