"""`/debug/actors`: what troupectl shows, as a page and as JSON, on the client and metrics URLs.

Read-only (but for faults, see debug_faults.py) and without values: everything comes from the board,
the recorders and the actors' own summaries. It answers while any other actor is stuck or dead. What
may take milliseconds (memory maps, questions to other processes) runs on threads of its own: the
event loop never waits for it. Each answer ends its connection: a page that was served by a gateway
that is stuck now finds another one with its next question. A page that fails is logged and answered
with 500, as by Go's net/http: it has only looked, and what clients are served by goes on.

    /debug/actors                         the page
    /debug/actors/tree.json top.json edges.json events.json explain.json slow.json crashes.json
    /debug/actors/explain.json?over=100ms&limit=20&kept   as `troupectl explain` takes them
    /debug/actors/recorder/ACTOR.json state/ACTOR.json peek/ACTOR.json tap/ACTOR.json
    /debug/actors/crash/REPORT.json       a crash report, whole
    /debug/actors/events?stream tap/ACTOR?stream   server-sent events, see debug_streams.py
    /debug/actors/faults                           GET: whether there are any; POST: one
    /debug/vars                           etcd's variables, see debug_vars.py
"""

from __future__ import annotations

import asyncio
import json
import time
from argparse import ArgumentTypeError
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from actors import debug_faults
from actors.debug_streams import EventStreams, page_failed
from actors.debug_vars import expvars
from api.http1 import NOT_FOUND, HttpRoutes, Request, Response
from control import crash, edges, explain, peek, recorder, state, tap, top, tree
from control.fault import milliseconds
from control.observe import EdgeSample, MemberView, ObserveError, Sample
from transport.control import ControlTimeoutError
from transport.log import Logger

ROOT: Final = "/debug/actors"
JSON: Final = "application/json"
THREADS_MAX: Final = 2
WAITING_MAX: Final = 32
RATE_SECONDS: Final = 0.5
TAP_SECONDS: Final = 1.0
TAP_MESSAGES: Final = 100
SLOWEST: Final = 10
LIMIT_MAX: Final = 1000
_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)
_POLICY: Final = (
    "Content-Security-Policy",
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
)
T = TypeVar("T")
Handler = Callable[[Request], Response | None]


class Rates(Generic[T]):
    """Remembers samples, so that a rate is one of about the last second, whoever asks."""

    def __init__(self, take: Callable[[], T]) -> None:
        self._take = take
        self._past: deque[tuple[float, T]] = deque(maxlen=8)

    def pair(self) -> tuple[T, T, float]:
        """Return a sample from RATE_SECONDS ago or a little more, one of now, and the seconds."""
        now = time.monotonic()
        if not self._past or now - self._past[0][0] < RATE_SECONDS / 4:
            self._past.append((now, self._take()))
            time.sleep(RATE_SECONDS / 2)
            now = time.monotonic()
        current = self._take()
        old = [one for one in self._past if now - one[0] >= RATE_SECONDS]
        when, before = old[-1] if old else self._past[0]
        if now - self._past[-1][0] >= RATE_SECONDS / 2:
            self._past.append((now, current))
        return before, current, now - when


