"""HTTP/2 frames written by hand: for what no decent client would send (RFC 9113, RFC 7541)."""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from tests.member import Member

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    3,
    4,
    6,
    7,
    8,
    9,
)
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Build a frame: 24-bit length, type, flags, stream, payload."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(*pairs: tuple[bytes, bytes]) -> bytes:
    """Encode headers as literals without indexing; names and values below 127 bytes."""
    return b"".join(b"\x00%c%s%c%s" % (len(n), n, len(v), v) for n, v in pairs)


def call_headers(path: bytes = b"/etcdserverpb.KV/Range") -> bytes:
    """Encode the headers of a gRPC call."""
    return header_block(
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )


def connect(member: Member, timeout: float = 5.0) -> socket.socket:
    """Open a bare connection to the client port."""
    return socket.create_connection(("127.0.0.1", member.client_port), timeout)


def greeted(member: Member) -> socket.socket:
    """Open a connection that has sent the preface and its settings."""
    connection = connect(member)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
    return connection


def send_all(connection: socket.socket, data: bytes, seconds: float = 5.0) -> bool:
    """Send as much as the peer takes within the time; False if it hung up or stopped reading."""
    connection.settimeout(0.2)
    view, deadline = memoryview(data), time.monotonic() + seconds
    while view and time.monotonic() < deadline:
        try:
            view = view[connection.send(view[:65536]) :]
        except TimeoutError:
            continue
        except OSError:
            return False
    return not view


def read_until_closed(connection: socket.socket, seconds: float) -> tuple[bytes, bool]:
    """Read until the peer closes or the time is up; return what came and whether it closed."""
    data, deadline = b"", time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            chunk = connection.recv(65536)
        except TimeoutError:
            return data, False
        except OSError:
            return data, True
        if not chunk:
            return data, True
        data += chunk
    return data, False
