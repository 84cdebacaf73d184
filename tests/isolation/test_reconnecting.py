"""Whoever reconnects while there is no gateway is let in: root keeps the listening socket."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.member import Member
from tests.supervisor.toys import eventually
from transport.counters import Cell, State

pytestmark = pytest.mark.e2e
GATEWAY = "gateway-0"
KILLS = 8  # of the 20 in 30 s that its supervisor allows
REQUEST = b"GET /health HTTP/1.1\r\nHost: member\r\nConnection: close\r\n\r\n"


class Connecting:
    """Connects as fast as it can, and asks nothing."""

    def __init__(self, member: Member) -> None:
        host, port = member.endpoint.rsplit(":", 1)
        self.address = host, int(port)
        self.board = member.view.board
        self.connected = 0
        self.without_gateway = 0
        self.refused: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def living(self) -> bool:
        """Whether there is a gateway that serves."""
        return (
            self.board.get(GATEWAY, Cell.PID) != 0
            and self.board.get(GATEWAY, Cell.STATE) == State.RUNNING
        )

    def _run(self) -> None:
        while not self._over.is_set():
            absent = not self.living()
            try:
                socket.create_connection(self.address, timeout=5.0).close()
            except OSError as error:
                self.refused.append(str(error))
            else:
                self.connected += 1
                self.without_gateway += absent and not self.living()

    def go_on(self, after: int) -> None:
        """Wait until a later incarnation of the gateway serves, and connections went on."""
        enough = self.connected + 10

        def do() -> bool:
            later = self.board.get(GATEWAY, Cell.INCARNATION) > after
            return later and self.living() and self.connected >= enough

        eventually(do, "the gateway is back, and connections go on")

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Connect for the length of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()


def test_a_connection_is_never_refused_while_the_only_gateway_is_killed_again_and_again(
    tmp_path: Path,
) -> None:
    with Member(tmp_path, flags=["--gateways=1"]) as member:
        clients = Connecting(member)
        with clients.begun():
            for incarnation in range(1, KILLS + 1):
                os.kill(member.actors()[GATEWAY], signal.SIGKILL)
                clients.go_on(after=incarnation)

    assert clients.refused == []
    assert clients.without_gateway > 0
    assert clients.connected >= 10 * KILLS


def test_who_connected_while_there_was_no_gateway_is_answered_by_the_next(tmp_path: Path) -> None:
    with Member(tmp_path, flags=["--gateways=1"]) as member:
        clients = Connecting(member)
        os.kill(member.actors()[GATEWAY], signal.SIGSTOP)  # so that it takes nobody in
        with socket.create_connection(clients.address, timeout=10.0) as early:
            early.sendall(REQUEST)
            os.kill(member.actors()[GATEWAY], signal.SIGKILL)

            answer = early.makefile("rb").readline()

    assert answer.startswith(b"HTTP/1.1 ")
