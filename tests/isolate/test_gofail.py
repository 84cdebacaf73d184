"""gofail's HTTP protocol on a real member, and what clients see of a panic: nothing."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.failpoints import POINTS
from pytest_trouped.client import Client
from pytest_trouped.member import Member, MemberError, free_port
from supervisor.errors import StartError
from supervisor.gofail import Gofail
from supervisor.logs import LogSink

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    environ = {
        "GOFAIL_HTTP": f"127.0.0.1:{free_port()}",
        "GOFAIL_FAILPOINTS": "compactAfterCommitBatch=sleep(1);afterStartDBTxn=off",
    }
    with Member(tmp_path_factory.mktemp("m"), environ=environ, flags=["--enable-faults"]) as made:
        made.gofail = environ["GOFAIL_HTTP"]  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def client(member: Member) -> Iterator[Client]:
    with Client(member.endpoint) as made:
        yield made


def ask(member: Member, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(member.gofail, timeout=10)  # type: ignore[attr-defined]
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_get_lists_every_point_with_its_terms(member: Member) -> None:
    code, text = ask(member, "GET", "/")

    lines = text.splitlines()
    assert code == 200
    assert [line.partition("=")[0] for line in lines] == sorted(POINTS)
    assert "compactAfterCommitBatch=sleep(1)" in lines
    assert "beforeCommit=" in lines


@pytest.mark.parametrize(
    "point", ["raftBeforeSave", "raftAfterSave", "beforeCommit", "afterCommit"]
)
def test_a_panic_ends_one_actor_and_no_client_notices(
    member: Member, client: Client, point: str
) -> None:
    before = member.actors()
    actor = "raft-node" if point.startswith("raft") else "applier"

    assert ask(member, "PUT", f"/{point}", "1*panic") == (204, "")
    revision = client.put(b"colour", b"blue", timeout=20.0)

    assert client.put(b"colour", b"red") == revision + 1
    assert ask(member, "GET", f"/{point}/count") == (200, "1")
    assert ask(member, "GET", f"/{point}") == (200, "1*panic\n")
    changed = {name for name, pid in member.actors().items() if before.get(name) != pid}
    assert changed == {actor}
    assert "failpoint panic: " + point in member.log
    assert ask(member, "DELETE", f"/{point}") == (204, "")


def test_a_sleep_takes_as_long_as_it_says_and_ends_with_delete(
    member: Member, client: Client
) -> None:
    assert ask(member, "PUT", "/failpoints", 'beforeCommit=sleep("300ms")') == (204, "")

    with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
        client.put(b"slow", b"1", timeout=0.2)
    assert ask(member, "DELETE", "/beforeCommit") == (204, "")

    client.put(b"slow", b"2", timeout=20.0)


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "words"),
    [
        ("PUT", "/nowhere", "panic", 400, "fail to set failpoint: failpoint: failpoint does not"),
        ("PUT", "/beforeCommit", "boom", 400, "fail to set failpoint: failpoint: could not parse"),
        ("PUT", "/failpoints", "a", 400, 'fail to parse failpoint: bad failpoint "a"'),
        ("GET", "/nowhere", None, 404, "failed to GET: failpoint: failpoint does not exist"),
        ("GET", "/nowhere/count", None, 404, "failpoint does not exist"),
        ("GET", "/raftAfterWALRelease/count", None, 500, "failpoint: failpoint is disabled"),
        ("DELETE", "/raftAfterWALRelease", None, 400, "failed to delete failpoint failpoint: fail"),
        ("POST", "/", "x", 405, "Method not allowed"),
    ],
)
def test_refusals_are_gofails(
    member: Member, method: str, path: str, body: str | None, code: int, words: str
) -> None:
    found, text = ask(member, method, path, body)

    assert (found, words in text) == (code, True), text


def test_terms_that_cannot_be_parsed_stop_the_start(tmp_path: Path) -> None:
    environ = {"GOFAIL_FAILPOINTS": "beforeCommit=boom"}

    with pytest.raises(MemberError, match="fail to parse failpoint: failpoint: could not parse"):
        Member(tmp_path, environ=environ, flags=["--enable-faults"]).start()


def test_without_the_variables_there_is_no_point_to_arm(tmp_path: Path) -> None:
    with Member(tmp_path, flags=["--enable-faults"]) as plain:
        run_dir = plain.view.run_dir

        assert not list(run_dir.glob("failpoints*"))


def test_without_enable_faults_the_variables_arm_nothing_and_one_line_says_so(
    tmp_path: Path,
) -> None:
    port = free_port()
    environ = {"GOFAIL_HTTP": f"127.0.0.1:{port}", "GOFAIL_FAILPOINTS": "beforeCommit=panic"}

    with Member(tmp_path, environ=environ) as plain, Client(plain.endpoint) as client:
        assert client.put(b"colour", b"blue", timeout=20.0) > 1
        assert not list(plain.view.run_dir.glob("failpoints*"))
        with pytest.raises(ConnectionRefusedError):
            http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()

        (said,) = [line for line in plain.log.splitlines() if "GOFAIL" in line]
        assert "ignored: start the member with --enable-faults" in said


def test_etcds_environment_alone_arms_the_points_and_they_end_by_themselves(
    tmp_path: Path,
) -> None:
    environ = {
        "GOFAIL_FAILPOINTS": "beforeCommit=sleep(3600000)",
        "TROUPED_FAILPOINT_SECONDS": "3",
        "ETCD_ENABLE_FAULTS": "true",
    }
    began = time.monotonic()

    with Member(tmp_path, environ=environ) as stalled, Client(stalled.endpoint) as client:
        assert client.put(b"colour", b"blue", timeout=20.0) > 1
        assert time.monotonic() - began >= 3.0
        before = stalled.actors()

        assert client.put(b"colour", b"red", timeout=2.0) > 2
        assert stalled.actors() == before


@pytest.mark.parametrize("seconds", ["0", "3601", "soon"])
def test_a_time_that_no_fault_may_last_stops_the_start(tmp_path: Path, seconds: str) -> None:
    environ = {"GOFAIL_HTTP": ":0", "TROUPED_FAILPOINT_SECONDS": seconds}
    sink = LogSink(level="info", log_format="json", outputs=(str(tmp_path / "log"),))

    with pytest.raises(StartError, match="TROUPED_FAILPOINT_SECONDS"):
        Gofail(tmp_path, environ, sink, enabled=True)


@pytest.mark.parametrize("host", ["", "localhost"])
def test_without_a_host_it_is_served_on_loopback_alone(tmp_path: Path, host: str) -> None:
    log = tmp_path / "log"
    sink = LogSink(level="info", log_format="json", outputs=(str(log),))
    served = Gofail(tmp_path, {"GOFAIL_HTTP": f"{host}:{free_port()}"}, sink, enabled=True)
    served.close()

    sink.flush()
    assert served.address.startswith("127.0.0.1:")
    assert "failpoints are armed" in log.read_text()
    assert "not a loopback address" not in log.read_text()
