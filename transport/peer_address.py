"""From peer URLs to what ZeroMQ binds and dials.

Host names are looked up on a thread of their own: libzmq would do it on the thread that serves all
connections, and a name server that does not answer takes seconds: every heartbeat would wait.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import socket
import threading
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import zmq

RETRY_LOOKUP_SECONDS: Final = 1.0


class PeerUrlError(ValueError):
    """A peer URL that names nothing to bind or dial."""


class PeerBindError(OSError):
    """A peer URL that can't be listened on."""


def split_url(url: str) -> tuple[str, int]:
    """Return (host, port) of http://host:port; ("/path", 0) of unix://path.

    https:// is the same place: what protects peers here is CURVE. Raises PeerUrlError.
    """
    scheme, _, rest = url.partition("://")
    if scheme in ("unix", "unixs") and rest:
        return rest if rest.startswith("/") else f"./{rest}", 0
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise PeerUrlError(f"peer URL {url!r}: {error}") from error
    if scheme not in ("http", "https") or port is None:
        raise PeerUrlError(f"peer URL {url!r} is not http://host:port")
    return host or "0.0.0.0", port


def endpoint(address: str, port: int) -> str:
    """Return ZeroMQ's endpoint of a numeric address, or of a socket's path when `port` is 0."""
    if "/" in address:
        return f"ipc://{address}"
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def is_numeric(host: str) -> bool:
    """Tell whether a host needs no look-up: an IP address, or the path of a socket."""
    if "/" in host:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def look_up(host: str) -> tuple[str, ...]:
    """Return the addresses of a host name, IPv4 before IPv6; none if there is none (now). Waits."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def bind(socket_: zmq.Socket[bytes], urls: Sequence[str]) -> None:
    """Listen on URLs. Raises PeerUrlError, and PeerBindError with the URL and the reason."""
    for url in urls:
        host, port = split_url(url)
        addresses = (host,) if is_numeric(host) else look_up(host)
        if not addresses:
            raise PeerBindError(f"listen {url}: no such host")
        address = addresses[0]
        socket_.setsockopt(zmq.IPV6, int(":" in address))
        try:
            socket_.bind(endpoint(address, port))
        except zmq.ZMQError as error:
            raise PeerBindError(f"listen {url}: {error.strerror}") from error


def adopt(socket_: zmq.Socket[bytes], descriptors: Sequence[int]) -> None:
    """Listen on sockets that somebody else has opened and keeps open; they become ZeroMQ's."""
    for descriptor in descriptors:
        socket_.setsockopt(zmq.USE_FD, descriptor)
        # libzmq opens nothing then, but wants an address that it could.
        with socket.socket(fileno=os.dup(descriptor)) as opened:
            path = opened.getsockname() if opened.family == socket.AF_UNIX else ""
        socket_.bind(f"ipc://{path}" if path else "tcp://127.0.0.1:*")
    socket_.setsockopt(zmq.USE_FD, -1)


class Resolver:
    """Addresses of host names, looked up in the background. `find` never waits."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, ...]] = {}
        self._asked: dict[str, float] = {}
        self._wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: set[str] = set()  # each host once: a slow look-up must not pile up
        self._thread: threading.Thread | None = None

    def find(self, host: str, now: float) -> tuple[str, ...]:
        """Return the addresses of a host as far as known; an unknown one is being looked up."""
        if is_numeric(host):
            return (host,)
        if host not in self._found:
            self.refresh(host, now)
        return self._found.get(host, ())

    def refresh(self, host: str, now: float) -> None:
        """Look a host up again, at most once a second; until then the old addresses count."""
        if is_numeric(host) or host in self._waiting or now < self._asked.get(host, now):
            return
        self._asked[host] = now + RETRY_LOOKUP_SECONDS
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="resolver", daemon=True)
            self._thread.start()
        self._waiting.add(host)
        self._wanted.put(host)

    def _serve(self) -> None:
        while True:
            host = self._wanted.get()
            addresses = look_up(host)
            if addresses:
                self._found[host] = addresses
            self._waiting.discard(host)
