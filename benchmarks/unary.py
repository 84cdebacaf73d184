"""One gRPC call at a time over a plain socket: for probes, where a channel's back-off would lie."""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from ngh2 import Connection, Role
from ngh2.events import DataReceived, ResponseReceived, StreamClosed, TrailersReceived

from benchmarks.payloads import (
    COMPACT_PATH,
    PUT_PATH,
    RANGE_PATH,
    frame,
    headers,
    key,
    put_body,
    range_body,
)
from etcdpb import rpc_pb2

_PREFIX_BYTES: Final = 5


class CallError(Exception):
    """A call that was not answered with OK: gRPC's code (-1 without one) and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


def call(endpoint: str, path: str, body: bytes, timeout: float = 5.0) -> bytes:
    """Make one unary call on a new connection and return the message.

    `body` is framed, `timeout` in seconds. Raises CallError, and OSError (TimeoutError among them)
    when nobody answers.
    """
    host, _, port = endpoint.rpartition(":")
    deadline = time.monotonic() + timeout
    engine = Connection(Role.CLIENT)
    engine.initiate_connection({})
    stream_id = engine.send_request(headers(path, endpoint))
    engine.send_data(stream_id, body, end_stream=True)
    answer = bytearray()
    status: dict[bytes, bytes] = {}
    with socket.create_connection((host, int(port)), timeout) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            link.sendall(engine.data_to_send())
            link.settimeout(max(deadline - time.monotonic(), 0.001))
            data = link.recv(65536)
            if not data:
                raise CallError(-1, "connection closed")
            engine.receive_data(data)
            for event in engine.events():
                if isinstance(event, DataReceived):
                    answer += event.data
                elif isinstance(event, TrailersReceived | ResponseReceived):
                    status.update(event.headers)
                elif isinstance(event, StreamClosed):
                    return _message(status, bytes(answer))


def _message(status: dict[bytes, bytes], answer: bytes) -> bytes:
    code = int(status.get(b"grpc-status", b"-1"))
    if code:
        raise CallError(code, status.get(b"grpc-message", b"no status").decode())
    (length,) = struct.unpack_from(">xI", answer)
    if len(answer) != _PREFIX_BYTES + length:
        raise CallError(-1, f"{len(answer)} bytes instead of one message of {length}")
    return answer[_PREFIX_BYTES:]


def put(endpoint: str, number: int = 0, value_bytes: int = 256, timeout: float = 5.0) -> int:
    """Put key `number` and return the revision of the store. Raises as `call` does."""
    answer = call(endpoint, PUT_PATH, put_body(number, value_bytes), timeout)
    return rpc_pb2.PutResponse.FromString(answer).header.revision


def linearizable_range(endpoint: str, number: int = 0, timeout: float = 5.0) -> int:
    """Read key `number` and return how many keys were found, 0 or 1. Raises as `call` does."""
    answer = call(endpoint, RANGE_PATH, range_body(number), timeout)
    return rpc_pb2.RangeResponse.FromString(answer).count


def count_keys(endpoint: str, keys: int, timeout: float = 60.0) -> int:
    """Return how many of the keys numbered below `keys` exist. Raises as `call` does."""
    request = rpc_pb2.RangeRequest(key=key(0), range_end=key(keys), count_only=True)
    answer = call(endpoint, RANGE_PATH, frame(request.SerializeToString()), timeout)
    return rpc_pb2.RangeResponse.FromString(answer).count


def compact(endpoint: str, revision: int, timeout: float = 600.0) -> None:
    """Compact up to `revision` and wait until the history has gone. Raises as `call` does."""
    request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
    call(endpoint, COMPACT_PATH, frame(request.SerializeToString()), timeout)
