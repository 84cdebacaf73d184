"""The pytest plugin: fixtures for tests that isolate an actor, or break a member or a cluster.

    isolated_actor   a function: `isolated_actor("applier", flags=[...], have={...}, source=...)`
                     starts that actor alone and returns a supervisor.isolated.IsolatedActor
    member           a running pytest_trouped.member.Member, with --enable-faults
    cluster          a running pytest_trouped.cluster.Cluster of three such members
    member_client    a client of `member` that retries nothing

`@pytest.mark.trouped(flags=["--gateways=2"], size=5)` gives members further flags, and clusters
another size. All of it lives on loopback, below the test's tmp_path, and ends with the test. When a
test fails the ends of the logs are in its report.

Whatever is heavy is imported when a fixture is used: the plugin is loaded by every pytest of the
environment it is installed in.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from pytest_trouped.client import Client
    from pytest_trouped.cluster import Cluster
    from pytest_trouped.member import Member
    from supervisor.isolated import IsolatedActor

Logs = list[tuple[str, Callable[[], str]]]
LOGS = pytest.StashKey[Logs]()
"""What may be shown of a test that fails: (title, log)."""


class IsolatedActors(Protocol):
    """What the fixture `isolated_actor` is."""

    def __call__(
        self,
        name: str,
        *,
        source: Path | None = None,
        flags: Sequence[str] = (),
        have: Mapping[str, int] | None = None,
        info: Mapping[str, list[int]] | None = None,
    ) -> IsolatedActor:
        """Start an actor alone; see supervisor.isolated.IsolatedActor."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "trouped(flags, size): flags of members, and how many a cluster has"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of a test that has failed."""
    report = yield
    if report.failed:
        report.sections += [(title, log()) for title, log in item.stash.get(LOGS, [])]
    return report


@pytest.fixture
def isolated_actor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IsolatedActors]:
    """Start single actors between scripted neighbours; all are killed after the test."""
    from supervisor.isolated import IsolatedActor

    started: list[IsolatedActor] = []

    def start(name: str, **arguments: Any) -> IsolatedActor:
        folder = tmp_path / f"{name}-{len(started) + 1}"
        actor = IsolatedActor(name, folder, **arguments)
        started.append(actor)
        _note(request, f"log of {folder.name}", actor.log)
        return actor.start()

    yield start
    for actor in started:
        actor.close()


@pytest.fixture
def member(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Member]:
    """A running member that may be broken."""
    from pytest_trouped.member import Member

    with Member(tmp_path / "member", flags=_flags(request)) as started:
        _note(request, "log of the member", lambda: _end(started.log))
        yield started


@pytest.fixture
def member_client(member: Member) -> Iterator[Client]:
    """A connection to `member`."""
    from pytest_trouped.client import Client

    with Client(member.endpoint) as client:
        yield client


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster that may be broken."""
    from pytest_trouped.cluster import Cluster

    size = int(_marked(request).get("size", 3))
    with Cluster(tmp_path / "cluster", size, flags=_flags(request)) as started:
        _note(request, "logs of the cluster", started.log_ends)
        yield started


def _note(request: pytest.FixtureRequest, title: str, log: Callable[[], str]) -> None:
    request.node.stash.setdefault(LOGS, []).append((title, log))


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for mark in request.node.iter_markers("trouped"):
        found = {**mark.kwargs, **found}  # the closest one first
    return found


def _flags(request: pytest.FixtureRequest) -> list[str]:
    return ["--enable-faults", *_marked(request).get("flags", ())]


def _end(log: str, lines: int = 30) -> str:
    return "\n".join(log.splitlines()[-lines:])
