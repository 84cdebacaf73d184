"""HTTP/1.1 without sockets: health, version, metrics and, by POST, the JSON gateway.

One request at a time is handed to its route; what a client sends ahead waits (a bounded number
of requests, then `reading` turns False). Answers may come now or later, whole or in chunks.
A request that is no HTTP gets 400 and the end of the connection. `Upgrade` is ignored, as etcd's
plain-text port ignores curl's h2c.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qs, quote, unquote

import httptools

from api.http2 import NEVER, Limits

PENDING_MAX: Final = 16
_LENGTH_DIGITS_MAX: Final = 19
_TEXT: Final = "text/plain; charset=utf-8"
_REASONS: Final = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Request Entity Too Large",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    499: "Client Closed Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. `headers` are sent besides content-type and content-length.

    One that `closes` ends the connection: the next request comes to who takes connections then.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False


NOT_FOUND: Final = Response(
    404, b"404 page not found\n", headers=(("X-Content-Type-Options", "nosniff"),)
)


def host_of(header: str) -> str:
    """Return the name in a Host header, without its port."""
    name, colon, port = header.rpartition(":")
    if not (colon and port.isdigit()):
        return header
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


def method_not_allowed(allowed: str) -> Response:
    """Answer a verb that a path does not take; `allowed` are the ones it does."""
    return Response(405, b"Method Not Allowed\n", headers=(("Allow", allowed),))


ANY_HOST: Final = frozenset(("*",))
_CORS: Final = (
    ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
)
_OWN: Final = "/debug/actors"
"""Pages that etcd has not: they are for who looks at them here, not for pages of others."""
_UNKNOWN_HOST: Final = b"""
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist %b

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).

"""  # etcd's text


class Request:
    """One request: `reply` to it, or `begin`, `write`... and `end`. Header names are lower case.

    `on_close()` is called once if the client goes away before the answer is whole; `on_drain()`
    when the server wants to end: an answer without an end should end then.
    """

    __slots__ = (
        "_connection",
        "answered",
        "begun",
        "body",
        "cors",
        "headers",
        "keep_alive",
        "method",
        "on_close",
        "on_drain",
        "path",
        "query_string",
    )

    def __init__(
        self, connection: Http1Connection, method: str, target: bytes, headers: dict[str, str]
    ) -> None:
        self._connection = connection
        self.method = method
        path, _, query = target.partition(b"?")
        if path.startswith((b"http://", b"https://")):  # absolute form, as to a proxy
            path = b"/" + path.split(b"/", 3)[3] if path.count(b"/") > 2 else b"/"
        self.path = unquote(path.decode("latin-1"))
        self.query_string = query.decode("latin-1")
        self.headers = headers
        self.body = b""
        self.keep_alive = True
        self.answered = False
        self.begun = False
        self.cors: tuple[tuple[str, str], ...] = ()  # what its answer says to browsers
        self.on_close: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None

    @property
    def peer(self) -> str:
        """The other end of the connection, `host:port` or a socket's path."""
        return self._connection.peer

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's values by name; a name without `=` has an empty value."""
        return parse_qs(self.query_string, keep_blank_values=True)

    def reply(self, response: Response) -> None:
        """Answer; ignored when the request was answered before or its client has gone."""
        if self.answered or self.begun:
            return
        self.answered = True
        self._connection.answer(self, self._for_browsers(response))

    def _for_browsers(self, response: Response) -> Response:
        if not self.cors:
            return response
        return replace(response, headers=(*self.cors, *response.headers))

    @property
    def writable(self) -> bool:
        """Whether less than `stream_queue_bytes` of answers wait to be sent."""
        return self._connection.queued < self._connection.limits.stream_queue_bytes

    def begin(self, response: Response) -> None:
        """Start an answer of unknown length with this status, headers and first bytes."""
        if self.answered or self.begun:
            return
        self.begun = True
        self._connection.begin(self, self._for_browsers(response))

    def write(self, data: bytes) -> None:
        """Send more of a begun answer."""
        if self.begun and not self.answered:
            self._connection.write_chunk(self, data)

    def end(self) -> None:
        """End a begun answer."""
        if self.begun and not self.answered:
            self.answered = True
            self._connection.end(self)


