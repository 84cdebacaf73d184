"""Watchers outlive every actor but their own gateway: no event is lost, none comes twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.watch.streams import Stream, Watches

pytestmark = pytest.mark.e2e
ACTORS = ("applier", "raft-node", "compactor", "snapshotter", "transport", "lessor", "zygote")
WATCHERS = 20
WRITERS = 4


class Writing:
    """Writers that go on until they are stopped; unanswered requests are sent again as new ones."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int) -> None:
        with Client(self._member.endpoint) as client:
            count = 0
            while not self._over.is_set():
                count += 1
                request = pb.TxnRequest()
                for key in (b"k%d" % number, b"l%d" % number):
                    request.success.add(request_put=pb.PutRequest(key=key, value=b"%d" % count))
                client.answer(request, timeout=20)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("m")) as running:
        if not running.is_trouped:
            pytest.skip("only trouped has actors")
        yield running


def check(stream: Stream, last: int, first: int) -> None:
    """Every watcher has every revision from its start to the end, whole, in order, once."""
    told: dict[int, list[tuple[int, bytes]]] = {}
    while not all(events and events[-1][0] == last for events in told.values()) or (
        len(told) < WATCHERS
    ):
        response = stream.next(20)
        if response.created:
            continue
        events = [(event.kv.mod_revision, event.kv.key) for event in response.events]
        told.setdefault(response.watch_id, []).extend(events)
    wanted = {
        b"k": sorted({revision for revision, _ in told[1]}),
    }
    assert wanted[b"k"] == list(range(first, last + 1))
    for watch_id, events in told.items():
        revisions = [revision for revision, _ in events]
        assert revisions == sorted(revisions)
        assert len(set(events)) == len(events)
        both = watch_id % 2
        assert len(events) == (2 if both else 1) * (last + 1 - first)


def run(member: Member, actors: tuple[str, ...], pause: float) -> int:
    """Kill the actors one after the other under load; return the number of revisions."""
    with Client(member.endpoint) as client, Watches(member.endpoint) as watches:
        first = client.put(b"other", b"") + 1
        stream = watches.stream()
        for number in range(1, WATCHERS + 1):
            key, end = (b"k", b"m") if number % 2 else (b"k", b"l")
            stream.create(key, end, watch_id=number, start_revision=first if number > 10 else 0)
            stream.next()
        writing = Writing(member)
        try:
            for actor in actors:
                time.sleep(pause)
                os.kill(member.actors()[actor], signal.SIGKILL)
            time.sleep(pause)
        finally:
            writing.stop()
        last = client.call(pb.RangeRequest(key=b"k"), pb.RangeResponse).header.revision
        check(stream, last, first)
        return last - first


def test_watchers_see_everything_while_actors_are_killed(member: Member) -> None:
    assert run(member, ACTORS, 0.3) > 100


@pytest.mark.slow
def test_watchers_see_everything_through_ten_minutes_of_kills(tmp_path: Path) -> None:
    with Member(tmp_path) as member:
        for _ in range(40):
            assert run(member, ACTORS, 2.0) > 100
