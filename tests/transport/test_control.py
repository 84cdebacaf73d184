"""The control mailbox: answers while the actor's own thread is busy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from transport.control import ControlClient, ControlServer, ControlTimeoutError

PATIENCE_SECONDS = 10.0


@pytest.fixture
def path() -> Iterator[Path]:
    """A place for a socket, short enough."""
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as folder:
        yield Path(folder, "applier.ctl")


@pytest.fixture
def client(path: Path) -> Iterator[ControlClient]:
    """Who asks."""
    made = ControlClient(path)
    yield made
    made.close()


def refuse(_: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("dictionary changed size during iteration")


class HalfMade:
    """An actor that has not started yet."""

    index: int


def serve(path: Path) -> None:
    ControlServer(
        path,
        {
            "echo": lambda request: {"said": request["text"]},
            "refuse": refuse,
            "early": lambda _: {"index": HalfMade().index},
        },
    ).start()


def test_a_request_is_answered_by_its_handler(path: Path, client: ControlClient) -> None:
    serve(path)

    assert client.ask("echo", PATIENCE_SECONDS, text="hello") == {"said": "hello"}


def test_ping_is_built_in(path: Path, client: ControlClient) -> None:
    serve(path)

    assert client.ask("ping", PATIENCE_SECONDS) == {}


def test_an_unknown_command_is_refused(path: Path, client: ControlClient) -> None:
    serve(path)

    assert client.ask("fly", PATIENCE_SECONDS) == {"error": "unknown command 'fly'"}


def test_a_handler_that_is_disturbed_says_so_and_the_next_request_is_answered(
    path: Path, client: ControlClient
) -> None:
    serve(path)

    disturbed = client.ask("refuse", PATIENCE_SECONDS)

    assert disturbed["error"].startswith("try again")
    assert client.ask("ping", PATIENCE_SECONDS) == {}


@pytest.mark.parametrize("cmd", ["early", "echo"])
def test_a_question_that_comes_too_early_or_lacks_something_stops_nobody(
    path: Path, client: ControlClient, cmd: str
) -> None:
    serve(path)

    disturbed = client.ask(cmd, PATIENCE_SECONDS)

    assert disturbed["error"].startswith("try again")
    assert client.ask("ping", PATIENCE_SECONDS) == {}


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xff\xff", msgpack.packb([1]), msgpack.packb({})])
def test_rubbish_is_refused_and_stops_nobody(
    path: Path, client: ControlClient, body: bytes
) -> None:
    serve(path)
    rude: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    rude.connect(f"ipc://{path}")

    rude.send(body)
    assert rude.poll(int(PATIENCE_SECONDS * 1000))
    answer = msgpack.unpackb(rude.recv_multipart()[-1])
    rude.close(linger=0)

    assert answer == {"error": "not a request"}
    assert client.ask("ping", PATIENCE_SECONDS) == {}


def test_nobody_there_is_a_timeout(client: ControlClient) -> None:
    with pytest.raises(ControlTimeoutError):
        client.ask("ping", timeout=0.05)


def test_a_request_sent_before_the_server_is_there_is_answered_when_it_is(
    path: Path, client: ControlClient
) -> None:
    client.tell("ping")
    serve(path)

    assert client.ask("ping", PATIENCE_SECONDS) == {}


def test_a_successor_takes_over_the_place_of_a_dead_one(path: Path, client: ControlClient) -> None:
    path.touch()  # what a killed process leaves

    serve(path)

    assert client.ask("ping", PATIENCE_SECONDS) == {}


def test_nobody_waits_for_who_can_answer_no_more(client: ControlClient) -> None:
    lives = iter([True, True, False])

    with pytest.raises(ControlTimeoutError):
        client.ask("ping", 3600.0, may_answer=lambda: next(lives))
