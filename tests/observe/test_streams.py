"""Server-sent events: what happens is told as it happens, and nobody waits for a slow reader."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.debug_pages import ActorPages
from actors.debug_streams import ALIVE_SECONDS, STREAMS_MAX, EventStreams, told
from api.http1 import Http1Connection, HttpRoutes, Response
from api.http2 import Limits
from control.events import EventReader, event_id
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.observe.desk import LogFile, Paper
from tests.supervisor.toys import eventually
from transport.control import ControlServer

SECRET = b"pa55word"


class Stream:
    """One open stream of a member, read line by line."""

    def __init__(self, member: Member, path: str) -> None:
        host, _, port = member.endpoint.partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=10)
        self._connection.request("GET", f"/debug/actors/{path}")
        self.answer = self._connection.getresponse()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def events(self) -> Iterator[dict[str, str]]:
        fields: dict[str, str] = {}
        while line := self.answer.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield fields
                fields = {}

    def until(self, **wanted: str) -> dict[str, Any]:
        """Return the first event with such data."""
        for event in self.events():
            data: dict[str, Any] = json.loads(event["data"])
            if wanted.items() <= data.items():
                return data
        raise AssertionError(f"the stream ended without {wanted}")


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("streams")) as made:
        yield made


@pytest.mark.e2e
def test_a_kill_is_told_to_whoever_follows_the_events(member: Member) -> None:
    with Stream(member, "events?stream") as stream:
        assert stream.answer.getheader("Content-Type") == "text/event-stream"
        assert stream.answer.getheader("Transfer-Encoding") == "chunked"
        stream.until(event="started", actor="gateway-0")
        os.kill(member.actors()["compactor"], signal.SIGKILL)

        stream.until(event="exited", actor="compactor", reason="killed by SIGKILL")
        again = stream.until(event="started", actor="compactor")

    assert again["incarnation"] == 2


@pytest.mark.e2e
@pytest.mark.parametrize("path", ["events?stream", "tap/compactor?stream&type=Prune"])
def test_a_stream_without_news_says_that_its_gateway_lives(member: Member, path: str) -> None:
    with Stream(member, path) as stream:
        alive = (event for event in stream.events() if event.get("event") == "alive")
        next(alive)
        began = time.monotonic()
        next(alive)

    assert ALIVE_SECONDS / 2 < time.monotonic() - began < 5 * ALIVE_SECONDS


@pytest.mark.e2e
def test_a_tap_over_http_shows_messages_without_values(member: Member) -> None:
    with (
        Stream(member, "tap/applier?stream&type=Apply") as stream,
        Client(member.endpoint) as client,
    ):
        stop = threading.Event()

        def put() -> None:
            while not stop.wait(0.02):
                client.answer(pb.PutRequest(key=b"a", value=SECRET), timeout=5.0)

        writing = threading.Thread(target=put)
        writing.start()
        try:
            seen = stream.until(direction="in")
        finally:
            stop.set()
            writing.join()

    assert (seen["type"], seen["peer"]) == ("Apply", "raft-node")
    assert SECRET.decode() not in json.dumps(seen)


@pytest.mark.e2e
def test_a_tap_ends_with_its_reader_and_streams_are_bounded(member: Member) -> None:
    streams = [Stream(member, "tap/lessor?stream") for _ in range(4)]
    with Stream(member, "tap/lessor?stream") as fifth:
        assert "taps are open already" in next(fifth.events())["data"]
    events = [Stream(member, "events?stream") for _ in range(STREAMS_MAX - len(streams))]
    with Stream(member, "events?stream") as refused:
        assert refused.answer.status == 503
    for stream in streams + events:
        stream.__exit__()

    def is_free() -> bool:
        with Stream(member, "tap/lessor?stream") as again:
            return again.answer.status == 200 and again.answer.readline() == b"retry: 1000\n"

    eventually(is_free, "a stream is free again")


@pytest.mark.e2e
@pytest.mark.parametrize("path", ["tap/nobody?stream", "tap/root?stream", "state/applier?stream"])
def test_there_are_no_other_streams(member: Member, path: str) -> None:
    with Stream(member, path) as stream:
        assert stream.answer.status == 404


@pytest.mark.e2e
def test_a_stop_ends_streams_properly_and_does_not_wait_for_them(tmp_path: Path) -> None:
    with Member(tmp_path) as member, Stream(member, "events?stream") as stream:
        stream.until(event="started", actor="gateway-0")
        assert member.process is not None
        began = time.monotonic()
        member.process.terminate()

        rest = stream.answer.read()  # raises IncompleteRead if the last chunk is missing
        took = time.monotonic() - began

    assert took < 2.0
    assert b"error" not in rest


class Listener:
    """A request on paper whose client reads when it is told to."""

    def __init__(self, method: str = "GET") -> None:
        self.method = method
        self.path = "/debug/actors/tap/applier"
        self.headers: dict[str, str] = {}
        self.query: dict[str, list[str]] = {}
        self.writable = True
        self.sent = b""
        self.ended = False
        self.on_close: Any = None
        self.on_drain: Any = None

    def begin(self, response: Response) -> None:
        self.sent += response.body

    def write(self, data: bytes) -> None:
        self.sent += data

    def end(self) -> None:
        self.ended = True

    def data(self) -> list[Any]:
        lines = self.sent.decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


class Speaker:
    """An actor's control mailbox that always has a message for a tap."""

    def __init__(self, folder: Path, name: str) -> None:
        self.told = 0
        self.stopped = 0
        handlers = {"tap": lambda _: {"tap": 1}, "tap-read": self._read, "tap-stop": self._stop}
        ControlServer(folder / f"{name}.ctl", handlers).start()

    def _read(self, _: dict[str, Any]) -> dict[str, Any]:
        self.told += 1
        message = {"number": self.told, "monotonic_ns": time.monotonic_ns()}
        return {"messages": [message], "dropped": 0, "more": False}

    def _stop(self, _: dict[str, Any]) -> dict[str, Any]:
        self.stopped += 1
        return {}


