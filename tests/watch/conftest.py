"""One member for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.member import Member
from tests.watch.streams import Watches


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("watch")) as running:
        yield running


@pytest.fixture
def client(member: Member) -> Iterator[Client]:
    with Client(member.endpoint) as connected:
        yield connected


@pytest.fixture
def watches(member: Member) -> Iterator[Watches]:
    with Watches(member.endpoint) as connected:
        yield connected
