"""gofail's HTTP protocol and environment, so that suites which drive etcd by it can drive trouped.

Only on a member with --enable-faults, and with GOFAIL_HTTP (host:port, served by root; without a
host on loopback alone) or GOFAIL_FAILPOINTS (`name=terms;name=terms`) in the environment;
actors.failpoints has the points and acts. As every fault a point ends by itself: after
POINT_SECONDS or what TROUPED_FAILPOINT_SECONDS says; a PUT begins it anew. Status codes and texts
are gofail's (runtime/http.go): GET / lists `name=terms` lines, GET /name and GET /name/count tell,
PUT /name activates, PUT /failpoints many, DELETE /name ends one.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from actors.failpoints import (
    FILE,
    POINTS,
    SLOT_WORDS,
    TERMS_FILE,
    Counts,
    FailpointTermError,
    parse_terms,
)
from actors.faults import REFUSED, seconds_of
from supervisor.errors import StartError
from supervisor.go_syntax import SECOND, parse_duration
from supervisor.logs import LogSink
from supervisor.urls import split_host_port

SECONDS_VARIABLE: Final = "TROUPED_FAILPOINT_SECONDS"
POINT_SECONDS: Final = 60.0
"""How long a point is active; longer than other faults, since gofail knows no end."""
NOT_ARMED: Final = "GOFAIL_HTTP and GOFAIL_FAILPOINTS are ignored: "
BODY_BYTES_MAX: Final = 64 << 10
TIMEOUT_SECONDS: Final = 10.0
LOOPBACK: Final = "127.0.0.1"
NO_SUCH_POINT: Final = "failpoint: failpoint does not exist"
DISABLED: Final = "failpoint: failpoint is disabled"
_SLEEP: Final = re.compile(r'sleep\("([^"]*)"\)')


class FailpointRefusedError(ValueError):
    """What gofail would refuse, in its words."""


class FailpointTable:
    """Root's side of the points: what is active, and until when. Any thread may use it."""

    def __init__(
        self,
        run_dir: Path,
        seconds: float = POINT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A point is active for so many seconds of `clock`, which actors share."""
        self._path = run_dir / TERMS_FILE
        self._path.write_text("{}")
        self._counts = Counts(run_dir / FILE, create=True)
        self._lock = threading.Lock()
        self._active: dict[str, tuple[str, float]] = {}
        self._seconds = seconds
        self._clock = clock

    def enable(self, wanted: Mapping[str, str]) -> None:
        """Activate points; their counts begin anew. Raises FailpointRefusedError."""
        for name, text in wanted.items():
            with self._lock:
                _known(name)
                try:
                    parse_terms(_in_milliseconds(text))
                except FailpointTermError as error:
                    raise FailpointRefusedError(str(error)) from None
                self._active[name] = text, self._clock() + self._seconds
                slot = self._counts.slot(name)
                for word in range(slot, slot + SLOT_WORDS):
                    self._counts.words[word] = 0
                self._publish()

    def disable(self, name: str) -> None:
        """End a point. Raises FailpointRefusedError."""
        with self._lock:
            _known(name)
            self._forget_expired()
            if self._active.pop(name, None) is None:
                raise FailpointRefusedError(DISABLED)
            self._publish()

    def status(self, name: str) -> tuple[str, int]:
        """Return a point's terms and how often they have acted. Raises FailpointRefusedError."""
        with self._lock:
            _known(name)
            self._forget_expired()
            if name not in self._active:
                raise FailpointRefusedError(DISABLED)
            return self._active[name][0], self._counts.words[self._counts.slot(name)]

    def listing(self) -> str:
        """Return all points, a line each."""
        with self._lock:
            self._forget_expired()
            terms = {name: text for name, (text, _) in self._active.items()}
            return "".join(f"{name}={terms.get(name, '')}\n" for name in sorted(POINTS))

    def _forget_expired(self) -> None:
        """Actors see the moment for themselves; nobody has to be told."""
        now = self._clock()
        self._active = {
            name: (text, end) for name, (text, end) in self._active.items() if now < end
        }

    def _publish(self) -> None:
        """Write the terms, then let actors know: a reader of the new number finds them."""
        partial = self._path.with_suffix(".new")
        terms = {name: (_in_milliseconds(text), end) for name, (text, end) in self._active.items()}
        partial.write_text(json.dumps(terms))
        partial.rename(self._path)
        self._counts.words[0] += 1


def _known(name: str) -> None:
    if name not in POINTS:
        raise FailpointRefusedError(NO_SUCH_POINT)


def _in_milliseconds(text: str) -> str:
    """Return terms with every `sleep("1.5s")` as `sleep(1500)`, which is the same to gofail."""

    def milliseconds(found: re.Match[str]) -> str:
        with suppress(ValueError):
            return f"sleep({round(parse_duration(found[1]) * 1000 / SECOND)})"
        return found[0]

    return _SLEEP.sub(milliseconds, text)


def parse_failpoints(text: str) -> dict[str, str]:
    """Return name -> terms of `name=terms;name=terms`. Raises FailpointRefusedError."""
    found = {}
    for part in filter(None, text.split(";")):
        name, equals, terms = part.partition("=")
        if not equals or "=" in terms:
            raise FailpointRefusedError(f"bad failpoint {json.dumps(part)}")
        found[name] = terms
    return found


class _Handler(BaseHTTPRequestHandler):
    """One request. `table` is set by `_serve`."""

    table: FailpointTable
    timeout = TIMEOUT_SECONDS
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List, or tell of one."""
        key = self.path[1:]
        try:
            if not key:
                self._answer(200, self.table.listing())
            elif key.endswith("/count"):
                self._answer(200, str(self.table.status(key.removesuffix("/count"))[1]))
            else:
                self._answer(200, self.table.status(key)[0] + "\n")
        except FailpointRefusedError as error:
            missing = not key.endswith("/count") or str(error) == NO_SUCH_POINT
            self._answer(404 if missing else 500, f"failed to GET: {error}\n")

    def do_PUT(self) -> None:
        """Activate."""
        key = self.path[1:]
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._answer(400, "failed ReadAll in PUT\n")
            return
        text = self.rfile.read(int(length)).decode(errors="replace")
        try:
            wanted = parse_failpoints(text) if key.lower() == "failpoints" else {key: text}
        except FailpointRefusedError as error:
            self._answer(400, f"fail to parse failpoint: {error}\n")
            return
        try:
            self.table.enable(wanted)
        except FailpointRefusedError as error:
            self._answer(400, f"fail to set failpoint: {error}\n")
        else:
            self._answer(204, "")

    def do_DELETE(self) -> None:
        """Deactivate."""
        try:
            self.table.disable(self.path[1:])
        except FailpointRefusedError as error:
            self._answer(400, f"failed to delete failpoint {error}\n")
        else:
            self._answer(204, "")

    def do_POST(self) -> None:
        """Refuse."""
        self.close_connection = True
        self._answer(405, "Method not allowed\n")

    def _answer(self, code: int, text: str) -> None:
        data = text.encode()
        self.send_response(code)
        if code != 204:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing on standard error."""


class Gofail:
    """What root does for gofail, for as long as it lives."""

    def __init__(
        self, run_dir: Path, environ: Mapping[str, str], sink: LogSink, *, enabled: bool
    ) -> None:
        """Arm the points before the first child starts, if `enabled`. Raises StartError."""
        self.table: FailpointTable | None = None
        self.address = ""
        self._server: ThreadingHTTPServer | None = None
        wanted, listen = environ.get("GOFAIL_FAILPOINTS", ""), environ.get("GOFAIL_HTTP", "")
        if not (wanted or listen):
            return
        if not enabled:
            sink.log("error", NOT_ARMED + REFUSED)
            return
        self.table = FailpointTable(run_dir, _seconds(environ.get(SECONDS_VARIABLE, "")))
        try:
            self.table.enable(parse_failpoints(wanted))
        except FailpointRefusedError as error:
            raise StartError(f"fail to parse failpoint: {error}") from None
        if listen:
            self._serve(self.table, listen)
        where = self.address or "no address"
        sink.log("warn", "failpoints are armed; never use them in production", gofail_http=where)
        if listen and not _is_loopback(listen):
            text = "GOFAIL_HTTP is not a loopback address: whoever reaches it can stop this member"
            sink.log("warn", text, gofail_http=where)

    def _serve(self, table: FailpointTable, listen: str) -> None:
        handler = type("Handler", (_Handler,), {"table": table})
        try:
            host, port = split_host_port(listen)
            self._server = ThreadingHTTPServer((host or LOOPBACK, int(port)), handler)
        except (OSError, ValueError, OverflowError) as error:
            raise StartError(f"cannot serve GOFAIL_HTTP on {listen}: {error}") from None
        self._server.daemon_threads = True
        self.address = "{}:{}".format(*self._server.server_address[:2])
        threading.Thread(target=self._server.serve_forever, name="gofail", daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _seconds(text: str) -> float:
    """Return how long points are active. Raises StartError."""
    try:
        return seconds_of({"for": text or POINT_SECONDS})
    except ValueError as error:
        raise StartError(f"{SECONDS_VARIABLE}: {error}") from None


def _is_loopback(listen: str) -> bool:
    host, _ = split_host_port(listen)
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host in ("", "localhost")
