"""The server's edge: TLS by ALPN, the loop it runs on, and what an idle connection costs."""

from __future__ import annotations

import asyncio
import gc
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import uvloop

from api.grpc import Limits
from api.http1 import HttpRoutes, Response
from api.http2 import PREFACE
from api.server import ClientServer
from tests.api.wire import ECHO, Service, http2_frame

PATIENCE = 10.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for localhost, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [openssl, *command.split(), "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True,
        capture_output=True,
    )
    with path.open("ab") as file:
        file.write(path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """Return a loop of either kind."""
    loop: asyncio.AbstractEventLoop = request.param()
    yield loop
    loop.close()


def serve(
    loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext | None = None, **limits: float
) -> tuple[ClientServer, int]:
    """Start a server on a port of its own."""
    routes = HttpRoutes()
    routes.add("/health", lambda _: Response(200, b"ok"))
    server = ClientServer(loop, Service().methods, routes, Limits(**limits))  # type: ignore[arg-type]
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server.listen(listener, tls)
    return server, listener.getsockname()[1]


async def until_closed(server: ClientServer) -> None:
    async with asyncio.timeout(PATIENCE):
        while server.connections:
            await asyncio.sleep(0.001)


def test_alpn_decides_under_tls(loop: asyncio.AbstractEventLoop, certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    tls.set_alpn_protocols(["http/1.1", "h2"])
    server, port = serve(loop, tls)
    roots = certificate.with_suffix(".crt").read_bytes()

    def call() -> bytes:
        options = [("grpc.ssl_target_name_override", "localhost")]
        credentials = grpc.ssl_channel_credentials(roots)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            answer = channel.unary_unary(ECHO.decode())(b"x" * 100_000, timeout=PATIENCE)
        assert isinstance(answer, bytes)
        return answer

    async def both() -> bytes:
        trusting = ssl.create_default_context(cadata=roots.decode())
        trusting.set_alpn_protocols(["h2", "http/1.1"])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
        )
        writer.write(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert await asyncio.to_thread(call) == b"x" * 100_000
        await server.shutdown(PATIENCE)
        return answer

    assert loop.run_until_complete(both()).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_failed_tls_handshake_is_reported(
    loop: asyncio.AbstractEventLoop, certificate: Path
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    server, port = serve(loop, tls)
    reports: list[tuple[str, str]] = []
    server.on_rejected = lambda peer, why: reports.append((peer, why))

    async def attempt() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            while not reports:
                await asyncio.sleep(0.001)
        writer.close()
        await server.shutdown(0)

    loop.run_until_complete(attempt())

    assert server.rejected == 1
    assert reports[0][0].startswith("127.0.0.1:")


def test_a_unix_socket_is_served(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    server, _ = serve(loop)
    path = str(tmp_path / "client.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server.listen(listener)

    async def get() -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await server.shutdown(0)
        return answer

    assert loop.run_until_complete(get()).endswith(b"\r\n\r\nok")


def test_a_silent_connection_is_pinged_and_then_closed(loop: asyncio.AbstractEventLoop) -> None:
    server, port = serve(loop, keepalive_interval=0.05, keepalive_timeout=0.05)

    async def be_silent() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + http2_frame(4, 0, 0))
        data = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        await until_closed(server)
        await server.shutdown(0)
        return data

    assert http2_frame(6, 0, 0, b"trouped\0") in loop.run_until_complete(be_silent())


@pytest.mark.slow
def test_ten_thousand_idle_connections_are_cheap(loop: asyncio.AbstractEventLoop) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, (hard - 200) // 2)
    server, port = serve(loop)
    clients: list[socket.socket] = []

    async def connect() -> None:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(PREFACE + http2_frame(4, 0, 0))
            clients.append(client)
            while server.connections < len(clients):
                await asyncio.sleep(0)
        await asyncio.sleep(0.1)

    before = resident_bytes()
    loop.run_until_complete(connect())
    each = (resident_bytes() - before) / count
    print(f"{each:.0f} bytes for each of {count} idle connections", file=sys.stderr)  # noqa: T201
    for client in clients:
        client.close()
    loop.run_until_complete(server.shutdown(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert each < 20_000


def resident_bytes() -> int:
    """Return this process's resident set."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_clients_that_have_gone_before_they_are_accepted_harm_nobody(
    loop: asyncio.AbstractEventLoop,
) -> None:
    accidents: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, accident: accidents.append(accident))
    server, port = serve(loop)
    server.pause_accept()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    server.resume_accept()
    loop.run_until_complete(until(lambda: server.rejected == 20))
    gc.collect()  # a task that failed unseen is told when it is collected
    loop.run_until_complete(server.shutdown(0.0))

    assert accidents == []
    assert server.accepted == 20
    assert server.connections == 0


def test_a_server_that_may_not_accept_leaves_clients_waiting(
    loop: asyncio.AbstractEventLoop,
) -> None:
    server, port = serve(loop)
    server.may_accept = lambda connections: connections < 2

    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    loop.run_until_complete(until(lambda: server.connections == 2))
    held_back = server.accepted
    server.may_accept = None
    server.resume_accept()
    loop.run_until_complete(until(lambda: server.connections == 3))
    for client in clients:
        client.close()
    loop.run_until_complete(server.shutdown(0.0))

    assert held_back == 2


def test_a_client_left_to_others_is_taken_once_it_is_ours(loop: asyncio.AbstractEventLoop) -> None:
    server, port = serve(loop)
    asked: list[int] = []

    def is_ours(connections: int) -> bool:
        asked.append(connections)
        return len(asked) > 2

    server.may_accept = is_ours
    with socket.create_connection(("127.0.0.1", port)):
        loop.run_until_complete(until(lambda: server.connections == 1))
    loop.run_until_complete(server.shutdown(0.0))

    assert asked[:3] == [0, 0, 0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
