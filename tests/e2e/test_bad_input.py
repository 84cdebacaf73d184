"""Whatever is sent to the client port: an answer like etcd's, and everybody else is served on."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from random import Random

import pytest

from api.http2 import RESERVED_DESCRIPTORS
from etcdpb import rpc_pb2 as pb
from tests.client import METHODS, Client
from tests.e2e import frames
from tests.e2e.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    frame,
)
from tests.member import Member

pytestmark = pytest.mark.e2e

REQUEST_BYTES_MAX = 1_572_864
RECEIVE_BYTES_MAX = REQUEST_BYTES_MAX + 512 * 1024
GROWTH_BYTES_MAX = 64 << 20
SERVED_SECONDS_MAX = 5.0  # for one put beside a flood, on a machine with other things to do
IDLE_CONNECTIONS = 10_000


def serving_pid(member: Member) -> int:
    """Return the process that holds the client connections."""
    return member.actors().get("gateway-0", member.pid)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture
def unharmed(member: Member) -> Iterator[Client]:
    """A client that was there before and is still served, by the same process, afterwards."""
    with Client(member.endpoint) as client:
        client.put(b"before", b"1")
        pid, before = serving_pid(member), resident_bytes(serving_pid(member))
        yield client
        assert client.get(b"before") == b"1"
        assert client.put(b"after", b"2") > 0
        assert serving_pid(member) == pid
        grown = resident_bytes(pid) - before
        if member.is_trouped:
            assert grown < GROWTH_BYTES_MAX, f"{grown} bytes more than before"


@pytest.mark.parametrize(
    "payload", [b"\xff\xff", b"\x0a\x05ab", b"\x08", b"\x0a\xff\xff\xff\xff\x0f"]
)
@pytest.mark.parametrize(
    "path", [p for p, _ in METHODS.values() if "/etcdserverpb.KV/" in p], ids=lambda p: p[17:]
)
def test_malformed_messages_are_an_internal_error(
    unharmed: Client, path: str, payload: bytes
) -> None:
    answer = unharmed.raw(path, payload)

    assert answer.code == "INTERNAL", answer
    assert answer.text.startswith("grpc: error unmarshalling request: ")


def test_requests_above_the_limit_are_too_large(unharmed: Client) -> None:
    fits = unharmed.answer(pb.PutRequest(key=b"big", value=b"x" * (REQUEST_BYTES_MAX - 1024)))
    too_large = unharmed.answer(pb.PutRequest(key=b"big", value=b"x" * (REQUEST_BYTES_MAX + 1024)))
    txn = pb.TxnRequest()
    for number in range(2):
        put = pb.PutRequest(key=b"big/%d" % number, value=b"x" * (REQUEST_BYTES_MAX // 2 + 1024))
        txn.success.add().request_put.CopyFrom(put)
    too_large_together = unharmed.answer(txn)

    assert fits.ok, fits
    for answer in too_large, too_large_together:
        assert (answer.code, answer.text) == (
            "INVALID_ARGUMENT",
            "etcdserver: request is too large",
        )


def test_messages_above_the_grpc_limit_are_not_received(unharmed: Client) -> None:
    request = pb.PutRequest(key=b"k", value=b"x" * RECEIVE_BYTES_MAX)

    answer = unharmed.answer(request)

    assert answer.code == "RESOURCE_EXHAUSTED"
    assert answer.text == (
        f"grpc: received message larger than max ({request.ByteSize()} vs. {RECEIVE_BYTES_MAX})"
    )


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/etcdserverpb.Nope/Range", "unknown service etcdserverpb.Nope"),
        ("/nope", 'malformed method name: "/nope"'),
        ("/a/b/c", "unknown service a/b"),
    ],
)
def test_methods_that_do_not_exist_are_unimplemented(
    unharmed: Client, member: Member, path: str, text: str
) -> None:
    if text.startswith("malformed") and not member.is_trouped:
        pytest.skip("the grpc of etcd 3.5 had another status for it")
    answer = unharmed.raw(path, b"")

    assert (answer.code, answer.text) == ("UNIMPLEMENTED", text)


def test_http_paths_that_do_not_exist_are_not_found(unharmed: Client, member: Member) -> None:
    for path in "/nope", "/v3", "/%00", "/../etc/passwd":
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(member.url + path, timeout=5)
        error.value.close()
        assert error.value.code == 404
    with urllib.request.urlopen(member.url + "/health", timeout=5) as response:
        assert b'"health":"true"' in response.read()


def random_bytes() -> bytes:
    return Random(1).randbytes(100_000)


GARBAGE: dict[str, Callable[[], bytes]] = {
    "random": random_bytes,
    "zeros": lambda: bytes(100_000),
    "tls": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_bytes()[:507],
    "preface, then random": lambda: frames.PREFACE + random_bytes(),
    "half a preface": lambda: frames.PREFACE[:10],
    "huge frame": lambda: frames.PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(50_000),
    "huge header": lambda: b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000_000,
    "many headers": lambda: b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500_000,
    "bad request line": lambda: b"\r\n\r\nG E T\r\n\r\n",
    "huge body": lambda: (
        b"POST /nope HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + bytes(10**7)
    ),
    "bad chunks": lambda: b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    "data on no stream": lambda: frames.PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, 0, 1, b"x"),
    "even stream": lambda: (
        frames.PREFACE + frame(SETTINGS, 0, 0)
        + frame(HEADERS, END_HEADERS, 2, frames.call_headers())
    ),
    "bad header block": lambda: (
        frames.PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"\xff" * 100)
    ),
    "endless header block": lambda: (
        frames.PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, frames.call_headers())
        + frame(frames.CONTINUATION, 0, 1, frames.header_block((b"a", b"b" * 100)) * 100) * 500
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_on_the_port_hurts_only_its_sender(
    unharmed: Client, member: Member, kind: str
) -> None:
    with frames.connect(member) as connection:
        frames.send_all(connection, GARBAGE[kind]())
        assert unharmed.get(b"before") == b"1"


def test_connections_that_stop_half_way_are_let_go(unharmed: Client, member: Member) -> None:
    pid = serving_pid(member)
    before = descriptors(pid)
    start = frames.call_headers()
    halves = (
        b"",
        frames.PREFACE[:3],
        frames.PREFACE + frame(SETTINGS, 0, 0),
        frames.PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, start),
        frames.PREFACE
        + frame(SETTINGS, 0, 0)
        + frame(HEADERS, END_HEADERS, 1, start)
        + frame(DATA, 0, 1, b"\x00\x00\x10\x00\x00half a message"),
        b"POST /nope HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf",
    )
    with ExitStack() as stack:
        for number in range(300):
            connection = stack.enter_context(frames.connect(member))
            connection.sendall(halves[number % len(halves)])
        assert unharmed.get(b"before") == b"1"

    deadline = time.monotonic() + 5
    while descriptors(pid) > before + 5:
        assert time.monotonic() < deadline, f"{descriptors(pid)} descriptors, {before} before"
        time.sleep(0.01)


def stream_ids(count: int) -> Iterator[int]:
    return iter(range(1, 2 * count, 2))


FLOODS: dict[str, Callable[[], bytes]] = {
    "pings": lambda: frame(PING, 0, 0, bytes(8)) * 50_000,
    "settings": lambda: frame(SETTINGS, 0, 0) * 50_000,
    "empty data": lambda: (
        frame(HEADERS, END_HEADERS, 1, frames.call_headers()) + frame(DATA, 0, 1) * 50_000
    ),
    "rapid resets": lambda: b"".join(
        frame(HEADERS, END_HEADERS, i, frames.call_headers()) + frame(RST_STREAM, 0, i, bytes(4))
        for i in stream_ids(20_000)
    ),
    "calls nobody reads": lambda: b"".join(
        frame(HEADERS, END_HEADERS, i, frames.call_headers())
        + frame(DATA, END_STREAM, i, b"\x00\x00\x00\x00\x08\x0a\x06before")
        for i in stream_ids(20_000)
    ),
    "window updates": lambda: frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 50_000,
    "unknown frames": lambda: frame(0xEE, 0, 0, bytes(100)) * 20_000,
    "pipelined http": lambda: b"",
}


@pytest.mark.parametrize("kind", FLOODS)
def test_others_are_served_while_one_connection_floods(
    unharmed: Client, member: Member, kind: str
) -> None:
    flood = FLOODS[kind]()
    if kind == "pipelined http":
        connection, flood = (
            frames.connect(member),
            b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000,
        )
    else:
        connection = frames.greeted(member)
    worst = 0.0
    with connection:
        sender = threading.Thread(target=frames.send_all, args=(connection, flood))
        sender.start()
        while True:
            begun = time.monotonic()
            unharmed.put(b"meanwhile", b"x")
            worst = max(worst, time.monotonic() - begun)
            if not sender.is_alive():
                break
        sender.join()
    print(f"{kind}: worst put {worst * 1e3:.0f} ms")  # noqa: T201
    assert worst < SERVED_SECONDS_MAX


@pytest.mark.slow
def test_ten_thousand_idle_connections_leave_room_for_work(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = IDLE_CONNECTIONS * 16 // 14 + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"only {hard} descriptors allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        made = Member(tmp_path, flags=["--gateways=1"])
        with made as crowded, Client(crowded.endpoint) as client, ExitStack() as stack:
            # For this end of the connections; the member has raised its own.
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
            pid = serving_pid(crowded)
            before = resident_bytes(pid)
            connections: list[socket.socket] = []
            for _ in range(IDLE_CONNECTIONS):
                connections.append(stack.enter_context(frames.greeted(crowded)))
            begun = time.monotonic()
            for number in range(1000):
                client.put(b"busy", b"%d" % number)
            seconds = time.monotonic() - begun
            each = (resident_bytes(pid) - before) / IDLE_CONNECTIONS
            print(  # noqa: T201
                f"{IDLE_CONNECTIONS} idle connections: {each:.0f} bytes each, "
                f"{1000 / seconds:.0f} puts/s"
            )
            assert client.get(b"busy") == b"999"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Frugal(Member):
    """A member that may have few descriptors, and starts with fewer still."""

    soft, hard = 200, 400

    def command(self) -> list[str]:
        limits = f'ulimit -Sn {self.soft}; ulimit -Hn {self.hard}; exec "$@"'
        return ["sh", "-c", limits, "sh", *super().command()]


def scrape(connection: HTTPConnection) -> dict[str, float]:
    """Return the samples without labels."""
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    pairs = (line.partition(" ") for line in lines)
    return {name: float(value) for name, _, value in pairs if value[:1].isdigit()}


def test_a_member_takes_all_the_descriptors_it_may_and_keeps_some_to_itself(tmp_path: Path) -> None:
    with Frugal(tmp_path) as member, Client(member.endpoint) as client, ExitStack() as stack:
        plain = HTTPConnection("127.0.0.1", member.client_port, timeout=10)
        before = scrape(plain)
        client.put(b"k", b"before")
        pid = serving_pid(member)

        for _ in range(Frugal.hard):
            stack.enter_context(socket.create_connection(("127.0.0.1", member.client_port)))
        during = scrape(plain)
        client.put(b"k", b"v")
        found = client.range(pb.RangeRequest(key=b"k", range_end=b"l"))

        assert before["os_fd_limit"] == Frugal.hard
        assert before["os_fd_used"] < RESERVED_DESCRIPTORS
        assert 100 < during["os_fd_used"] < Frugal.hard - 50
        assert found.count == 1
        assert serving_pid(member) == pid


def test_a_gateway_without_a_descriptor_left_serves_whom_it_has(tmp_path: Path) -> None:
    made = Member(tmp_path, flags=["--gateways=1"])
    with made as member, Client(member.endpoint) as client:
        client.put(b"k", b"v")
        plain = HTTPConnection("127.0.0.1", member.client_port, timeout=10)
        scrape(plain)
        pid = serving_pid(member)
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, hard))

        with socket.create_connection(("127.0.0.1", member.client_port)):
            samples = scrape(plain)
            ranges = [client.begin(pb.RangeRequest(key=b"a", range_end=b"z")) for _ in range(20)]
            counts = [str(answer().message).count("count: 1") for answer in ranges]
            client.put(b"l", b"v")

        assert samples["os_fd_used"] == samples["os_fd_limit"] == 1
        assert counts == [1] * 20
        assert serving_pid(member) == pid


def exchange(member: Member, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, and return all that comes until the member closes or a second is over."""
    host, _, port = member.endpoint.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=1.0) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except TimeoutError:
            pass
        return answer


@pytest.mark.usefixtures("unharmed")
def test_requests_sent_ahead_are_answered_one_after_the_other(member: Member) -> None:
    paths = ["/health", "/version", "/readyz", "/health", "/livez"]
    data = "".join(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n" for path in paths)

    assert exchange(member, data.encode()).count(b"200 OK") == len(paths)


@pytest.mark.usefixtures("unharmed")
def test_pages_asked_for_a_thousand_times_at_once_hold_up_nobody(member: Member) -> None:
    with Client(member.endpoint) as client, ExitStack() as stack:
        asking = threading.Thread(
            target=exchange, args=(member, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * 1000)
        )
        asking.start()
        stack.callback(asking.join)
        longest = 0.0
        while asking.is_alive():
            began = time.monotonic()
            client.put(b"meanwhile", b"1")
            longest = max(longest, time.monotonic() - began)

    assert longest < 1.0


@pytest.mark.parametrize("path", ["/health", "/readyz", "/metrics", "/version"])
@pytest.mark.usefixtures("unharmed")
def test_a_client_that_has_said_all_is_answered(member: Member, path: str) -> None:
    answer = exchange(member, f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), half_close=True)

    assert answer.startswith(b"HTTP/1.1 200 OK")
