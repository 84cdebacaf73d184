"""Several gateways on one listening socket share its clients, and count for the whole member."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.metrics import GatewayMetric
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from transport.counters import Board, Cell

pytestmark = pytest.mark.e2e

CONNECTIONS = 100
PATIENCE_SECONDS = 10.0


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A member with two gateways."""
    with Member(tmp_path_factory.mktemp("m"), flags=["--gateways=2"]) as running:
        if not running.is_trouped:
            pytest.skip("only trouped has gateways")
        yield running


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def board_of(member: Member) -> Board:
    return Board(Path((member.data_dir / "member" / "run").read_text().strip()) / "board")


def connections(member: Member) -> list[int]:
    """Return what each gateway says of its clients."""
    board = board_of(member)
    return [board.get(f"gateway-{slot}", Cell.CONNECTIONS) for slot in range(2)]


def serving(member: Member) -> bool:
    """Tell whether every gateway serves; a member answers as soon as one of them does."""
    board = board_of(member)
    ready = Cell.METRICS + GatewayMetric.READY
    return all(board.get(f"gateway-{slot}", ready) for slot in range(2))


def connect(member: Member, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", member.client_port)) for _ in range(count)]


def metric(member: Member, name: str) -> float:
    """Return the sum of all samples of a name, from whichever gateway answers."""
    with urllib.request.urlopen(f"{member.url}/metrics", timeout=PATIENCE_SECONDS) as page:
        text = page.read().decode()
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)
    return sum(map(float, found))


def calls_handled(member: Member) -> float:
    return metric(member, "grpc_server_handled_total")


def test_a_hundred_connections_are_shared_by_both_gateways(member: Member) -> None:
    eventually(lambda: serving(member), "both gateways serve")
    eventually(lambda: sum(connections(member)) == 0, "nobody is connected yet")
    time.sleep(0.2)  # each has seen the other on the board

    clients = connect(member, CONNECTIONS)
    eventually(lambda: sum(connections(member)) == CONNECTIONS, "all are accepted")
    shared = connections(member)
    for client in clients:
        client.close()

    assert min(shared) >= CONNECTIONS * 0.3, shared
    eventually(lambda: sum(connections(member)) == 0, "all have gone")


def test_whichever_gateway_is_asked_the_counters_are_the_members(member: Member) -> None:
    before = calls_handled(member)

    for number in range(20):
        with Client(member.endpoint) as client:  # each on a connection of its own
            client.put(b"key", b"%d" % number)
    eventually(lambda: calls_handled(member) == before + 20, "all have told the board")

    assert [calls_handled(member) for _ in range(10)] == [before + 20] * 10
    assert metric(member, "etcd_mvcc_put_total") == 20
    received = "etcd_network_client_grpc_received_bytes_total"
    eventually(lambda: metric(member, received) > 20 * 20, "all have told their bytes")


def test_nobody_waits_long_for_a_killed_gateway_that_had_fewer_clients(member: Member) -> None:
    held = connect(member, 20)
    eventually(lambda: sum(connections(member)) >= 20, "all are accepted")
    fuller = max(range(2), key=lambda slot: connections(member)[slot])
    os.kill(member.actors()[f"gateway-{1 - fuller}"], signal.SIGKILL)

    began = time.monotonic()
    for _ in range(10):
        with Client(member.endpoint) as client:
            assert client.answer(pb.RangeRequest(key=b"key"), wait=True).ok
    took = time.monotonic() - began
    for client_socket in held:
        client_socket.close()

    assert took < PATIENCE_SECONDS / 2
