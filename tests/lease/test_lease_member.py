"""Leases of a real member: on time, under load, through kills; odd requests too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.lease.leases import attach, grant, keep_alives, leases, left, puts
from tests.member import Member

pytestmark = pytest.mark.e2e

FLAGS = ("--heartbeat-interval=50", "--election-timeout=500")
LATE_SECONDS = 1.0  # what an expiry may be late (etcd looks every half second)
SLACK_SECONDS = 1.0  # and what a busy machine may add for one in ten
ACTORS = ("lessor", "applier", "raft-node", "gateway-0", "transport", "snapshotter")


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("leases"), flags=FLAGS) as running:
        if not running.is_trouped:
            pytest.skip("only trouped has actors")
        yield running


@pytest.fixture
def client(member: Member) -> Iterator[Client]:
    with Client(member.endpoint) as connected:
        yield connected


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def count(client: Client, prefix: bytes) -> int:
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    return client.range(pb.RangeRequest(key=prefix, range_end=end, count_only=True)).count


def settled(member: Member, killed: dict[str, int]) -> bool:
    """Whether killed actors have successors."""
    now = member.actors()
    return all(now.get(actor, pid) != pid for actor, pid in killed.items())


def test_keys_go_with_their_lease_in_one_revision(client: Client) -> None:
    lease = grant(client, 60)
    for key in (b"one/b", b"one/a"):
        revision = attach(client, key, lease)
    assert list(left(client, lease).keys) == [b"one/a", b"one/b"]

    revoked = client.call(pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse)

    assert revoked.header.revision == revision + 1
    assert count(client, b"one/") == 0
    assert left(client, lease).TTL == -1
    assert lease not in leases(client)


def expiries(client: Client, ttl: int, number: int, pause: float, prefix: bytes) -> list[float]:
    """Grant leases one after another; return how late each expired, in seconds."""
    granted: dict[bytes, tuple[float, float]] = {}
    gone: dict[bytes, float] = {}
    whole = pb.RangeRequest(key=prefix, range_end=prefix + b"\xff", keys_only=True)
    begun = time.monotonic()
    while len(gone) < number:
        now = time.monotonic()
        if len(granted) < number and now >= begun + len(granted) * pause:
            key = prefix + b"%05d" % len(granted)
            lease = grant(client, ttl)
            answered = time.monotonic()
            attach(client, key, lease)
            granted[key] = now, answered
        asked = time.monotonic()
        there = {kv.key for kv in client.range(whole).kvs}
        for key in granted.keys() - there - gone.keys():
            gone[key] = time.monotonic()
            assert gone[key] - granted[key][0] >= ttl, f"{key!r} expired early"
        assert asked < begun + 4 * ttl + number * (pause + 0.1), "leases do not expire"
    return [gone[key] - granted[key][1] - ttl for key in granted]


def check_late(late: list[float]) -> None:
    """Assert that expiries are in time, but for a few while the machine did something else."""
    late = sorted(late)
    assert late[len(late) * 9 // 10] <= LATE_SECONDS, f"many are late by {late[-1]:.2f} s"
    assert late[-1] <= LATE_SECONDS + SLACK_SECONDS, f"one is late by {late[-1]:.2f} s"


def test_leases_expire_on_time_under_load(member: Member, client: Client) -> None:
    with puts(member.endpoint, in_flight=200) as done:
        late = expiries(client, ttl=1, number=30, pause=0.02, prefix=b"late/")

    assert done[0] > 100
    check_late(late)


@pytest.mark.slow
def test_leases_expire_on_time_under_load_for_long(member: Member, client: Client) -> None:
    with puts(member.endpoint, in_flight=1000) as done:
        late = expiries(client, ttl=3, number=1000, pause=0.005, prefix=b"long/")

    late.sort()
    print(  # noqa: T201
        f"{done[0]} puts meanwhile; late p50 {late[500] * 1e3:.0f} ms, p99 {late[990] * 1e3:.0f} "
        f"ms, max {late[-1] * 1e3:.0f} ms"
    )
    check_late(late)


def test_a_lease_that_is_kept_alive_stays_whatever_is_killed(
    member: Member, client: Client
) -> None:
    lease = grant(client, 3)
    attach(client, b"kept", lease)
    for actor in ACTORS:
        killed = {actor: member.actors()[actor]}
        os.kill(killed[actor], signal.SIGKILL)
        wait_until(lambda k=killed: settled(member, k), 5, "no successor")  # type: ignore[misc]
        with keep_alives(member.endpoint) as stream:
            assert stream.renew(lease) == 3

    client.close()
    with Client(member.endpoint) as again:
        assert list(left(again, lease).keys) == [b"kept"]


def test_clocks_outlive_the_lessor(member: Member, client: Client) -> None:
    lease = grant(client, 20)
    wait_until(lambda: left(client, lease).TTL <= 18, 5, "the clock stands still")
    killed = {"lessor": member.actors()["lessor"]}

    os.kill(killed["lessor"], signal.SIGKILL)
    wait_until(lambda: settled(member, killed), 5, "no successor")

    assert left(client, lease).TTL <= 18
    with keep_alives(member.endpoint) as stream:
        assert stream.renew(lease) == 20


def test_attachments_outlive_the_member(tmp_path: Path) -> None:
    with Member(tmp_path, flags=FLAGS) as running:
        with Client(running.endpoint) as client:
            lease, other = grant(client, 60), grant(client, 60)
            for number in range(20):
                attach(client, b"k/%02d" % number, lease)
            attach(client, b"k/05", other)
            client.put(b"k/06", b"no lease")
        running.restart()
        with Client(running.endpoint) as client:
            keys = [b"k/%02d" % number for number in range(20) if number not in (5, 6)]
            assert list(left(client, lease).keys) == keys
            assert list(left(client, other).keys) == [b"k/05"]
            assert 50 <= left(client, lease).TTL <= 61
            client.call(pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse)
            assert count(client, b"k/") == 2


# --- odd requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [0, -1, -(1 << 63), 1])
def test_a_small_ttl_becomes_the_least_one(client: Client, ttl: int) -> None:
    answer = client.call(pb.LeaseGrantRequest(TTL=ttl), pb.LeaseGrantResponse)

    assert answer.TTL == 1
    assert answer.ID > 0


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (
            pb.LeaseGrantRequest(TTL=9_000_000_001),
            "OUT_OF_RANGE: etcdserver: too large lease TTL",
        ),
        (pb.LeaseGrantRequest(TTL=(1 << 63) - 1), "OUT_OF_RANGE: etcdserver: too large lease TTL"),
        (pb.LeaseRevokeRequest(ID=0), "NOT_FOUND: etcdserver: requested lease not found"),
        (pb.LeaseRevokeRequest(ID=-9), "NOT_FOUND: etcdserver: requested lease not found"),
        (pb.PutRequest(key=b"a", lease=-9), "NOT_FOUND: etcdserver: requested lease not found"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_with_etcds_words(
    client: Client, request_: pb.PutRequest, answer: str
) -> None:
    assert str(client.answer(request_)) == answer


def test_ids_may_be_negative_but_not_given_twice(client: Client) -> None:
    assert grant(client, 60, lease=-(1 << 63)) == -(1 << 63)
    assert left(client, -(1 << 63)).grantedTTL == 60

    again = client.answer(pb.LeaseGrantRequest(ID=-(1 << 63), TTL=60))

    assert str(again) == "FAILED_PRECONDITION: etcdserver: lease already exists"
    with keep_alives(client.endpoint) as stream:
        assert stream.renew(-(1 << 63)) == 60


def test_the_longest_ttl_is_taken(client: Client) -> None:
    lease = grant(client, 9_000_000_000)

    assert left(client, lease).TTL >= 8_999_999_990


@pytest.mark.parametrize("lease", [0, -4, 12345, (1 << 63) - 1])
def test_unknown_leases_have_ttls_of_their_own(client: Client, lease: int) -> None:
    assert left(client, lease).TTL == -1
    with keep_alives(client.endpoint) as stream:
        assert stream.renew(lease) == 0


def test_a_flood_of_keep_alives_is_answered_in_order_or_refused(client: Client) -> None:
    lease = grant(client, 60)
    number = 20_000
    with keep_alives(client.endpoint) as stream:
        for place in range(number):
            stream.send(lease if place % 2 else 12345)
        stream.finish()
        answers = stream.rest()

    assert [(a.ID, a.TTL) for a in answers[:4]] == [(12345, 0), (lease, 60)] * 2
    assert len(answers) == number


def test_a_stream_with_something_else_in_it_ends(client: Client) -> None:
    with keep_alives(client.endpoint) as stream:
        stream._requests.put(b"\xff\xff")
        with pytest.raises(grpc.RpcError) as error:
            stream.receive()

    assert error.value.code() is grpc.StatusCode.INTERNAL