Handler = Callable[[Request], Response | None]


@dataclass(slots=True)
class HttpRoutes:
    """Paths and what answers them: exact, or by prefix for a path that ends in `/`.

    The longest prefix wins. A handler returns its answer, or None and answers later.
    """

    hosts: frozenset[str] = ANY_HOST
    """Names by which a client without TLS may ask (--host-whitelist); `*` is any, so is none."""
    origins: frozenset[str] | None = None
    """Whose pages may call from a browser (--cors); `*` is any, so is none. None: not served."""
    _exact: dict[str, tuple[Handler, frozenset[str]]] = field(default_factory=dict)
    _prefixes: dict[str, tuple[Handler, frozenset[str]]] = field(default_factory=dict)

    def add(self, path: str, handler: Handler, *methods: str) -> None:
        """Route a path; without `methods`, GET and HEAD."""
        table = self._prefixes if path.endswith("/") and path != "/" else self._exact
        assert path not in table, path
        table[path] = (handler, frozenset(methods or ("GET", "HEAD")))

    def find(self, path: str) -> tuple[Handler, frozenset[str]] | None:
        """Return the handler of a path and its verbs."""
        found = self._exact.get(path)
        if found is not None:
            return found
        prefixes = [prefix for prefix in self._prefixes if path.startswith(prefix)]
        return self._prefixes[max(prefixes, key=len)] if prefixes else None

    def handle(self, request: Request) -> None:
        """Hand a request to its route, or answer 404, 405, or 421 to a name that is not allowed."""
        host = host_of(request.headers.get("host", ""))
        if self.hosts and "*" not in self.hosts and host not in self.hosts:
            request.reply(Response(421, _UNKNOWN_HOST % json.dumps(host).encode()))
            return
        if self.origins is not None:
            request.cors = self._cors(request)
            if request.method == "OPTIONS":
                request.reply(Response(content_type=""))
                return
        found = self.find(request.path)
        if found is None:
            request.reply(NOT_FOUND)
            return
        handler, methods = found
        if request.method not in methods:
            request.reply(method_not_allowed(", ".join(sorted(methods))))
            return
        response = handler(request)
        if response is not None:
            request.reply(response)

    def _cors(self, request: Request) -> tuple[tuple[str, str], ...]:
        origins = self.origins or ANY_HOST
        everybody = "*" in origins
        origin = "*" if everybody else request.headers.get("origin", "")
        if not (everybody or origin in origins) or request.path.startswith(_OWN):
            return ()
        return (*_CORS, ("Access-Control-Allow-Origin", origin))


