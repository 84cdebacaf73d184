"""`make image-test`: the image is built, and three members in real containers are broken.

Skips where there is no engine or no base image. TROUPED_TEST_IMAGE names an image to take instead
of building one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import CallError
from tests.image.engine import BASE, Containers, EngineError, build, docker, why_not

pytestmark = pytest.mark.slow
TAG = "trouped:image-test"


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Three members that are healthy."""
    image = os.environ.get("TROUPED_TEST_IMAGE", "")
    reason = why_not(image or BASE)
    if reason:
        pytest.skip(reason)
    if not image:
        image = TAG
        build(tmp_path_factory.mktemp("context"), image)
    with Containers(image) as running:
        for name in running.services:
            running.wait_for(lambda name=name: running.is_healthy(name), f"{name} is healthy")  # type: ignore[misc]
        yield running


def leader(containers: Containers, among: list[str]) -> str:
    """Return who leads, asking only some members."""
    ids = {}
    named = set()
    for name in among:
        status = containers.client(name).call(pb.StatusRequest(), pb.StatusResponse, timeout=3.0)
        ids[status.header.member_id] = name
        named.add(status.leader)
    (only,) = named
    return ids[only]


def serves(containers: Containers, name: str) -> bool:
    try:
        containers.client(name).put(b"probe", b"value", timeout=2.0)
    except (CallError, EngineError, KeyError):
        return False
    return True


def test_the_image_holds_both_commands_and_no_shell_is_needed_to_start_it(
    containers: Containers,
) -> None:
    version = docker("run", "--rm", containers.image, "--version")

    assert version.startswith("etcd Version: 3.")
    assert json.loads(containers.troupectl("m1", "tree", "--json"))["member"] == "m1"


def test_three_containers_are_one_cluster(containers: Containers) -> None:
    for number, name in enumerate(containers.services):
        containers.client(name).put(b"key", b"%d" % number)

        read = [containers.client(other).get(b"key") for other in containers.services]

        assert read == [b"%d" % number] * 3


def test_the_rest_serves_when_the_leader_is_killed_and_it_comes_back(
    containers: Containers,
) -> None:
    names = list(containers.services)
    killed = leader(containers, names)
    rest = [name for name in names if name != killed]
    docker("kill", "--signal=KILL", containers.container(killed))

    seconds = containers.wait_for(lambda: serves(containers, rest[0]), "the rest serves", 15.0)
    containers.client(rest[1]).put(b"killed", killed.encode())
    docker("start", containers.container(killed))
    containers.wait_for(lambda: containers.is_healthy(killed), "the killed one is healthy")

    sys.stderr.write(f"the rest served {seconds:.1f} s after the leader was killed\n")
    assert containers.client(killed).get(b"killed") == killed.encode()


def test_the_rest_serves_when_the_leader_is_cut_off_and_it_catches_up(
    containers: Containers,
) -> None:
    names = list(containers.services)
    cut = leader(containers, names)
    rest = [name for name in names if name != cut]
    containers.cut(cut)

    seconds = containers.wait_for(lambda: serves(containers, rest[0]), "the rest serves", 15.0)
    containers.client(rest[1]).put(b"cut", cut.encode())
    alone = containers.is_healthy(cut)
    containers.mend(cut)
    containers.wait_for(lambda: containers.is_healthy(cut), "the cut one is healthy")

    sys.stderr.write(f"the rest served {seconds:.1f} s after the leader was cut off\n")
    assert not alone
    assert containers.client(cut).get(b"cut") == cut.encode()


def test_a_container_stops_in_order_within_its_grace(containers: Containers) -> None:
    docker("stop", "--time=10", containers.container("m1"))

    state = containers.state("m1")["State"]
    docker("start", containers.container("m1"))
    containers.wait_for(lambda: containers.is_healthy("m1"), "it is healthy again")

    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