def turn(loop: asyncio.AbstractEventLoop, until: Any) -> None:
    """Run the loop until something holds."""

    async def wait() -> None:
        began = time.monotonic()
        while not until():
            assert time.monotonic() - began < 10.0
            await asyncio.sleep(0.01)

    loop.run_until_complete(wait())


def test_a_reader_that_does_not_read_is_sent_nothing_and_told_what_it_missed(
    tmp_path: Path,
) -> None:
    loop, request, speaker = asyncio.new_event_loop(), Listener(), Speaker(tmp_path, "applier")
    streams = EventStreams(loop, (), LogFile(tmp_path))
    streams.tap(request, Paper(tmp_path).view(), "applier")  # type: ignore[arg-type]
    turn(loop, lambda: len(request.data()) > 1)

    request.writable = False
    turn(loop, lambda: speaker.told > request.data()[-1]["number"] + 3)
    before = len(request.data())
    turn(loop, lambda: speaker.told > request.data()[-1]["number"] + 6)
    assert len(request.data()) == before
    request.writable = True
    turn(loop, lambda: "messages" in request.data()[-1])
    missed = request.data()[-1]["messages"]
    request.on_drain()

    assert missed >= 6
    assert request.ended
    assert len(streams) == 0
    eventually(lambda: speaker.stopped == 1, "the tap is closed")
    loop.close()


def test_a_stream_that_fails_is_logged_and_ends(tmp_path: Path) -> None:
    answers = {"tap": lambda _: {"tap": 1}, "tap-read": lambda _: {}, "tap-stop": lambda _: {}}
    ControlServer(tmp_path / "applier.ctl", answers).start()
    loop, request, log = asyncio.new_event_loop(), Listener(), LogFile(tmp_path)
    streams = EventStreams(loop, (), log)

    streams.tap(request, Paper(tmp_path).view(), "applier")  # type: ignore[arg-type]
    turn(loop, lambda: request.ended)

    assert "KeyError" in request.data()[-1]["error"]
    assert len(streams) == 0
    (line,) = log.lines()
    assert line["page"] == request.path
    assert "KeyError" in line["stack"]
    loop.close()


def test_a_page_that_fails_is_logged_and_answered(tmp_path: Path) -> None:
    paper, log = Paper(tmp_path), LogFile(tmp_path)
    ControlServer(tmp_path / "root.ctl", {"events": lambda _: {}}).start()
    loop, routes = asyncio.new_event_loop(), HttpRoutes()
    ActorPages(paper.run_dir, loop, log).add_to(routes)
    connection = Http1Connection(routes, Limits(), time.monotonic)

    connection.receive(b"GET /debug/actors/events.json HTTP/1.1\r\nHost: a\r\n\r\n")
    turn(loop, lambda: connection.dirty)
    answer = connection.data_to_send()

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"KeyError" in answer
    (line,) = log.lines()
    assert line["page"] == "/debug/actors/events.json"
    assert "KeyError" in line["stack"]
    loop.close()


def test_a_head_of_a_stream_is_answered_at_once(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    streams = EventStreams(loop, (), LogFile(tmp_path))

    answer = streams.events(Listener("HEAD"), Paper(tmp_path).view())  # type: ignore[arg-type]

    assert answer is not None
    assert answer.content_type == "text/event-stream"
    assert len(streams) == 0
    loop.close()


def test_an_event_is_told_again_when_more_is_known_and_only_then(tmp_path: Path) -> None:
    def event(ts: float, **more: str) -> dict[str, Any]:
        return {"ts": ts, "event": "exited", "actor": "applier", **more}

    events = [event(1.0), event(2.0)]
    ControlServer(tmp_path / "root.ctl", {"events": lambda _: {"events": events}}).start()
    view = Paper(tmp_path).view()

    with EventReader(view, after=event_id(event(1.0))) as reader:
        assert reader.read() == [event(2.0)]
        assert reader.read() == []
        events[1] = event(2.0, decision="restart")
        events.append(event(3.0))
        assert reader.read() == [event(2.0, decision="restart"), event(3.0)]


def test_an_event_is_written_as_the_format_wants_it() -> None:
    assert told({"a": "x\ny"}, event="missed", number="7") == (
        'id: 7\nevent: missed\ndata: {"a":"x\\ny"}\n\n'
    )
