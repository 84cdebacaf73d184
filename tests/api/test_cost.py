"""What a unary call costs the server, measured in one process against an ngh2 client."""

from __future__ import annotations

import sys
import time

import pytest
from ngh2 import Configuration, Connection, Role

from api.grpc import GrpcConnection, Limits, Method
from tests.api.wire import ECHO, frame

HEADERS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", ECHO),
    (b":authority", b"localhost:2379"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-go/1.60"),
    (b"te", b"trailers"),
    (b"grpc-timeout", b"4999m"),
)
MICROSECONDS_MAX = 8.0


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 10, 100])
def test_a_unary_call_costs_a_few_microseconds(batch: int) -> None:
    method = Method.unary(lambda call, message: call.reply(b"y" * 26))
    server = GrpcConnection({ECHO: method}, Limits(), time.monotonic)
    client = Connection(Role.CLIENT, Configuration(peer_max_concurrent_streams=1000))
    client.initiate_connection()
    body = frame(b"x" * 288)
    calls = 20_000
    spent = 0.0

    for _ in range(calls // batch):
        for _ in range(batch):
            client.send_data(client.send_request(HEADERS), body, end_stream=True)
        up = client.data_to_send()
        started = time.perf_counter()
        server.receive(up)
        down = server.data_to_send(256 * 1024)
        spent += time.perf_counter() - started
        client.receive_data(down)
        client.events()

    each = spent / calls * 1e6
    print(f"{each:.2f} microseconds a call in batches of {batch}", file=sys.stderr)  # noqa: T201
    assert method.handled[0] == calls
    assert each <= MICROSECONDS_MAX
