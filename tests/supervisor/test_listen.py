"""Listening sockets on the loopback: which addresses they take and what is said when they can't."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.errors import StartError
from supervisor.listen import BoundSocket, bind_urls, listening_sockets
from supervisor.urls import Url, parse_url


@pytest.fixture
def opened() -> Iterator[list[BoundSocket]]:
    bound: list[BoundSocket] = []
    yield bound
    for entry in bound:
        entry.socket.close()


def urls(*texts: str) -> list[Url]:
    return [parse_url(text) for text in texts]


def port_of(entry: BoundSocket) -> int:
    return int(entry.address.rpartition(":")[2])


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def test_port_0_takes_a_free_port_and_accepts_connections(opened: list[BoundSocket]) -> None:
    opened += bind_urls(urls("http://127.0.0.1:0"))

    assert len(opened) == 1
    assert port_of(opened[0]) > 0
    assert connects("127.0.0.1", port_of(opened[0]))
    assert opened[0].socket.getblocking() is False


def test_http_and_https_on_one_address_share_a_socket(opened: list[BoundSocket]) -> None:
    pair = urls("http://127.0.0.1:0", "https://127.0.0.1:0")

    opened += bind_urls(pair)

    assert [entry.urls for entry in opened] == [tuple(pair)]


def test_localhost_is_both_families_on_one_port(opened: list[BoundSocket]) -> None:
    opened += bind_urls(urls("http://localhost:0"))

    assert opened[0].address.startswith("127.0.0.1:")
    assert {port_of(entry) for entry in opened} == {port_of(opened[0])}
    if len(opened) == 2:  # a machine without IPv6 has one
        assert connects("::1", port_of(opened[0]))


def test_all_addresses_are_those_of_both_families(opened: list[BoundSocket]) -> None:
    opened += bind_urls(urls("http://0.0.0.0:0"))

    assert len(opened) == 1
    assert connects("127.0.0.1", port_of(opened[0]))
    if opened[0].socket.family == socket.AF_INET6:
        assert connects("::1", port_of(opened[0]))


def test_a_taken_port_is_named_in_go_s_words_and_nothing_stays_open(
    opened: list[BoundSocket], tmp_path: Path
) -> None:
    opened += bind_urls(urls("http://127.0.0.1:0"))
    port = port_of(opened[0])
    path = tmp_path / "s"

    with pytest.raises(StartError) as caught:
        bind_urls(urls(f"unix://{path}", f"http://127.0.0.1:{port}"))

    assert str(caught.value) == f"listen tcp 127.0.0.1:{port}: bind: address already in use"
    with closing(socket.socket(socket.AF_UNIX)) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(StartError, match=r"listen tcp 192\.0\.2\.1:1: bind: cannot assign"):
        bind_urls(urls("http://192.0.2.1:1"))


def test_a_port_can_be_shared_when_both_sides_ask_for_it(opened: list[BoundSocket]) -> None:
    opened += bind_urls(urls("http://127.0.0.1:0"), reuse_port=True)
    again = urls(f"http://127.0.0.1:{port_of(opened[0])}")

    opened += bind_urls(again, reuse_port=True)

    with pytest.raises(StartError, match="address already in use"):
        bind_urls(again)


def test_a_unix_socket_from_before_is_replaced_but_a_file_is_not(
    opened: list[BoundSocket], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    listening_sockets(urls(f"unix://{path}"))[0].close()
    file = tmp_path / "file"
    file.write_text("precious")

    opened += bind_urls(urls(f"unix://{path}"))

    assert opened[0].address == str(path)
    with pytest.raises(StartError, match=r"listen unix .*file: bind: address already in use"):
        bind_urls(urls(f"unix://{file}"))
    assert file.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)

    with pytest.raises(StartError, match=r"listen unix .*: bind: invalid argument"):
        bind_urls(urls(f"unix://{path}"))
