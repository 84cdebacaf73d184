"""Clusters for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.cluster_faults.timing import FAST


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members for a whole module; a test takes them as it finds them (see `cluster`)."""
    with Cluster(tmp_path_factory.mktemp("cluster"), flags=FAST) as running:
        yield running


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """The module's cluster with every member running and a leader."""
    shared.spawn()
    shared.wait_ready()
    shared.leader()
    return shared
