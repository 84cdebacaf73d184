"""Intervals, options and the bytes of events, as clients see them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdpb.kv_pb2 import Event as EventMessage
from etcdpb.kv_pb2 import KeyValue
from etcdpb.rpc_pb2 import WatchResponse
from kv.store import row_id
from kv.watch import (
    NO_DELETE,
    NO_PUT,
    PREV_KV,
    EmptyRangeError,
    Event,
    Watcher,
    WatcherIndex,
    encode_all,
    fragments,
    watched_range,
)


def watcher(key: bytes, range_end: bytes = b"", options: int = 0) -> Watcher:
    sink: Any = None
    return Watcher(sink, 0, watched_range(key, range_end), options=options)


def found(index: WatcherIndex, key: bytes) -> set[Watcher]:
    return {
        each for group in index.match(key) for members in group.members.values() for each in members
    }


def message(piece: bytes) -> EventMessage:
    (event,) = WatchResponse.FromString(piece).events
    return event


@pytest.mark.parametrize(
    ("key", "range_end", "interval"),
    [
        (b"a", b"", (b"a", b"a\0")),
        (b"", b"", (b"\0", b"\0\0")),
        (b"a", b"c", (b"a", b"c")),
        (b"a", b"\0", (b"a", None)),
        (b"", b"\0", (b"\0", None)),
        (b"", b"b", (b"\0", b"b")),
    ],
)
def test_a_request_names_an_interval(
    key: bytes, range_end: bytes, interval: tuple[bytes, bytes | None]
) -> None:
    assert watched_range(key, range_end) == interval


@pytest.mark.parametrize(("key", "range_end"), [(b"b", b"a"), (b"b", b"b"), (b"b", b"\0\0")])
def test_a_range_that_ends_before_it_begins_is_refused(key: bytes, range_end: bytes) -> None:
    with pytest.raises(EmptyRangeError, match=r"^mvcc: watcher range is empty$"):
        watched_range(key, range_end)


KEYS = [
    bytes([97 + i]) + bytes([97 + j]) * k for i in range(5) for j in range(3) for k in range(1, 4)
]


@given(st.integers(0, 1 << 30))
def test_an_index_finds_who_watches_a_key_through_any_changes(seed: int) -> None:
    chance = random.Random(seed)
    index = WatcherIndex()
    inside: list[Watcher] = []
    for _ in range(chance.randint(1, 200)):
        if inside and chance.random() < 0.4:
            gone = inside.pop(chance.randrange(len(inside)))
            index.remove(gone)
        else:
            begin, end = sorted(chance.sample(KEYS, 2))
            kind = chance.random()
            end = b"" if kind < 0.3 else b"\0" if kind < 0.4 else end
            new = watcher(begin, end, chance.choice([0, PREV_KV]))
            index.add(new)
            inside.append(new)
        key = chance.choice(KEYS)
        wanted = {
            each for each in inside if each.key <= key and (each.end is None or key < each.end)
        }
        assert found(index, key) == wanted
    assert set(index) == set(inside)
    assert len(index) == len(inside)


def test_a_thousand_watchers_of_one_prefix_are_one_group() -> None:
    index = WatcherIndex()
    for _ in range(1000):
        index.add(watcher(b"p", b"q"))

    (group,) = index.match(b"pp")

    assert sum(map(len, group.members.values())) == 1000


def test_deep_nesting_is_no_burden_to_the_stack() -> None:
    index = WatcherIndex()
    for number in range(5000):
        index.add(watcher(b"%06d" % number, b"%06d" % (10_000 - number)))

    assert len(index.match(b"005000")) == 5000
    assert len(index.match(b"000000")) == 1


def test_a_put_carries_the_pair_and_a_delete_only_key_and_revision() -> None:
    put = Event((row_id(7, 3), b"k", row_id(5), 4, 2, 99, b"value"))
    delete = Event((row_id(8), b"k", row_id(7, 3), 0, 0, 0, b""))

    pair = KeyValue(
        key=b"k", create_revision=4, mod_revision=7, version=2, value=b"value", lease=99
    )
    assert message(put.encoded(0)) == EventMessage(kv=pair)
    assert message(delete.encoded(0)) == EventMessage(
        type=EventMessage.DELETE, kv=KeyValue(key=b"k", mod_revision=8)
    )


def test_the_pair_before_is_only_for_those_who_ask() -> None:
    event = Event((row_id(8), b"k", row_id(7), 0, 0, 0, b""))
    event.follows(b"k", (row_id(7), b"k", 0, 7, 1, 0, b"x" * 300))

    before = KeyValue(key=b"k", create_revision=7, mod_revision=7, version=1, value=b"x" * 300)
    assert message(event.encoded(PREV_KV)).prev_kv == before
    assert not message(event.encoded(0)).HasField("prev_kv")


def test_a_tombstone_before_is_no_pair() -> None:
    event = Event((row_id(8), b"k", row_id(7), 8, 1, 0, b"v"))
    event.follows(b"k", (row_id(7), b"k", 0, 0, 0, 0, b""))

    assert not message(event.encoded(PREV_KV)).HasField("prev_kv")


def test_filters_leave_out_what_they_name() -> None:
    events = [
        Event((row_id(7), b"k", 0, 7, 1, 0, b"v")),
        Event((row_id(8), b"k", row_id(7), 0, 0, 0, b"")),
    ]

    def types(options: int) -> list[int]:
        return [message(piece).type for piece in encode_all(events, options)]

    assert types(0) == [0, 1]
    assert types(NO_PUT) == [1]
    assert types(NO_DELETE) == [0]
    assert types(NO_PUT | NO_DELETE) == []


def test_fragments_stay_below_the_limit_unless_one_event_is_above_it() -> None:
    pieces = [b"x" * 40, b"y" * 40, b"z" * 200, b"w" * 10]

    parts = fragments(pieces, 10, 100)

    assert parts == [pieces[:2], [pieces[2]], [pieces[3]]]
