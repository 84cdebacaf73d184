"""What a member tells the init daemon, through a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.metrics import GatewayMetric
from supervisor.init_daemon import InitDaemon
from supervisor.logs import LogSink
from tests.member import Member
from transport.counters import Board, Cell


@pytest.fixture(params=["path", "abstract"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET's value and the socket that hears, of either kind."""
    name = str(tmp_path / "notify")
    if len(name) > 100:
        pytest.skip("too long a path for a socket")
    value = name if request.param == "path" else f"@trouped{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(value.replace("@", "\0", 1))
        hears.settimeout(10)
        yield value, hears


def test_the_init_daemon_hears_when_a_member_serves_and_when_it_stops(
    daemon: tuple[str, socket.socket], tmp_path: Path
) -> None:
    address, hears = daemon

    with Member(tmp_path / "m", environ={"NOTIFY_SOCKET": address}) as member:
        ready = hears.recv(100)
        member.terminate()
        stopping = hears.recv(100)
    log = member.log

    assert (ready, stopping) == (b"READY=1", b"STOPPING=1")
    hears.setblocking(False)
    with pytest.raises(BlockingIOError):
        hears.recv(100)
    assert log.index("ready to serve client requests") < log.index("received signal")


def init_daemon(tmp_path: Path, address: str) -> tuple[InitDaemon, Board, Path]:
    board = Board(tmp_path / "board", create=["root", "gateway-0"])
    log = tmp_path / "log"
    sink = LogSink(level="info", log_format="json", outputs=(str(log),))
    return InitDaemon(address, board, sink), board, log


def test_nobody_is_told_before_a_gateway_serves(
    daemon: tuple[str, socket.socket], tmp_path: Path
) -> None:
    address, hears = daemon
    told, board, _ = init_daemon(tmp_path, address)
    hears.setblocking(False)

    told.look()
    with pytest.raises(BlockingIOError):
        hears.recv(100)
    board.set("gateway-0", Cell.METRICS + GatewayMetric.READY, 1)
    told.look()
    told.look()

    assert hears.recv(100) == b"READY=1"
    with pytest.raises(BlockingIOError):
        hears.recv(100)


def test_an_init_daemon_that_is_not_there_is_one_line_of_the_log(tmp_path: Path) -> None:
    told, board, log = init_daemon(tmp_path, str(tmp_path / "nobody"))
    board.set("gateway-0", Cell.METRICS + GatewayMetric.READY, 1)

    told.look()
    told.look()

    assert log.read_text().count("failed to notify init daemon") == 1


def test_without_an_address_nothing_is_told(tmp_path: Path) -> None:
    told, board, log = init_daemon(tmp_path, "")
    board.set("gateway-0", Cell.METRICS + GatewayMetric.READY, 1)

    told.look()
    told.stopping()

    assert log.read_text() == ""
