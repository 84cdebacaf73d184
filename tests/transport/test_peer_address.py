"""Addresses of peers: look-ups in the background, and sockets somebody else has opened."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
import zmq

from tests.supervisor.toys import eventually
from transport import peer_address
from transport.peer_address import RETRY_LOOKUP_SECONDS, Resolver, adopt


def test_a_slow_look_up_holds_up_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    asked: list[str] = []

    def look_up(host: str) -> tuple[str, ...]:
        asked.append(host)
        if host == "slow":
            assert gate.wait(10)
        return ("10.0.0.1",)

    monkeypatch.setattr(peer_address, "look_up", look_up)
    resolver = Resolver()
    for second in range(100):
        resolver.refresh("slow", second * RETRY_LOOKUP_SECONDS)
    resolver.refresh("quick", 0.0)
    gate.set()

    eventually(lambda: resolver.find("quick", 0.0) != (), "the quick one is found")
    assert asked == ["slow", "quick"]


def test_a_host_is_looked_up_again_when_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = iter(["10.0.0.1", "10.0.0.2"])
    monkeypatch.setattr(peer_address, "look_up", lambda host: (next(addresses),))
    resolver = Resolver()

    resolver.refresh("moved", 0.0)
    eventually(lambda: resolver.find("moved", 0.0) == ("10.0.0.1",), "it is found")

    def moved() -> bool:
        resolver.refresh("moved", 100.0)
        return resolver.find("moved", 100.0) == ("10.0.0.2",)

    eventually(moved, "it is found where it is now")


def test_a_socket_by_path_is_listened_at(tmp_path: Path) -> None:
    path = tmp_path / "peer"
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as puller,
        context.socket(zmq.PUSH) as pusher,
        socket.socket(socket.AF_UNIX) as opened,
    ):
        opened.bind(str(path))
        opened.listen()
        adopt(puller, [opened.detach()])

        pusher.connect(f"ipc://{path}")
        pusher.send(b"hello")

        assert puller.poll(5000)
        assert puller.recv() == b"hello"
