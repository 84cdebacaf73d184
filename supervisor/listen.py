"""Listening sockets for client and metrics URLs, bound as Go binds them.

Root opens them once and keeps them: a gateway that dies never closes a port.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from supervisor.errors import StartError
from supervisor.urls import Url, split_host_port

BACKLOG: Final = 4096
KEEPALIVE_SECONDS: Final = 30
"""Accepted connections inherit the listener's keep-alive: etcd's listener has 30 s."""

_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


@dataclass(frozen=True)
class BoundSocket:
    """A listening socket and the URLs served on it.

    Two URLs (http and https) on one address share a socket: both protocols are spoken on it.
    """

    socket: socket.socket
    urls: tuple[Url, ...]

    @property
    def address(self) -> str:
        """The address it really has: "127.0.0.1:2379", "[::]:2379" or a path."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return os.fsdecode(name)
        return f"[{name[0]}]:{name[1]}" if self.socket.family == socket.AF_INET6 else _pair(name)


def _pair(name: Sequence[object]) -> str:
    return f"{name[0]}:{name[1]}"


def listening_sockets(
    urls: Iterable[Url], *, reuse_port: bool = False, reuse_address: bool = False
) -> list[socket.socket]:
    """Return the sockets of `bind_urls`, for who doesn't ask which URL they serve."""
    bound = bind_urls(urls, reuse_port=reuse_port, reuse_address=reuse_address)
    return [entry.socket for entry in bound]


def bind_urls(
    urls: Iterable[Url], *, reuse_port: bool = False, reuse_address: bool = False
) -> list[BoundSocket]:
    """Open non-blocking listening sockets for URLs, in their order; all of them or none.

    Port 0 takes a free port. Raises StartError with Go's text, such as
    `listen tcp 127.0.0.1:2379: bind: address already in use`. SO_REUSEADDR is always set, as Go
    does, so `reuse_address` changes nothing.
    """
    del reuse_address
    addresses: dict[str, list[Url]] = {}
    for url in urls:
        addresses.setdefault(url.address, []).append(url)
    with ExitStack() as undo:
        bound: list[BoundSocket] = []
        for address, served in addresses.items():
            is_unix = served[0].is_unix
            opened = [_bind_unix(address)] if is_unix else _bind_tcp(address, reuse_port)
            for listener in opened:
                undo.callback(listener.close)
                bound.append(BoundSocket(listener, tuple(served)))
        undo.pop_all()
    return bound


def _bind_unix(path: str) -> socket.socket:
    """Bind a unix socket; one that lies there from before is replaced, as etcd does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"listen unix {path}: bind: {_reason(error)}") from None
    listener.setblocking(False)
    return listener


def _bind_tcp(address: str, reuse_port: bool) -> list[socket.socket]:
    host, port_text = split_host_port(address)
    try:
        port = _port(port_text)
        if host == "localhost":
            return _bind_localhost(port, reuse_port)
        ip = ipaddress.ip_address(host)
        if ip.is_unspecified:
            return [_bind_wildcard(str(ip), port, reuse_port)]
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        return [_bind(family, str(ip), port, reuse_port)]
    except (OSError, OverflowError) as error:
        shown = f"127.0.0.1:{port_text}" if host == "localhost" else address
        reason = _reason(error) if isinstance(error, OSError) else "invalid port"
        raise StartError(f"listen tcp {shown}: bind: {reason}") from None


def _port(text: str) -> int:
    if not text or text.isdecimal():
        return int(text or "0")
    return socket.getservbyname(text, "tcp")


def _bind_localhost(port: int, reuse_port: bool) -> list[socket.socket]:
    """Bind 127.0.0.1 and, where there is IPv6 and the port is free, ::1 on the same port.

    Go takes 127.0.0.1 alone; a client that resolves localhost to ::1 first then has to try again.
    """
    first = _bind(socket.AF_INET, "127.0.0.1", port, reuse_port)
    port = first.getsockname()[1]
    try:
        return [first, _bind(socket.AF_INET6, "::1", port, reuse_port)]
    except OSError:
        return [first]


def _bind_wildcard(host: str, port: int, reuse_port: bool) -> socket.socket:
    """Bind all addresses of both families, whichever wildcard was named, as Go does."""
    try:
        return _bind(socket.AF_INET6, "::", port, reuse_port)
    except OSError as error:
        if error.errno not in _NO_IPV6 or ":" in host:
            raise
    return _bind(socket.AF_INET, host, port, reuse_port)


def _bind(family: int, host: str, port: int, reuse_port: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _reason(error: OSError) -> str:
    if error.errno is None:  # Python's own checks, such as a path too long for a unix socket
        return "invalid argument"
    return os.strerror(error.errno).lower()
