"""Clusters driven step by step: golden scripts of ours and, if at hand, etcd-io/raft's own.

The latter are compared to the letter, traces and all, so our node takes the same steps in the
same order for the same reasons. For each of them there is one of ours, in `interaction`, that
drives the same scenario with fewer words and must end in the same state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raft.size import NO_LIMIT
from tests import datadriven
from tests.raft.interaction import Environment
from tests.raft.testdata import OURS, THEIRS, ours, upstream

SCENARIOS = 28


@pytest.mark.parametrize("path", ours() + ours("interaction"))
def test_scenarios(path: Path, rewrite: bool) -> None:
    datadriven.run(path, Environment().handle, rewrite=rewrite)


@pytest.mark.parametrize("path", upstream("interaction"))
def test_scenarios_agree_with_etcd_raft(path: Path) -> None:
    datadriven.run(path, Environment().handle)


def state_at_the_end(path: Path) -> dict[int, dict[str, Any]]:
    """Run a script and return what became of each member."""
    environment = Environment()
    for block in datadriven.blocks(path.read_text()):
        if block.command is not None:
            environment.handle(block.command)
    found = {}
    for id_, member in environment.members.items():
        status, log = member.node.status(), member.node.raft.log
        found[id_] = {
            "term": status.term,
            "vote": member.node.raft.vote,
            "role": str(status.raft_state),
            "leader": status.lead,
            "marks": (log.applied, log.committed, log.first_index(), log.last_index()),
            "log": log.entries(log.first_index(), NO_LIMIT),
            "on disk": (member.storage.first_index(), member.storage.last_index()),
            "configuration": str(status.config),
            "progress": {other: str(progress) for other, progress in status.progress.items()},
        }
    return found


@pytest.mark.parametrize("path", ours("interaction"))
def test_our_scenarios_end_as_those_of_etcd_raft(path: Path) -> None:
    theirs = THEIRS / "interaction" / path.name
    if not theirs.exists():
        pytest.skip("TROUPED_RAFT_TESTDATA names no etcd-io/raft scripts")

    state = state_at_the_end(path)

    assert state == state_at_the_end(theirs)
    assert any(member["log"] for member in state.values())


def test_there_is_a_scenario_of_ours_for_each_of_etcd_raft() -> None:
    names = {path.name for path in datadriven.scripts(OURS / "interaction")}

    assert len(names) == SCENARIOS
    assert {path.name for path in datadriven.scripts(THEIRS / "interaction")} <= names
