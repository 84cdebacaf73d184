"""Clusters driven step by step: golden scripts of ours and, if at hand, etcd-io/raft's own.

The latter are compared to the letter, traces and all, so our node takes the same steps in the
same order for the same reasons.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import datadriven
from tests.raft.interaction import Environment
from tests.raft.testdata import ours, upstream


@pytest.mark.parametrize("path", ours())
def test_scenarios(path: Path, rewrite: bool) -> None:
    datadriven.run(path, Environment().handle, rewrite=rewrite)


@pytest.mark.parametrize("path", upstream("interaction"))
def test_scenarios_agree_with_etcd_raft(path: Path) -> None:
    datadriven.run(path, Environment().handle)
