"""A real server on loopback, with grpcio, sockets and TLS-less HTTP/1.1 as its clients."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import grpc
import pytest
from ngh2 import ErrorCode

from api.grpc import Call, Limits, Method
from api.http1 import HttpRoutes, Response
from api.http2 import PREFACE
from api.server import ClientServer
from tests.api.test_http2 import last_goaway
from tests.api.wire import ECHO, LATER, LIST, STREAM, Service, http2_frame

T = TypeVar("T")
PATIENCE = 10.0


class Running:
    """A server in a thread of its own; what touches it is run there."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.service = Service()
        self.loop = asyncio.new_event_loop()
        self.failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))
        routes = HttpRoutes()
        routes.add("/health", lambda _: Response(200, b'{"health":"true"}', "application/json"))
        self.server = ClientServer(self.loop, self.service.methods, routes, limits or Limits())
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = listener.getsockname()[1]
        self.server.listen(listener)
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.channels: list[grpc.Channel] = []

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        alone = ("grpc.use_local_subchannel_pool", 1)
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[alone, *options])
        self.channels.append(channel)
        return channel

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def do(self, action: Callable[[], T]) -> T:
        """Run an action in the server's thread."""

        async def act() -> T:
            return action()

        return self.wait(act())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true in the server's thread."""

        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        self.wait(asyncio.wait_for(poll(), PATIENCE))

    def stop(self) -> None:
        for channel in self.channels:
            channel.close()
        if not self.server.draining:
            self.wait(self.server.shutdown(0.0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()
        assert not self.failures, self.failures


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start servers with the limits a test wants; they are stopped after it."""
    started: list[Running] = []

    def begin(**limits: Any) -> Running:
        running = Running(Limits(**limits))
        started.append(running)
        return running

    yield begin
    for running in started:
        running.stop()


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    """Return a server with the usual limits."""
    return start()


def unary(channel: grpc.Channel, path: bytes) -> Any:
    return channel.unary_unary(path.decode())


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code().name, error.details()


def test_grpcio_makes_unary_calls(running: Running) -> None:
    call = unary(running.channel(), ECHO)

    assert [call(b"%d" % i, timeout=PATIENCE) for i in range(50)] == [b"%d" % i for i in range(50)]
    assert running.service.methods[ECHO].handled[0] == 50


def test_many_calls_of_one_channel_are_open_at_once(running: Running) -> None:
    call = unary(running.channel(), ECHO)

    futures = [call.future(b"x" * i, timeout=PATIENCE) for i in range(300)]

    assert [len(future.result()) for future in futures] == list(range(300))


def test_answers_given_outside_of_a_callback_are_sent(running: Running) -> None:
    future = unary(running.channel(), LATER).future(b"m", timeout=PATIENCE)
    waiting = running.service.waiting
    running.until(lambda: bool(waiting))

    running.do(lambda: waiting[0][0].reply(b"later"))

    assert future.result() == b"later"


def test_a_server_stream_and_a_bidi_stream(running: Running) -> None:
    channel = running.channel()

    assert list(channel.unary_stream(LIST.decode())(b"abc", timeout=PATIENCE)) == [b"a", b"b", b"c"]
    requests = iter([b"1", b"", b"x" * 100_000])
    answers = list(channel.stream_stream(STREAM.decode())(requests, timeout=PATIENCE))
    assert answers == [b"1", b"", b"x" * 100_000]
    assert running.service.streams[0].told[-1] == "half-close"


def test_large_messages_go_both_ways(running: Running) -> None:
    message = bytes(range(256)) * 8000  # 2 MB
    big = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    channel = running.channel(*big)

    assert unary(channel, ECHO)(message, timeout=PATIENCE) == message
    future = unary(channel, LATER).future(b"", timeout=PATIENCE)
    running.until(lambda: bool(running.service.waiting))
    running.do(lambda: running.service.waiting[0][0].reply([message] * 20))
    assert len(future.result()) == 20 * len(message)


def test_a_message_over_the_limit_is_refused(running: Running) -> None:
    call = unary(running.channel(("grpc.max_send_message_length", -1)), ECHO)

    code, text = refused(lambda: call(b"x" * 2_097_153, timeout=PATIENCE))

    assert code == "RESOURCE_EXHAUSTED"
    assert text == "grpc: received message larger than max (2097153 vs. 2097152)"
    assert call(b"fine", timeout=PATIENCE) == b"fine"


def test_errors_reach_the_client_with_code_and_text(running: Running) -> None:
    channel = running.channel()

    assert refused(lambda: unary(channel, b"/a.B/C")(b"", timeout=PATIENCE)) == (
        "UNIMPLEMENTED",
        "unknown service a.B",
    )
    future = unary(channel, LATER).future(b"", timeout=PATIENCE)
    running.until(lambda: bool(running.service.waiting))
    running.do(lambda: running.service.waiting[0][0].finish(9, "text: 100% ü"))
    assert refused(future.result) == ("FAILED_PRECONDITION", "text: 100% ü")


def test_the_servers_own_timer_ends_calls_past_their_deadline(running: Running) -> None:
    with running.connect() as client:
        client.sendall(raw_request(LATER, b"50m"))
        running.until(lambda: bool(running.service.waiting))
        call = running.service.waiting[0][0]

        running.until(lambda: call.closed)

        assert running.service.methods[LATER].handled[4] == 1
        trailers_only = b"\x01\x05\0\0\0\x01"  # HEADERS with END_STREAM on stream 1
        assert trailers_only in receive_until(client, trailers_only)


def test_a_cancelled_call_is_told(running: Running) -> None:
    future = unary(running.channel(), LATER).future(b"", timeout=PATIENCE)
    running.until(lambda: bool(running.service.waiting))
    call = running.service.waiting[0][0]

    future.cancel()

    running.until(lambda: call.cancelled)


def test_a_call_knows_its_client_and_the_encoding_of_its_messages(running: Running) -> None:
    future = unary(running.channel(), LATER).future(
        b"", timeout=PATIENCE, compression=grpc.Compression.Gzip
    )
    running.until(lambda: bool(running.service.waiting))
    call = running.service.waiting[0][0]
    running.do(lambda: call.reply(b""))
    future.result()

    assert call.encoding == b"gzip"
    assert call.peer.startswith("127.0.0.1:")


def test_a_slow_reader_holds_its_stream_back_and_nobody_else(running: Running) -> None:
    channel = running.channel()
    stream = channel.stream_stream(STREAM.decode())(iter([b"go"]), timeout=PATIENCE)
    assert next(stream) == b"go"
    future = unary(channel, LATER).future(b"", timeout=PATIENCE)
    running.until(lambda: bool(running.service.waiting))
    reader = running.channel().stream_stream(STREAM.decode())(endless(), timeout=PATIENCE)
    running.until(lambda: len(running.service.streams) == 2)
    call = running.service.streams[1].call

    def fill() -> int:
        count = 0
        while call.writable and count < 10_000:
            call.send(b"x" * 10_000)
            running.server.flush()
            count += 1
        return count

    running.until(lambda: not call.writable or not fill())
    running.do(lambda: running.service.waiting[0][0].reply(b"not held"))
    assert future.result() == b"not held"
    told = running.service.streams[1].told
    read = 0  # how much it takes depends on the kernel's buffers, which grow
    while "drain" not in told and read < 20_000:
        next(reader)
        read += 1
    assert "drain" in told, f"{read} messages were read"
    reader.cancel()


def endless() -> Iterator[bytes]:
    """Keep a request stream open."""
    threading.Event().wait(PATIENCE)
    yield b""


def test_http_1_1_is_served_on_the_same_port(running: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)

    for _ in range(3):
        connection.request("GET", "/health")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b'{"health":"true"}')
        assert response.headers["Date"].endswith("GMT")
    connection.request("POST", "/v3/kv/put", b"{}")
    assert connection.getresponse().status == 404
    connection.close()


@pytest.mark.parametrize("first", [b"", b"PRI * HTTP/2.0\r\n", PREFACE])
def test_a_client_that_stops_within_the_handshake_is_let_go(
    start: Callable[..., Running], first: bytes
) -> None:
    running = start(handshake_timeout=0.05)

    with running.connect() as client:
        client.sendall(first)

        receive_until(client, None)  # ends when the server closes, or this test does
    running.until(lambda: running.server.connections == 0)


def test_who_breaks_the_tables_of_headers_is_hung_up_on(running: Running) -> None:
    with running.connect() as link:
        link.sendall(PREFACE + http2_frame(4, 0, 0) + http2_frame(1, 4, 1, b"\x80"))

        received = b""
        while data := link.recv(65536):
            received += data

    assert last_goaway(received)[0] == ErrorCode.COMPRESSION_ERROR


def test_garbage_is_answered_and_let_go(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")

        assert receive_until(client, None).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    running.until(lambda: running.server.connections == 0)


def test_a_preface_in_two_parts_is_recognised(running: Running) -> None:
    with running.connect() as client:
        client.sendall(PREFACE[:10])
        running.until(lambda: running.server.bytes_received == 10)
        client.sendall(PREFACE[10:] + http2_frame(4, 0, 0))

        assert receive_until(client, http2_frame(4, 1, 0))


def test_more_connections_than_the_limit_are_refused(start: Callable[..., Running]) -> None:
    running = start(connections_max=2)
    clients = [running.connect() for _ in range(2)]
    running.until(lambda: running.server.connections == 2)

    with running.connect() as third:
        assert receive_until(third, None) == b""

    assert running.server.rejected == 1
    for client in clients:
        client.close()
    running.until(lambda: running.server.connections == 0)


def test_a_paused_server_leaves_clients_in_the_queue_until_it_resumes(running: Running) -> None:
    running.do(running.server.pause_accept)
    with running.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert running.do(lambda: running.server.accepted) == 0

        running.do(running.server.resume_accept)

        assert b"200 OK" in receive_until(client, b"true")


def test_a_client_that_does_not_read_is_not_read_from(start: Callable[..., Running]) -> None:
    running = start(stream_window=2**30, connection_window=2**30, assembly_bytes_max=2**30)
    with running.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        window = http2_frame(4, 0, 0, b"\0\4\x7f\xff\xff\xff") + http2_frame(
            8, 0, 0, b"\x7f\x00\x00\x00"
        )
        client.sendall(PREFACE + window)
        client.settimeout(0.3)

        def send_200_megabytes() -> None:
            for number in range(1, 40_001, 2):
                client.sendall(raw_message(number, LATER, b"x" * 10_000))
                running.do(lambda: answer_all(running.service))

        with pytest.raises(TimeoutError):
            send_200_megabytes()
        assert running.service.methods[LATER].received < 5000


def test_a_flush_writes_each_connection_once(running: Running) -> None:
    future = [unary(running.channel(), LATER).future(b"", timeout=PATIENCE) for _ in range(2)]
    running.until(lambda: len(running.service.waiting) == 2)
    writes: list[int] = []

    def answer() -> None:
        sent = running.server.bytes_sent
        answer_all(running.service)
        assert running.server.bytes_sent == sent
        running.server.flush()
        writes.append(running.server.bytes_sent - sent)
        running.server.flush()
        writes.append(running.server.bytes_sent - sent)

    running.do(answer)

    assert [f.result() for f in future] == [b"", b""]
    assert writes[0] == writes[1] > 0


def test_a_shutdown_waits_for_open_calls(running: Running) -> None:
    future = unary(running.channel(), LATER).future(b"", timeout=PATIENCE)
    running.until(lambda: bool(running.service.waiting))
    shutdown = asyncio.run_coroutine_threadsafe(running.server.shutdown(PATIENCE), running.loop)
    running.until(lambda: running.server.draining)

    running.do(lambda: running.service.waiting[0][0].reply(b"done"))

    assert future.result() == b"done"
    shutdown.result(PATIENCE)
    assert running.server.connections == 0
    with pytest.raises(ConnectionRefusedError):
        running.connect()


def test_a_shutdown_waits_no_longer_than_its_grace(running: Running) -> None:
    future = unary(running.channel(), LATER).future(b"", timeout=PATIENCE)
    running.until(lambda: bool(running.service.waiting))
    call = running.service.waiting[0][0]

    running.wait(running.server.shutdown(0.05))

    assert call.cancelled
    assert refused(future.result)[0] == "UNAVAILABLE"


def test_an_idle_shutdown_is_quick_and_tells_clients(running: Running) -> None:
    with running.connect() as client:
        client.sendall(PREFACE + http2_frame(4, 0, 0))
        running.until(lambda: running.server.bytes_received > len(PREFACE))
        shutdown = asyncio.run_coroutine_threadsafe(running.server.shutdown(PATIENCE), running.loop)

        notice = receive_until(client, http2_frame(7, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0"))
        assert notice
        client.close()
        shutdown.result(PATIENCE)


def test_an_error_of_a_handler_is_not_swallowed(running: Running) -> None:
    def broken(call: Call, message: bytes) -> None:
        raise ZeroDivisionError

    running.service.methods[b"/test.Echo/Broken"] = Method.unary(broken)
    call = unary(running.channel(), b"/test.Echo/Broken")

    assert refused(lambda: call(b"", timeout=PATIENCE))[0] == "UNAVAILABLE"

    running.until(lambda: bool(running.failures))
    assert isinstance(running.failures[0]["exception"], ZeroDivisionError)
    running.failures.clear()


def answer_all(service: Service) -> None:
    for call, message in service.waiting:
        call.reply(message)
    service.waiting.clear()


def raw_message(stream_id: int, path: bytes, message: bytes, *, timeout: bytes = b"") -> bytes:
    """Write a unary request as HTTP/2 frames, without HPACK's dynamic table."""
    block = b"\x83\x86"
    fields = [(b":path", path), (b":authority", b"x"), (b"content-type", b"application/grpc")]
    if timeout:
        fields.append((b"grpc-timeout", timeout))
    for name, value in fields:
        block += b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return http2_frame(1, 4, stream_id, block) + http2_frame(0, 1, stream_id, body)


def raw_request(path: bytes, timeout: bytes) -> bytes:
    """Write a connection's first bytes with one request in them."""
    return PREFACE + http2_frame(4, 0, 0) + raw_message(1, path, b"", timeout=timeout)


def receive_until(client: socket.socket, end: bytes | None) -> bytes:
    """Read until `end` has come; None reads until the server closes."""
    data = b""
    while end is None or end not in data:
        try:
            more = client.recv(65536)
        except ConnectionResetError:
            break
        if not more:
            break
        data += more
    return data
