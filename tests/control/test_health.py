"""`troupectl health` against a server that answers what a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.health import health

Serve = Callable[[socket.socket, bytes], list[bytes]]
HEALTHY = b'{"health":"true","reason":""}'
SICK = b'{"health":"false","reason":"RAFT NO LEADER"}'


def response(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer one connection with given bytes; the list gets the request's first line."""
    threads: list[threading.Thread] = []

    def begin(listener: socket.socket, answer: bytes) -> list[bytes]:
        asked: list[bytes] = []

        def answer_one() -> None:
            with listener:
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(4096).split(b"\r\n")[0])
                    connection.sendall(answer)

        threads.append(threading.Thread(target=answer_one, daemon=True))
        threads[-1].start()
        return asked

    yield begin
    for thread in threads:
        thread.join(10)


def tcp() -> tuple[socket.socket, int]:
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


def closed_port() -> int:
    listener, port = tcp()
    listener.close()
    return port


def test_a_member_that_says_true_is_healthy(serve: Serve) -> None:
    listener, port = tcp()
    asked = serve(listener, response(HEALTHY))

    found = health([f"http://127.0.0.1:{port}"])

    assert found["healthy"] is True
    assert asked == [b"GET /health HTTP/1.1"]


def test_a_member_that_says_false_is_not_and_the_reason_is_told(serve: Serve) -> None:
    listener, port = tcp()
    serve(listener, response(SICK, b"503 Service Unavailable"))

    found = health([f"http://127.0.0.1:{port}"])

    assert (found["healthy"], found["reason"]) == (False, "RAFT NO LEADER")


def test_serializable_asks_this_member_alone(serve: Serve) -> None:
    listener, port = tcp()
    asked = serve(listener, response(HEALTHY))

    health([f"http://127.0.0.1:{port}"], serializable=True)

    assert asked == [b"GET /health?serializable=true HTTP/1.1"]


def test_a_unix_socket_is_asked_as_well(serve: Serve, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    serve(listener, response(HEALTHY))

    assert health([f"unix://{tmp_path}/s"])["healthy"] is True


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "[::]"])
def test_a_wildcard_address_is_asked_on_loopback(serve: Serve, wildcard: str) -> None:
    listener, port = tcp()  # there is no IPv6 in many a container
    serve(listener, response(HEALTHY))

    assert health([f"http://{wildcard}:{port}"])["healthy"] is True


def test_the_next_url_is_asked_when_one_does_not_answer(serve: Serve) -> None:
    listener, port = tcp()
    serve(listener, response(HEALTHY))

    found = health([f"http://127.0.0.1:{closed_port()}", f"http://127.0.0.1:{port}"])

    assert found["url"] == f"http://127.0.0.1:{port}"
    assert found["healthy"] is True


def test_nobody_there_is_unhealthy() -> None:
    found = health([f"http://127.0.0.1:{closed_port()}"])

    assert found["healthy"] is False
    assert "refused" in found["reason"]


def test_one_who_accepts_and_says_nothing_is_unhealthy_in_time() -> None:
    listener, port = tcp()
    with listener:
        found = health([f"http://127.0.0.1:{port}"], timeout=0.1)

    assert (found["healthy"], "timed out" in found["reason"]) == (False, True)


@pytest.mark.parametrize("body", [b"", b"404", b"[]", b"{}", b"null", b"\xff"])
def test_an_answer_that_is_none_is_unhealthy(serve: Serve, body: bytes) -> None:
    listener, port = tcp()
    serve(listener, response(body))

    found = health([f"http://127.0.0.1:{port}"])

    assert (found["healthy"], found["reason"].startswith("not an answer")) == (False, True)


def test_a_member_without_client_urls_is_unhealthy() -> None:
    assert health([])["reason"] == "the member serves no client URL"
