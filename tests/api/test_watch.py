"""Watch streams: what a client sends and the responses it gets, on a hub over a fake history."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from api.watch import WatchService, WatchStream
from etcdpb import rpc_pb2 as pb
from tests.actors.watch_bench import Bench
from tests.api.backend import CLUSTER_ID, MEMBER_ID, TERM, Backend

PROGRESS_SECONDS = 60.0
FRAGMENT_BYTES = 2000


class StreamCall:
    """A call with a stream of responses; `full` makes it not writable."""

    def __init__(self, headers: dict[bytes, bytes]) -> None:
        self._headers = headers
        self.full = False
        self.room = 1 << 60  # bytes until it is full
        self.closed = False
        self.responses: list[pb.WatchResponse] = []
        self.status: tuple[int, str] | None = None

    def header(self, name: bytes) -> bytes | None:
        return self._headers.get(name)

    @property
    def writable(self) -> bool:
        return not self.full and self.room > 0

    def send(self, message: bytes) -> None:
        self.room -= len(message)
        self.responses.append(pb.WatchResponse.FromString(message))

    def send_framed(self, data: bytes, messages: int) -> None:
        for _ in range(messages):
            size = int.from_bytes(data[1:5], "big")
            self.send(data[5 : 5 + size])
            data = data[5 + size :]
        assert not data

    def finish(self, code: int = 0, text: str = "") -> None:
        self.closed = True
        self.status = (code, text)

    def fail(self, status: Any) -> None:
        self.finish(status.code, status.text)


class Desk:
    """A service with one stream open."""

    def __init__(self) -> None:
        self.bench = Bench(slice_rows=100)
        self.status = SimpleNamespace(leader=1)
        self.service = WatchService(
            Backend(status=self.status),
            self.bench.hub,
            max_request_bytes=FRAGMENT_BYTES - 512 * 1024,
            progress_seconds=PROGRESS_SECONDS,
        )
        self.bench.hub.turned = self.service.turned
        self.service.tick(0.0)
        self.call, self.stream = self.open()

    def open(self, **headers: str) -> tuple[StreamCall, WatchStream]:
        call: Any = StreamCall({k.encode(): v.encode() for k, v in headers.items()})
        return call, self.service.open(call)

    def send(self, **union: Any) -> None:
        self.stream.on_message(pb.WatchRequest(**union).SerializeToString())

    def create(self, key: bytes = b"a", range_end: bytes = b"", **options: Any) -> pb.WatchResponse:
        create = pb.WatchCreateRequest(key=key, range_end=range_end, **options)
        self.send(create_request=create)
        return self.call.responses[-1]

    def cancel(self, watch_id: int) -> None:
        self.send(cancel_request=pb.WatchCancelRequest(watch_id=watch_id))

    def ask_progress(self) -> None:
        self.send(progress_request=pb.WatchProgressRequest())

    def write(self, **changes: bytes | None) -> list[pb.WatchResponse]:
        """Write; return the responses it brought."""
        before = len(self.call.responses)
        self.bench.write(**changes)
        return self.call.responses[before:]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_create_is_answered_with_its_id_and_the_revision(desk: Desk) -> None:
    desk.bench.write(a=b"1")

    response = desk.create()

    header = pb.ResponseHeader(
        cluster_id=CLUSTER_ID, member_id=MEMBER_ID, revision=2, raft_term=TERM
    )
    assert response == pb.WatchResponse(header=header, created=True)


def test_events_come_with_id_and_header(desk: Desk) -> None:
    desk.create(watch_id=7)

    (response,) = desk.write(a=b"1")

    assert (response.watch_id, response.header.revision) == (7, 2)
    assert [event.kv.value for event in response.events] == [b"1"]
    assert (response.created, response.canceled, response.fragment) == (False, False, False)


def test_ids_count_up_and_skip_those_in_use(desk: Desk) -> None:
    ids = [
        desk.create(watch_id=1).watch_id,
        desk.create().watch_id,
        desk.create().watch_id,
        desk.create(watch_id=-5).watch_id,
        desk.create().watch_id,
    ]

    assert ids == [1, 0, 2, -5, 3]


def test_an_id_in_use_is_refused(desk: Desk) -> None:
    desk.create(watch_id=9)

    response = desk.create(watch_id=9)

    assert (response.watch_id, response.created, response.canceled) == (-1, True, True)
    assert response.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    assert len(desk.bench.hub) == 1


def test_a_range_that_ends_before_it_begins_is_refused(desk: Desk) -> None:
    response = desk.create(b"b", b"a")

    assert (response.watch_id, response.created, response.canceled) == (-1, True, True)
    assert response.cancel_reason == "mvcc: watcher range is empty"


def test_a_negative_revision_is_refused(desk: Desk) -> None:
    response = desk.create(start_revision=-3)

    assert (response.watch_id, response.created, response.canceled) == (-1, True, True)
    assert response.cancel_reason == "etcdserver: mvcc: required revision has been compacted"


def test_a_cancel_is_answered_and_events_end(desk: Desk) -> None:
    desk.create(watch_id=4)

    desk.cancel(4)

    answer = desk.call.responses[-1]
    assert (answer.watch_id, answer.canceled, answer.cancel_reason) == (4, True, "")
    assert desk.write(a=b"1") == []


def test_cancels_of_unknown_ids_and_empty_requests_are_ignored(desk: Desk) -> None:
    for number in range(100_000):
        desk.cancel(number)
    desk.send()

    assert desk.call.responses == []
    assert not desk.call.closed


def test_a_compacted_watcher_is_told_and_keeps_its_id_until_it_is_cancelled(desk: Desk) -> None:
    for _ in range(5):
        desk.bench.write(a=b"1")
    desk.bench.history.compact(4)
    desk.create(start_revision=2, watch_id=3)
    desk.bench.loop.run()

    told = desk.call.responses[-1]
    again = desk.create(watch_id=3)
    desk.cancel(3)

    assert (told.watch_id, told.canceled, told.compact_revision) == (3, True, 4)
    assert (told.header.revision, told.cancel_reason) == (0, "")
    assert again.cancel_reason.startswith("mvcc: duplicate")
    assert (desk.call.responses[-1].watch_id, desk.call.responses[-1].canceled) == (3, True)
    assert not desk.create(watch_id=3).canceled


def test_a_big_response_is_cut_for_those_who_ask(desk: Desk) -> None:
    desk.create(b"k", b"l", fragment=True, watch_id=1)
    desk.create(b"k", b"l", watch_id=2)

    responses = desk.write(**{f"k{number}": b"x" * 500 for number in range(8)})

    cut = [response for response in responses if response.watch_id == 1]
    whole = [response for response in responses if response.watch_id == 2]
    assert [response.fragment for response in cut] == [True] * (len(cut) - 1) + [False]
    assert all(response.ByteSize() < FRAGMENT_BYTES for response in cut)
    assert len(cut) > 1
    assert [len(response.events) for response in whole] == [8]
    assert [event for response in cut for event in response.events] == list(whole[0].events)


def test_a_client_that_does_not_read_is_sent_no_more_and_loses_nothing(desk: Desk) -> None:
    desk.create(watch_id=1)
    desk.call.full = True
    nothing = [desk.write(a=b"%d" % number) for number in range(5)]

    desk.call.full = False
    desk.stream.on_drain()
    desk.bench.loop.run()

    values = [event.kv.value for response in desk.call.responses for event in response.events]
    assert nothing == [[]] * 5
    assert values == [b"0", b"1", b"2", b"3", b"4"]


def test_what_a_round_queues_for_one_stream_is_bounded(desk: Desk) -> None:
    for _ in range(100):
        desk.create()
    desk.call.room = 1000

    first = desk.write(a=b"x" * 10_000)
    desk.call.room = 1 << 60
    desk.stream.on_drain()
    desk.bench.loop.run()

    assert sum(response.ByteSize() for response in first) < 1000 + 64 * 1024 + 11_000
    assert sum(1 for response in desk.call.responses if response.events) == 100


def test_progress_of_the_stream_is_told_when_all_are_synced(desk: Desk) -> None:
    desk.create()
    desk.create(b"z")
    desk.bench.history.write(z=b"1")

    desk.ask_progress()
    desk.bench.loop.turn()

    events, progress = desk.call.responses[-2:]
    assert len(events.events) == 1
    assert (progress.watch_id, progress.header.revision, len(progress.events)) == (-1, 2, 0)


def test_progress_waits_for_a_watcher_that_is_behind(desk: Desk) -> None:
    for _ in range(3):
        desk.bench.write(a=b"1")
    desk.create(start_revision=2)

    desk.ask_progress()
    before = desk.call.responses[-1].created
    desk.bench.loop.run()

    assert before
    assert len(desk.call.responses[-2].events) == 3
    assert (desk.call.responses[-1].watch_id, desk.call.responses[-1].header.revision) == (-1, 4)


def test_progress_that_is_asked_for_many_times_in_a_turn_is_told_once(desk: Desk) -> None:
    desk.create()
    for _ in range(1000):
        desk.ask_progress()
    desk.bench.loop.run()
    first = len(desk.call.responses)
    desk.ask_progress()

    desk.bench.loop.run()

    assert (first, len(desk.call.responses)) == (2, 3)
    assert [response.watch_id for response in desk.call.responses[1:]] == [-1, -1]


def test_there_is_no_progress_without_watchers_or_before_their_start(desk: Desk) -> None:
    desk.ask_progress()
    desk.create(start_revision=50)
    desk.ask_progress()
    desk.bench.loop.run()

    assert [response.created for response in desk.call.responses] == [True]
    assert not desk.service.waiting


def test_idle_watchers_that_ask_are_told_their_progress(desk: Desk) -> None:
    desk.create(watch_id=1, progress_notify=True)
    desk.create(watch_id=2)
    desk.service.tick(PROGRESS_SECONDS * 0.9)
    early = len(desk.call.responses)

    desk.service.tick(PROGRESS_SECONDS * 1.2)

    told = desk.call.responses[-1]
    assert early == 2
    assert (told.watch_id, told.header.revision, len(told.events)) == (1, 1, 0)
    assert len(desk.call.responses) == 3


def test_a_watcher_that_had_events_is_not_told_its_progress_once(desk: Desk) -> None:
    desk.create(watch_id=1, progress_notify=True)
    desk.write(a=b"1")

    desk.service.tick(PROGRESS_SECONDS * 1.2)
    first = len(desk.call.responses)
    desk.service.tick(PROGRESS_SECONDS * 2.5)

    assert first == 2
    assert (len(desk.call.responses), desk.call.responses[-1].header.revision) == (3, 2)


def test_half_a_close_ends_no_events_and_the_end_ends_all(desk: Desk) -> None:
    desk.create()
    desk.stream.on_half_close()
    told = desk.write(a=b"1")

    desk.stream.on_cancel()

    assert len(told) == 1
    assert len(desk.bench.hub) == 0
    assert desk.stream not in desk.service.streams


def test_what_is_no_request_ends_the_stream(desk: Desk) -> None:
    desk.stream.on_message(b"\xff\xff")

    assert desk.call.status == (13, "grpc: error unmarshalling request: proto: cannot parse")
    assert len(desk.bench.hub) == 0


def test_a_stream_that_has_ended_is_not_kept_until_its_progress_would_be_due(desk: Desk) -> None:
    desk.create(watch_id=1, progress_notify=True)
    stream = weakref.ref(desk.stream)

    desk.stream.on_cancel()
    del desk.stream

    assert stream() is None
