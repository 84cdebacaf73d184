"""Watch on a real member, by raw streams."""

from __future__ import annotations

import time

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.watch.streams import Watches, plain

pytestmark = pytest.mark.e2e


def test_a_transaction_s_events_come_together(client: Client, watches: Watches) -> None:
    stream = watches.stream()
    stream.watch(b"t", b"u")
    request = pb.TxnRequest()
    for number in range(100):
        request.success.add(request_put=pb.PutRequest(key=b"t%d" % number, value=b"x"))

    revision = client.call(request, pb.TxnResponse).header.revision
    response = stream.next()

    assert len(response.events) == 100
    assert {event.kv.mod_revision for event in response.events} == {revision}
    assert response.header.revision == revision


def test_a_delete_of_very_many_keys_is_one_response(client: Client, watches: Watches) -> None:
    for page in range(20):
        request = pb.TxnRequest()
        for number in range(100):
            put = pb.PutRequest(key=b"m%04d" % (page * 100 + number), value=b"v" * 100)
            request.success.add(request_put=put)
        client.call(request, pb.TxnResponse)
    stream = watches.stream()
    stream.watch(b"m", b"n", prev_kv=True)

    client.call(pb.DeleteRangeRequest(key=b"m", range_end=b"n"), pb.DeleteRangeResponse)
    response = stream.next()

    assert len(response.events) == 2000
    assert all(event.prev_kv.value == b"v" * 100 for event in response.events)


def test_past_present_and_future_meet_without_a_gap(client: Client, watches: Watches) -> None:
    first = client.put(b"p", b"0")
    for number in range(1, 300):
        client.put(b"p", b"%d" % number)
    starts = [first, first + 150, 0, first + 320]
    stream = watches.stream()
    told: dict[int, list[int]] = {}
    for number, start in enumerate(starts):
        stream.create(b"p", start_revision=start, watch_id=9 + number)
    while len(told) < 4:
        response = stream.next()
        told.setdefault(response.watch_id, []).extend(int(each[3]) for each in plain(response))
    for number in range(300, 330):
        client.put(b"p", b"%d" % number)

    while sum(map(len, told.values())) < 330 + 180 + 30 + 10:
        response = stream.next()
        told[response.watch_id] += [int(each[3]) for each in plain(response)]

    assert [told[9 + number] for number in range(4)] == [
        list(range(330)), list(range(150, 330)), list(range(300, 330)), list(range(320, 330)),
    ]  # fmt: skip


def test_a_watch_from_the_compacted_revision_sees_its_delete(
    client: Client, watches: Watches
) -> None:
    client.put(b"d", b"x")
    deleted = client.call(pb.DeleteRangeRequest(key=b"d"), pb.DeleteRangeResponse).header.revision
    request = pb.CompactionRequest(revision=deleted, physical=True)
    client.call(request, pb.CompactionResponse)

    stream = watches.stream()
    stream.watch(b"d", start_revision=deleted)
    early = watches.stream()
    early.watch(b"d", start_revision=deleted - 1)

    assert stream.events(1) == [(deleted, "DELETE", b"d", b"")]
    response = early.next()
    assert (response.canceled, response.compact_revision) == (True, deleted)


def test_a_compaction_at_once_takes_nothing_from_those_who_were_there(
    client: Client, watches: Watches
) -> None:
    stream = watches.stream()
    stream.watch(b"c")
    wanted = []
    for number in range(50):
        answers = [
            client.begin(pb.PutRequest(key=b"c", value=b"%d" % (3 * number + i))) for i in range(3)
        ]
        revision = [answer() for answer in answers][-1].message.header.revision  # type: ignore[union-attr]
        wanted += [b"%d" % (3 * number + i) for i in range(3)]
        client.answer(pb.CompactionRequest(revision=revision))

    assert sorted(value for _, _, _, value in stream.events(150)) == sorted(wanted)


def test_a_slow_client_is_sent_everything_once_it_reads(member: Member, client: Client) -> None:
    value = b"v" * 100_000
    with Watches(member.endpoint) as slow, Watches(member.endpoint) as quick:
        reader = slow.stream()
        reader.watch(b"w")
        other = quick.stream()
        other.watch(b"w")
        reader.pause()
        for _ in range(200):
            client.put(b"w", value)
        assert len(other.events(200)) == 200
        reader.go_on()
        told = reader.events(200)

    assert [revision for revision, *_ in told] == sorted({revision for revision, *_ in told})
    assert len(told) == 200


def test_progress_is_never_ahead_of_events(client: Client, watches: Watches) -> None:
    stream = watches.stream()
    stream.watch(b"g")
    seen = progress = 0
    for number in range(200):
        acknowledged = client.put(b"g", b"%d" % number)
        stream.ask_progress()
        response = stream.next()
        while response.watch_id != -1:
            seen = response.events[-1].kv.mod_revision
            response = stream.next()
        progress = response.header.revision
        assert seen >= acknowledged
        assert progress >= seen


def test_very_many_cancels_of_unknown_ids_change_nothing(client: Client, watches: Watches) -> None:
    stream = watches.stream()
    for number in range(10_000):
        stream.cancel(10 + number)

    assert stream.watch(b"u").watch_id == 0
    client.put(b"u", b"x")
    assert len(stream.events(1)) == 1


def test_a_thousand_watchers_on_one_stream_are_told_each(client: Client, watches: Watches) -> None:
    stream = watches.stream()
    for _ in range(1000):
        stream.create(b"x", b"y")
    for _ in range(1000):
        assert stream.next().created
    began = time.monotonic()

    client.put(b"xx", b"1")
    told = [stream.next().watch_id for _ in range(1000)]

    assert sorted(told) == list(range(1000))
    assert time.monotonic() - began < 5