class ActorPages:
    """The pages of one member, served by one gateway."""

    def __init__(self, run_dir: Path, loop: asyncio.AbstractEventLoop, log: Logger) -> None:
        self._run_dir = run_dir
        self._loop = loop
        self._log = log
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._streams = EventStreams(loop, _HEADERS, log)
        self._opened: MemberView | None = None
        self._top: Rates[dict[str, Sample]] = Rates(self._samples)
        self._edges: Rates[list[EdgeSample]] = Rates(lambda: list(self._view().edges()))
        self._whole: dict[str, Callable[[], Any]] = {
            "tree": lambda: tree.tree(self._view()),
            "top": self._top_rows,
            "edges": self._edge_rows,
            "events": self._events,
            "slow": lambda: explain.kept(self._view()),
            "crashes": lambda: crash.listing(self._view()),
        }
        self._of_actor: dict[str, Callable[[str], Any]] = {
            "recorder": lambda name: recorder.recorder(self._view(), name),
            "state": lambda name: state.state(self._view(), name),
            "peek": lambda name: peek.peek(self._view(), name),
            "tap": self._tap,
        }

    def add_to(self, routes: HttpRoutes) -> None:
        """Route the pages."""
        routes.add("/debug/vars", self._guarded(self._vars), "GET")
        routes.add(ROOT, self._guarded(self._page))
        routes.add(f"{ROOT}/", self._guarded(self._data))
        routes.add(f"{ROOT}/faults", self._guarded(self._faults), "GET", "POST")

    def _guarded(self, handler: Handler) -> Handler:
        def handle(request: Request) -> Response | None:
            try:
                return handler(request)
            except Exception as error:  # noqa: BLE001 - as net/http recovers a handler
                return _failed(page_failed(self._log, request.path, error), 500)

        return handle

    def _page(self, _: Request) -> Response:
        body = files("actors").joinpath("web/actors.html").read_bytes()
        return Response(200, body, "text/html; charset=utf-8", (*_HEADERS, _POLICY), closes=True)

    def _vars(self, request: Request) -> Response | None:
        return self._later(request, lambda: expvars(self._view()))

    def _data(self, request: Request) -> Response | None:
        path = request.path[len(ROOT) + 1 :]
        if not path.endswith(".json"):
            return self._stream(request, path) if "stream" in request.query else NOT_FOUND
        kind, _, name = path.removesuffix(".json").partition("/")
        if path == "explain.json":
            return self._explain(request)
        try:
            if not name:
                return self._later(request, self._whole[kind])
            if kind == "crash":
                return self._later(request, lambda: self._report(name))
            of_actor = self._of_actor[kind]
            if name not in self._view().board.names:
                return NOT_FOUND
        except KeyError:
            return NOT_FOUND
        except ObserveError as error:
            return _failed(str(error))
        return self._later(request, lambda: of_actor(name))

    def _explain(self, request: Request) -> Response | None:
        """Answer as `troupectl explain --over=.. --limit=.. --kept` would."""
        query = request.query
        try:
            over = milliseconds(query.get("over", ["0"])[-1])
            limit = int(query.get("limit", [str(SLOWEST)])[-1])
            if not 0 <= limit <= LIMIT_MAX:
                raise ValueError(f"a limit is between 0 and {LIMIT_MAX}")
        except (ArgumentTypeError, ValueError) as error:
            return _failed(str(error), 400)
        look = explain.kept if "kept" in query else explain.explain
        return self._later(request, lambda: look(self._view(), slower_than_ms=over, limit=limit))

    def _stream(self, request: Request, path: str) -> Response | None:
        kind, _, name = path.partition("/")
        try:
            if path == "events":
                return self._streams.events(request, self._view())
            if kind == "tap" and name != "root" and name in self._view().board.names:
                return self._streams.tap(request, self._view(), name)
        except ObserveError as error:
            return _failed(str(error))
        return NOT_FOUND

    def _faults(self, request: Request) -> Response | None:
        if request.method == "GET":
            return _json(debug_faults.offered(self._run_dir))
        try:
            debug_faults.check_owner(self._run_dir, request)
            order = debug_faults.parse_order(request.body)
        except debug_faults.FaultRefusedError as error:
            return _failed(str(error), 403)
        except debug_faults.FaultOrderError as error:
            return _failed(str(error), 400)
        return self._later(request, lambda: debug_faults.inject(self._view(), order))

    def _later(self, request: Request, work: Callable[[], Any]) -> Response | None:
        """Have it answered by a thread; refuse what nobody will get to."""
        if self._waiting >= WAITING_MAX:
            return _failed("too many questions at once")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="debug")
        self._waiting += 1
        self._threads.submit(self._answered, request.path, work).add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._reply, request, done)
        )
        return None

    def _reply(self, request: Request, done: Future[Response]) -> None:
        self._waiting -= 1
        request.reply(done.result())

    def _view(self) -> MemberView:
        if self._opened is None:
            self._opened = MemberView(self._run_dir)
        return self._opened

    # --- on the threads ---------------------------------------------------------------------------

    def _answered(self, path: str, work: Callable[[], Any]) -> Response:
        try:
            return _json(work())
        except (ObserveError, ControlTimeoutError) as error:
            return _failed(str(error) or "no answer")
        except Exception as error:  # noqa: BLE001 - as net/http recovers a handler: it only looks
            return _failed(page_failed(self._log, path, error), 500)

    def _samples(self) -> dict[str, Sample]:
        view = self._view()
        return {name: view.sample(name, memory=True) for name in view.actors()}

    def _top_rows(self) -> dict[str, Any]:
        before, now, seconds = self._top.pair()
        rows = [top.row(sample, before[name], seconds) for name, sample in now.items()]
        return {"member": self._view().info["name"], "actors": rows}

    def _edge_rows(self) -> list[dict[str, Any]]:
        before, now, seconds = self._edges.pair()
        past = {(edge.sender, edge.receiver): edge for edge in before}
        return [edges.row(edge, past.get((edge.sender, edge.receiver)), seconds) for edge in now]

    def _events(self) -> list[dict[str, Any]]:
        answer = tree.ask_root(self._view(), "events", timeout=1.0)
        if answer is None:
            raise ObserveError("root does not answer")
        events: list[dict[str, Any]] = answer["events"]
        return events

    def _report(self, name: str) -> dict[str, Any]:
        return crash.load(crash.crash_directory(Path(self._view().info["data_dir"])), name)

    def _tap(self, name: str) -> list[dict[str, Any]]:
        """Return what passes within a second; never values."""
        seen: list[dict[str, Any]] = []
        tap.tap(self._view(), name, seen.append, limit=TAP_MESSAGES, seconds=TAP_SECONDS)
        return seen


def _json(found: Any) -> Response:
    body = json.dumps(found, separators=(",", ":")).encode()
    return Response(200, body, JSON, _HEADERS, closes=True)


def _failed(text: str, status: int = 503) -> Response:
    return Response(status, json.dumps({"error": text}).encode(), JSON, _HEADERS, closes=True)