class Http1Connection:
    """One client's connection, driven as a GrpcConnection is: receive, data_to_send, wake."""

    __slots__ = (
        "_begun",
        "_body",
        "_body_size",
        "_clock",
        "_current",
        "_date",
        "_draining",
        "_head_bytes",
        "_head_fed",
        "_headers",
        "_in_head",
        "_last",
        "_out",
        "_parser",
        "_pending",
        "_routes",
        "_target",
        "closed",
        "dirty",
        "limits",
        "on_dirty",
        "peer",
        "wake_at",
    )

    def __init__(
        self,
        routes: HttpRoutes,
        limits: Limits,
        clock: Callable[[], float],
        *,
        peer: str = "",
        on_dirty: Callable[[], None] | None = None,
        date: Callable[[], str] | None = None,
    ) -> None:
        self._routes = routes
        self.limits = limits
        self._clock = clock
        self.peer = peer
        self.on_dirty = on_dirty
        self._date = date
        self._out: list[bytes] = []
        self._pending: deque[Request] = deque()
        self._current: Request | None = None
        self._draining = False
        self._last = False  # whether nothing that comes after what has come is to be answered
        self._begun = False  # whether a request began in the bytes being parsed
        self.closed = False
        self.dirty = False
        self.wake_at = clock() + limits.handshake_timeout
        self._reset_message()
        self._parser = httptools.HttpRequestParser(self)

    def _reset_message(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._head_fed = 0
        self._in_head = True
        self._body: list[bytes] = []
        self._body_size = 0

    @property
    def busy(self) -> int:
        """How many requests are not yet answered."""
        return len(self._pending) + (self._current is not None)

    @property
    def queued(self) -> int:
        """Bytes waiting to be sent."""
        return sum(len(piece) for piece in self._out)

    @property
    def reading(self) -> bool:
        """Whether more bytes are wanted now; False while enough requests wait."""
        return len(self._pending) < PENDING_MAX

    def mark(self) -> None:
        """Note that there is something to send."""
        if not self.dirty:
            self.dirty = True
            if self.on_dirty is not None:
                self.on_dirty()

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer; routes are called before this returns."""
        view = memoryview(data)
        while view and not self.closed and not self._last:
            self._begun = False
            try:
                self._parser.feed_data(view)
                view = view[:0]
            except httptools.HttpParserUpgrade as upgrade:
                rest = bytes(view[upgrade.args[0] :])
                view = memoryview(self._ignore_upgrade() + rest)
            except httptools.HttpParserCallbackError as error:
                self._refuse(error.__context__)
                return
            except httptools.HttpParserError as error:
                if not self._last:
                    self._refuse(error)
                break
            if self._in_head and not self._begun:
                # A line without an end stays in the parser, uncounted by on_header.
                self._head_fed += len(data)
                if self._head_fed > self.limits.http1_header_bytes_max:
                    self._refuse(_TooLargeError(431))
                    return
        self._next()

    def _ignore_upgrade(self) -> bytes:
        """Go on with HTTP/1.1 after a request that offered another protocol.

        The parser takes such a request for one without a body: of one with a body, return the head
        without the offer, to be parsed again.
        """
        self._parser = httptools.HttpRequestParser(self)
        request = self._pending[-1]
        headers = request.headers
        bodiless = "content-length" not in headers and "transfer-encoding" not in headers
        if bodiless or request.method == "CONNECT":
            return b""
        self._last = False
        self._pending.pop()
        query = f"?{request.query_string}" if request.query_string else ""
        lines = [f"{request.method} {quote(request.path)}{query} HTTP/1.1"]
        dropped = ("upgrade", "connection", "expect")
        lines.extend(f"{name}: {headers[name]}" for name in headers if name not in dropped)
        if not request.keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _refuse(self, error: BaseException | None) -> None:
        """Answer bytes that are no acceptable request, and end the connection.

        Requests that came before still wait for their answers: those are dropped, for the
        answers' order would say which one was meant.
        """
        status = error.status if isinstance(error, _TooLargeError) else 400
        if error is not None and not isinstance(error, httptools.HttpParserError | _TooLargeError):
            raise error
        self._pending.clear()
        if self._current is None:
            text = f"{status} {_REASONS[status]}".encode()
            self._out.append(self._head(Response(status, text), len(text), keep_alive=False) + text)
        self._end_connection()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Start a request."""
        self._reset_message()
        self._begun = True
        if self._current is None:
            self.wake_at = self._clock() + self.limits.http1_idle_timeout

    def on_url(self, url: bytes) -> None:
        """Take (a part of) the target."""
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; values of the same name are joined with a comma."""
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"
        self._count_head(len(name) + len(value))
        if len(self._headers) > self.limits.header_count_max:
            raise _TooLargeError(431)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.http1_header_bytes_max:
            raise _TooLargeError(431)

    def on_headers_complete(self) -> None:
        """Know the headers: a body may follow."""
        self._in_head = False
        # int() refuses thousands of digits, and zeros may be as many as fit into a head.
        length = self._headers.get("content-length", "").lstrip("0")
        if length.isdecimal() and (
            len(length) > _LENGTH_DIGITS_MAX or int(length) > self.limits.http1_body_bytes_max
        ):
            raise _TooLargeError(413)
        if self._headers.get("expect", "").lower() == "100-continue" and not self.busy:
            self._out.append(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.mark()

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._body_size += len(data)
        if self._body_size > self.limits.http1_body_bytes_max:
            raise _TooLargeError(413)
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Queue the request."""
        parser = self._parser
        method = parser.get_method().decode("latin-1")
        request = Request(self, method, self._target, self._headers)
        request.body = b"".join(self._body)
        # To the parser whatever comes after a CONNECT is the tunnel's, which is not offered here.
        request.keep_alive = parser.should_keep_alive() and method != "CONNECT"
        self._last = not request.keep_alive
        self._pending.append(request)
        self._reset_message()

    # Answers.

    def _next(self) -> None:
        """Hand on the next request once the one before is answered; one in a turn of the loop.

        Never while a request is being answered: that may be in the middle of a view.
        """
        if self._current is None and self._pending and not self.closed:
            request = self._current = self._pending.popleft()
            self.wake_at = NEVER
            self._routes.handle(request)

    def _head(self, response: Response, length: int | None, *, keep_alive: bool) -> bytes:
        status = response.status
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
        if response.content_type:
            lines.append(f"Content-Type: {response.content_type}")
        lines.extend(f"{name}: {value}" for name, value in response.headers)
        if self._date is not None:
            lines.append(f"Date: {self._date()}")
        if length is None:
            lines.append("Transfer-Encoding: chunked")
        else:
            lines.append(f"Content-Length: {length}")
        if not keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _keeps_alive(self, request: Request) -> bool:
        return request.keep_alive and not self._draining

    def answer(self, request: Request, response: Response) -> None:
        """Send a whole answer to the current request."""
        if request is not self._current:
            return
        request.keep_alive &= not response.closes
        keep_alive = self._keeps_alive(request)
        head = self._head(response, len(response.body), keep_alive=keep_alive)
        self._out.append(head if request.method == "HEAD" else head + response.body)
        self._answered(request)

    def begin(self, request: Request, response: Response) -> None:
        """Send the head of an answer of unknown length."""
        if request is not self._current:
            return
        self._out.append(self._head(response, None, keep_alive=self._keeps_alive(request)))
        if response.body:
            self.write_chunk(request, response.body)
        self.mark()

    def write_chunk(self, request: Request, data: bytes) -> None:
        """Send one chunk; an empty one would end the answer, so it is not sent."""
        if request is self._current and data and request.method != "HEAD":
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))
            self.mark()

    def end(self, request: Request) -> None:
        """Send the last chunk."""
        if request is self._current:
            if request.method != "HEAD":
                self._out.append(b"0\r\n\r\n")
            self._answered(request)

    def _answered(self, request: Request) -> None:
        self._current = None
        if not self._keeps_alive(request) or (self._last and not self._pending):
            self._end_connection()
        else:
            self.wake_at = self._clock() + self.limits.http1_idle_timeout
        self.mark()

    def _end_connection(self) -> None:
        self.closed = True
        self.wake_at = NEVER
        self._pending.clear()
        current, self._current = self._current, None
        if current is not None:
            _gone(current)
        self.mark()

    def data_to_send(self, amount: int | None = None) -> bytes:
        """Take what is to be sent; `amount` is only a wish here."""
        del amount
        self.dirty = False
        self._next()
        if self._pending and self._current is None:
            self.mark()
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data

    def wake(self, now: float) -> None:
        """End a connection that has been idle, or half a request, for too long."""
        if now >= self.wake_at and not self.closed:
            if self._target or self._body_size:
                self._out.append(self._head(Response(408), 0, keep_alive=False))
            self._end_connection()

    def drain(self) -> None:
        """Take no new requests; the connection is `closed` when the open ones are answered."""
        self._draining = True
        if self._current is not None and self._current.on_drain is not None:
            self._current.on_drain()
        if not self.busy and not self.closed:
            self._end_connection()

    def ended(self) -> bool:
        """Tell whether a peer that sends no more is still to be answered.

        An answer that was begun is for one that listens for ever: it ends here.
        """
        self._last = True
        current = self._current
        return bool(self._pending or self._out) or (current is not None and not current.begun)

    def lost(self) -> None:
        """End every request: the peer has gone."""
        self._out.clear()
        self._end_connection()
        self.on_dirty = None
        del self._parser  # which refers to us: the garbage collector may be off


class _TooLargeError(Exception):
    """A request is larger than its bounds; the status says which."""

    def __init__(self, status: int) -> None:
        super().__init__(_REASONS[status])
        self.status = status


def _gone(request: Request) -> None:
    if not request.answered:
        request.answered = True
        if request.on_close is not None:
            request.on_close()
