"""Where golden scripts are: ours, and those of etcd-io/raft if they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import datadriven

_ROOT = Path(__file__).parents[2]
OURS = _ROOT / "tests" / "testdata" / "raft"
THEIRS = Path(os.environ.get("TROUPED_RAFT_TESTDATA", _ROOT.parent / "shared" / "raft-testdata"))


def upstream(folder: str) -> list[object]:
    """Return the scripts of etcd-io/raft as test parameters, or one that is skipped."""
    found = datadriven.scripts(THEIRS / folder)
    if not found:
        skip = pytest.mark.skip(reason="TROUPED_RAFT_TESTDATA names no etcd-io/raft scripts")
        return [pytest.param(THEIRS / folder, marks=skip, id="absent")]
    return [pytest.param(path, id=path.stem) for path in found]


def ours(folder: str = "") -> list[object]:
    """Return our own scripts as test parameters."""
    return [pytest.param(path, id=path.stem) for path in datadriven.scripts(OURS / folder)]
