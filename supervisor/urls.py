"""URLs and host:port pairs, checked as etcd checks them at start-up.

Errors are ValueErrors with etcd's (or Go's) text; who asked for the URL adds the flag's name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from supervisor.go_syntax import quote

_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)", re.DOTALL)


class Url(NamedTuple):
    """One listen or advertise URL. `host` is "host:port", with brackets around IPv6."""

    scheme: str
    host: str
    path: str
    text: str
    """The URL as printed, with the scheme in lower case: what members compare and hash."""

    def __str__(self) -> str:
        return self.text

    @property
    def is_unix(self) -> bool:
        """Whether it names a unix socket."""
        return self.scheme in ("unix", "unixs")

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken there."""
        return self.scheme in ("https", "unixs")

    @property
    def address(self) -> str:
        """What to bind or dial: "host:port", or the path of a unix socket.

        etcd joins host and path of a unix URL, so `unix://localhost:23791` is the socket
        `localhost:23791` in the working directory.
        """
        return self.host + self.path if self.is_unix else self.host


def parse_url(text: str) -> Url:
    """Read one URL of a flag: http, https (host:port, no path), unix or unixs."""
    text = text.strip()
    match = _SCHEME.match(text)
    if match is None:
        if text.startswith(":"):
            raise ValueError(f"parse {quote(text)}: missing protocol scheme")
        if ":" in text.partition("/")[0]:
            reason = "first path segment in URL cannot contain colon"
            raise ValueError(f"parse {quote(text)}: {reason}")
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    scheme, rest = match[1].lower(), match[2]
    host, path = _authority(text, rest)
    if scheme in ("http", "https"):
        try:
            split_host_port(host)
        except ValueError:
            raise ValueError(f'URL address does not have the form "host:port": {text}') from None
        if path:
            raise ValueError(f"URL must not contain a path: {text}")
    elif scheme not in ("unix", "unixs"):
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    return Url(scheme, host, path, f"{scheme}:{rest}")


def _authority(text: str, rest: str) -> tuple[str, str]:
    """Split what follows the scheme into host and path; queries and fragments fall away."""
    rest = rest.partition("#")[0].partition("?")[0]
    if not rest.startswith("//"):
        return "", rest if rest.startswith("/") else ""
    authority, slash, path = rest[2:].partition("/")
    host = authority.rpartition("@")[2]
    port = host[host.rfind("]") + 1 :].rpartition(":")
    if port[1] and port[2] and not port[2].isdecimal():
        raise ValueError(f"parse {quote(text)}: invalid port {quote(':' + port[2])} after host")
    return host, slash + path


def parse_urls(texts: Iterable[str]) -> tuple[Url, ...]:
    """Read several URLs; the result is sorted by text and without doubles."""
    found = {url.text: url for url in map(parse_url, texts)}
    return tuple(found[text] for text in sorted(found))


def split_host_port(address: str) -> tuple[str, str]:
    """Split "host:port" or "[v6]:port" (net.SplitHostPort); both parts may be empty."""
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        raise ValueError(f"address {address}: missing port in address")
    if host.startswith("["):
        if not host.endswith("]"):
            raise ValueError(f"address {address}: missing ']' in address")
        return host[1:-1], port
    if ":" in host:
        raise ValueError(f"address {address}: too many colons in address")
    return host, port


def check_bind_urls(urls: Iterable[Url]) -> None:
    """Refuse URLs to listen on that name a host: an IP or `localhost` is wanted."""
    for url in urls:
        if url.is_unix:
            continue
        host, _ = split_host_port(url.host)
        if host != "localhost" and not is_ip(host):
            raise ValueError(f"expected IP in URL for binding ({url})")


def check_host_urls(urls: Iterable[Url]) -> None:
    """Refuse URLs to advertise that name no host."""
    for url in urls:
        if not url.is_unix and not split_host_port(url.host)[0]:
            raise ValueError(f"unexpected empty host ({url})")


def is_ip(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address without zone (net.ParseIP)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def parse_initial_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """Read `name=url,name=url`; a name may come several times (types.NewURLsMap).

    The URLs of a name come back sorted; names keep the order of the text.
    """
    members: dict[str, list[str]] = {}
    for pair in text.split(","):
        if pair:
            name, _, url = pair.partition("=")
            members.setdefault(name, []).append(url)
    return {name: tuple(sorted(map(str, map(parse_url, urls)))) for name, urls in members.items()}


def format_initial_cluster(members: dict[str, Sequence[str]]) -> str:
    """Print a map of members as etcd's error texts do: pairs sorted, joined by commas."""
    return ",".join(sorted(f"{name}={url}" for name, urls in members.items() for url in urls))
