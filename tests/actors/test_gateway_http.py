"""The HTTP pages: etcd's bodies, codes and content types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.exposition import MemberCollector
from actors.gateway_http import MemberPages
from actors.gateway_status import MemberWords
from actors.metrics import GatewayMetric, RaftMetric
from api.http1 import Response
from etcdpb.rpc_pb2 import AlarmType
from kv.errors import TIMEOUT
from kv.version import VERSION
from tests.actors.boards import make_board
from transport.counters import Cell

PAGES = ("/version", "/health", "/metrics", "/livez", "/readyz", "/livez/serializable_read")
TEXT = "text/plain; charset=utf-8"


class Database:
    """A view's alarms and version."""

    def __init__(self) -> None:
        self.raised: list[tuple[int, int]] = []
        self.version: str | None = "3.7.0"

    @contextmanager
    def view(self) -> Iterator[Database]:
        yield self

    def alarms(self) -> list[tuple[int, int]]:
        return self.raised

    def cluster_version(self) -> str | None:
        return self.version


class Request:
    """One GET."""

    def __init__(self, query: dict[str, list[str]]) -> None:
        self.query = query
        self.answers: list[Response] = []

    def reply(self, response: Response) -> None:
        self.answers.append(response)


class Site:
    """The pages of a member; reads are served at once, or fail."""

    def __init__(self, folder: Path) -> None:
        self.board = make_board(folder)
        self.board.set("raft-node", Cell.METRICS + RaftMetric.LEADER, 7)
        self.database = Database()
        self.linearizable_fails = False
        self.reads: list[bool] = []
        self.counted: list[int] = []
        status = MemberWords(self.board, 2 << 30)
        collector = MemberCollector(self.board, status, dict)
        reader: Any = self.database
        self.status = status
        self.routes = MemberPages(
            self._read, reader, status, collector, self.counted.append
        ).routes()

    def _read(self, call: Any, serve: Any, *, serializable: bool) -> None:
        self.reads.append(serializable)
        if self.linearizable_fails and not serializable:
            call.fail(TIMEOUT)
        else:
            serve(self.database, call)

    def get(self, path: str, **query: list[str]) -> Response:
        found = self.routes.find(path)
        assert found is not None
        request: Any = Request(query)
        answer = found[0](request)
        if answer is not None:
            request.answers.append(answer)
        (response,) = request.answers
        assert isinstance(response, Response)
        return response


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_only_get_is_answered_as_in_etcd(site: Site) -> None:
    verbs = {}
    for page in PAGES:
        found = site.routes.find(page)
        assert found is not None
        verbs[page] = found[1]

    assert {page for page, allowed in verbs.items() if allowed != {"GET"}} <= {"/metrics"}


def test_version_names_server_cluster_and_storage(site: Site) -> None:
    response = site.get("/version")

    assert (response.status, response.content_type) == (200, "application/json")
    assert response.body.decode() == (
        f'{{"etcdserver":"{VERSION}","etcdcluster":"3.7.0","storage":"3.7.0"}}'
    )


def test_an_undecided_version_is_said_to_be(site: Site) -> None:
    site.database.version = None

    found = json.loads(site.get("/version").body)

    assert (found["etcdcluster"], found["storage"]) == ("not_decided", "unknown")


def test_a_healthy_member_says_so_and_counts_it(site: Site) -> None:
    response = site.get("/health")

    assert (response.status, response.content_type) == (200, TEXT)
    assert response.body == b'{"health":"true","reason":""}'
    assert site.reads == [False]
    assert site.counted == [GatewayMetric.HEALTH_SUCCESS]


def test_health_may_be_asked_without_a_quorum(site: Site) -> None:
    site.board.set("raft-node", Cell.METRICS + RaftMetric.LEADER, 0)

    alone = site.get("/health", serializable=["true"])
    together = site.get("/health")

    assert alone.status == 200
    assert site.reads == [True]
    assert (together.status, together.body) == (
        503,
        b'{"health":"false","reason":"RAFT NO LEADER"}\n',
    )
    assert site.counted == [GatewayMetric.HEALTH_SUCCESS, GatewayMetric.HEALTH_FAILURES]


def test_a_failed_read_is_a_reason(site: Site) -> None:
    site.linearizable_fails = True

    response = site.get("/health")

    assert response.status == 503
    assert json.loads(response.body)["reason"] == f"RANGE ERROR:{TIMEOUT.text}"
    assert ("X-Content-Type-Options", "nosniff") in response.headers


def test_an_alarm_is_a_reason_unless_it_is_excluded(site: Site) -> None:
    site.database.raised = [(7, AlarmType.NOSPACE)]

    raised = site.get("/health")
    excluded = site.get("/health", exclude=["NOSPACE"])

    assert json.loads(raised.body)["reason"] == "ALARM NOSPACE"
    assert excluded.status == 200


def test_readyz_tells_each_check_when_asked_to(site: Site) -> None:
    plain = site.get("/readyz")
    verbose = site.get("/readyz", verbose=[""])

    assert plain.body == b"ok\n"
    assert verbose.body.decode().splitlines() == [
        "[+]data_corruption ok",
        "[+]serializable_read ok",
        "[+]linearizable_read ok",
        "[+]non_learner ok",
        "ok",
    ]


def test_a_failed_check_is_named_with_its_reason(site: Site) -> None:
    site.linearizable_fails = True

    response = site.get("/readyz")

    assert response.status == 503
    assert f"[-]linearizable_read failed: {TIMEOUT.text}\n" in response.body.decode()
    assert site.get("/livez").status == 200
    assert site.get("/readyz", exclude=["linearizable_read"]).status == 200


def test_corruption_makes_a_member_unready_and_a_full_disk_does_not(site: Site) -> None:
    site.database.raised = [(7, AlarmType.NOSPACE)]
    full = site.get("/readyz")
    site.database.raised = [(7, AlarmType.CORRUPT)]
    corrupt = site.get("/readyz/data_corruption")

    assert full.status == 200
    assert (corrupt.status, corrupt.body) == (
        503,
        b"[-]data_corruption failed: alarm activated: CORRUPT\n",
    )


def test_a_learner_is_not_ready(site: Site) -> None:
    site.status.is_learner = True

    response = site.get("/readyz/non_learner")

    assert response.body == b"[-]non_learner failed: local node is learner\n"


def test_metrics_are_in_prometheus_text_format(site: Site) -> None:
    response = site.get("/metrics")

    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE etcd_server_has_leader gauge\netcd_server_has_leader 1.0\n" in response.body
