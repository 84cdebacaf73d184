"""`troupectl health`: GET /health on the member's own client URL, for containers and scripts."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

TIMEOUT_SECONDS: Final = 5.0
# A member's wildcard takes both families, and a container may have no ::1.
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float, context: ssl.SSLContext | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._tls = context

    def connect(self) -> None:
        """Connect, and speak TLS if there is a context."""
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(self.timeout)
        plain.connect(self._path)
        self.sock = self._tls.wrap_socket(plain) if self._tls is not None else plain


def health(
    urls: Sequence[str],
    *,
    timeout: float = TIMEOUT_SECONDS,
    serializable: bool = False,
    cert: str | None = None,
    key: str | None = None,
) -> dict[str, Any]:
    """Ask the first URL that answers; return etcd's answer, `url` and `healthy`.

    Server certificates are not checked: this talks to the own member on the own machine. `cert`
    and `key` are for members that want one of the client.
    """
    reason = "the member serves no client URL"
    for url in urls:
        try:
            body = _get(url, timeout, serializable, cert, key)
        except (OSError, http.client.HTTPException) as error:
            reason = f"{url}: {error}"
            continue
        answer = _answer(body)
        return {**answer, "healthy": answer["health"] == "true", "url": url}
    return {"health": "false", "reason": reason, "healthy": False, "url": ""}


def _answer(body: bytes) -> dict[str, str]:
    try:
        answer = json.loads(body)
        return {"health": str(answer["health"]), "reason": str(answer.get("reason", ""))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"health": "false", "reason": f"not an answer: {body[:100]!r}"}


def _get(url: str, timeout: float, serializable: bool, cert: str | None, key: str | None) -> bytes:
    connection = _connection(url, timeout, cert, key)
    try:
        connection.request("GET", "/health?serializable=true" if serializable else "/health")
        return connection.getresponse().read()
    finally:
        connection.close()


def _connection(
    url: str, timeout: float, cert: str | None, key: str | None
) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    context = _unchecked(cert, key) if parts.scheme in ("https", "unixs") else None
    if parts.scheme in ("unix", "unixs"):
        return _UnixConnection(parts.netloc + parts.path, timeout, context)
    host = parts.hostname or "localhost"
    host = _WILDCARDS.get(host, host)
    if context is not None:
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    return http.client.HTTPConnection(host, parts.port, timeout=timeout)


def _unchecked(cert: str | None, key: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(cert, key)
    return context
