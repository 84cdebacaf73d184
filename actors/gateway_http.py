"""HTTP pages of a member on its client port: version, health, readiness, metrics.

Bodies and status codes are etcd's (server/etcdserver/api/etcdhttp); health is asked as there:
alarms, then the leader, then a read, linearizable unless the query says `serializable=true`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from actors.debug_pages import ActorPages
from actors.exposition import MemberCollector, exposition
from actors.gateway_status import MemberWords
from actors.memory import ActorMemory
from actors.metrics import GatewayMetric
from api.http1 import HttpRoutes, Request, Response
from api.maintenance import alarm_name
from kv.errors import Status
from kv.version import VERSION
from storage.reader import Reader

Read = Callable[..., None]
Count = Callable[[int], None]
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = "application/json"
LIVEZ: Final = ("serializable_read",)
READYZ: Final = ("data_corruption", "serializable_read", "linearizable_read", "non_learner")


class _Probe:
    """A read whose outcome is a text: empty when it went well."""

    closed = False

    def __init__(self, done: Callable[[str], None]) -> None:
        self._done = done

    def fail(self, status: Status) -> None:
        """The read was refused."""
        self._done(status.text)

    def passed(self, view: Any, _: Any) -> None:
        """The read was served."""
        self._done("")


def _unavailable(body: bytes) -> Response:
    return Response(503, body, headers=(("X-Content-Type-Options", "nosniff"),))


class MemberPages:
    """The pages of one member, served by one gateway."""

    def __init__(
        self,
        read: Read,
        reader: Reader,
        status: MemberWords,
        collector: MemberCollector,
        count: Count,
        debug: ActorPages | None = None,
        memory: ActorMemory | None = None,
    ) -> None:
        """`read(call, serve, serializable=...)` queues a read, `count` counts a metric word."""
        self._memory = memory
        self._debug = debug
        self._read = read
        self._reader = reader
        self._status = status
        self._collector = collector
        self._count = count

    def routes(self, *, for_metrics: bool = False) -> HttpRoutes:
        """Return what answers which path.

        Metrics URLs go without the version, and each scrape there is a connection of its own: the
        next one finds a gateway that lives.
        """
        routes = HttpRoutes()
        if not for_metrics:
            routes.add("/version", self._version, "GET")
        routes.add("/health", self._health, "GET")
        routes.add("/metrics", lambda request: self._metrics(request, closes=for_metrics))
        if self._debug is not None:
            self._debug.add_to(routes)
        for page, checks in (("/livez", LIVEZ), ("/readyz", READYZ)):
            routes.add(page, self._checks_page(checks), "GET")
            for check in checks:
                routes.add(f"{page}/{check}", self._checks_page((check,)), "GET")
        return routes

    def _version(self, _: Request) -> Response:
        with self._reader.view() as view:
            decided = view.cluster_version()
        versions = {
            "etcdserver": VERSION,
            "etcdcluster": decided or "not_decided",
            "storage": decided or "unknown",
        }
        body = json.dumps(versions, separators=(",", ":")).encode()
        return Response(200, body, _JSON)

    def _metrics(self, request: Request, *, closes: bool) -> None:
        def answer() -> None:
            body = exposition(self._collector)
            request.reply(Response(200, body, _METRICS_TYPE, closes=closes))

        if self._memory is None:
            answer()
        else:
            self._memory.when_fresh(answer)

    def _health(self, request: Request) -> None:
        excluded = request.query.get("exclude", [])
        serializable = request.query.get("serializable", [""])[0] == "true"

        def done(reason: str) -> None:
            self._count(GatewayMetric.HEALTH_FAILURES if reason else GatewayMetric.HEALTH_SUCCESS)
            health = {"health": "false" if reason else "true", "reason": reason}
            body = json.dumps(health, separators=(",", ":")).encode()
            request.reply(_unavailable(body + b"\n") if reason else Response(200, body))

        for alarm in self._alarms():
            if alarm not in excluded:
                done(f"ALARM {alarm}")
                return
        if not serializable and not self._status.leader:
            done("RAFT NO LEADER")
            return
        probe = _Probe(lambda text: done(text and f"RANGE ERROR:{text}"))
        self._read(probe, probe.passed, serializable=serializable)

    def _alarms(self) -> list[str]:
        with self._reader.view() as view:
            raised = {alarm for _, alarm in view.alarms()}
        return sorted(alarm_name(alarm) for alarm in raised)

    def _checks_page(self, checks: tuple[str, ...]) -> Callable[[Request], None]:
        def handle(request: Request) -> None:
            excluded = request.query.get("exclude", [])
            wanted = [check for check in checks if check not in excluded]
            verbose = "verbose" in request.query
            _Checklist(self, request, wanted, verbose=verbose).start()

        return handle

    def check(self, name: str, done: Callable[[str], None]) -> None:
        """Run one check; `done("")` if it passes, else why not."""
        if name == "data_corruption":
            done("alarm activated: CORRUPT" if "CORRUPT" in self._alarms() else "")
        elif name == "non_learner":
            done("local node is learner" if self._status.is_learner else "")
        else:
            probe = _Probe(done)
            self._read(probe, probe.passed, serializable=name == "serializable_read")


class _Checklist:
    """Runs checks one after the other and answers with all of their outcomes."""

    def __init__(
        self, pages: MemberPages, request: Request, checks: list[str], *, verbose: bool
    ) -> None:
        self._pages = pages
        self._request = request
        self._waiting = list(checks)
        self._outcomes: list[tuple[str, str]] = []
        self._verbose = verbose

    def start(self) -> None:
        if not self._waiting:
            self._answer()
            return
        check = self._waiting.pop(0)

        def done(text: str) -> None:
            self._outcomes.append((check, text))
            self.start()

        self._pages.check(check, done)

    def _answer(self) -> None:
        failed = any(text for _, text in self._outcomes)
        lines = [
            f"[-]{check} failed: {text}\n" if text else f"[+]{check} ok\n"
            for check, text in self._outcomes
        ]
        if failed:
            self._request.reply(_unavailable("".join(lines).encode()))
        else:
            body = "".join(lines) + "ok\n" if self._verbose else "ok\n"
            self._request.reply(Response(200, body.encode()))
