"""Three members from flags, as clients see them: versions, leadership, errors, alarms, the end."""

from __future__ import annotations

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from etcdpb import rpc_pb2 as pb
from kv.errors import BAD_LEADER_TRANSFEREE, NO_LEADER, NO_SPACE, NOT_LEADER
from kv.version import CLUSTER_VERSION
from storage.failures import STORAGE_EXIT_CODE
from tests.client import Client
from tests.cluster import Cluster, ClusterMember
from tests.member import Member

ALARM = "/etcdserverpb.Maintenance/Alarm"
READY = "ready to serve client requests"
QUICK = ["--heartbeat-interval=50", "--election-timeout=500"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members that go on from test to test."""
    with Cluster(tmp_path_factory.mktemp("cluster"), flags=QUICK) as running:
        running.wait_for(
            lambda: all(READY in member.log for member in running.members), "all are ready"
        )
        yield running


def get(member: Member, path: str) -> Any:
    """Return the JSON of a page, whatever its status."""
    try:
        with urllib.request.urlopen(member.url + path, timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return json.load(error)


def member_id(cluster: Cluster, member: ClusterMember) -> int:
    found: int = cluster.status(member).header.member_id
    return found


def test_every_member_tells_the_same_of_the_cluster(cluster: Cluster) -> None:
    request = pb.MemberListRequest(linearizable=True)
    lists = {
        str(cluster.client(member).call(request, pb.MemberListResponse).members)
        for member in cluster.members
    }
    found = cluster.statuses()

    assert len(lists) == 1
    assert len({status.leader for status in found}) == 1
    assert len({status.header.cluster_id for status in found}) == 1
    assert len({status.header.member_id for status in found}) == 3
    assert not any(status.isLearner or status.errors for status in found)


def test_all_agree_on_the_version(cluster: Cluster) -> None:
    def versions() -> list[Any]:
        return [get(member, "/version")["etcdcluster"] for member in cluster.members]

    cluster.wait_for(lambda: versions() == [CLUSTER_VERSION] * 3, "the version is decided")


def test_leadership_moves_where_it_is_told_to(cluster: Cluster) -> None:
    leader = cluster.leader()
    target = cluster.others(leader)[0]
    request = pb.MoveLeaderRequest(targetID=member_id(cluster, target))

    elsewhere = cluster.client(target).answer(request)
    nobody = cluster.client(leader).answer(pb.MoveLeaderRequest(targetID=1))
    moved = cluster.client(leader).answer(request)

    assert elsewhere.text == NOT_LEADER.text
    assert nobody.text == BAD_LEADER_TRANSFEREE.text
    assert moved.ok
    assert cluster.leader() is target


def test_every_member_takes_writes_and_fresh_reads(cluster: Cluster) -> None:
    for number, member in enumerate(cluster.members):
        cluster.client(member).put(b"key", b"%d" % number)

        read = [cluster.client(other).get(b"key") for other in cluster.members]

        assert read == [b"%d" % number] * 3


def test_an_alarm_raised_at_one_member_is_seen_at_all_and_cleared_at_another(
    cluster: Cluster,
) -> None:
    first, second, third = map(cluster.client, cluster.members)
    alarm = pb.AlarmRequest(
        action=pb.AlarmRequest.ACTIVATE,
        memberID=member_id(cluster, cluster.members[0]),
        alarm=pb.AlarmType.NOSPACE,
    )

    raised = first.raw(ALARM, alarm.SerializeToString())
    refused = second.answer(pb.PutRequest(key=b"a", value=b"b"))
    third.get(b"key")  # by then it has applied the alarm
    health = get(cluster.members[2], "/health")
    excluded = get(cluster.members[2], "/health?exclude=NOSPACE")
    alarm.action = pb.AlarmRequest.DEACTIVATE
    cleared = third.raw(ALARM, alarm.SerializeToString())

    assert raised.ok
    assert cleared.ok
    assert refused.text == NO_SPACE.text
    assert health == {"health": "false", "reason": "ALARM NOSPACE"}
    assert excluded["health"] == "true"
    assert second.answer(pb.PutRequest(key=b"a", value=b"b")).ok


def test_a_stopped_leader_hands_over_first_and_comes_back_from_its_data(cluster: Cluster) -> None:
    leader = cluster.leader()
    term = cluster.term()
    assert leader.process is not None

    began = time.monotonic()
    leader.process.send_signal(signal.SIGTERM)
    leader.process.wait(10)
    stopped = time.monotonic() - began
    successor = cluster.leader_now(cluster.others(leader))
    cluster.client(cluster.others(leader)[0]).put(b"key", b"without")
    leader.spawn()
    cluster.wait_ready()

    assert stopped < 1.5
    assert successor in cluster.others(leader)  # there was no election timeout to wait for
    assert cluster.term() == term + 1
    assert cluster.client(leader).get(b"key") == b"without"


@pytest.mark.slow
def test_a_member_alone_of_three_says_that_there_is_no_leader(cluster: Cluster) -> None:
    left, *others = cluster.members
    for member in others:
        member.stop()
    cluster.wait_for(lambda: not cluster.status(left).leader, "it knows no leader")
    put = pb.PutRequest(key=b"key", value=b"late")

    with grpc.insecure_channel(left.endpoint) as channel:
        call = channel.unary_unary("/etcdserverpb.KV/Put")
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as at_once:
            call(put.SerializeToString(), metadata=[("hasleader", "true")], timeout=10)
        seconds = time.monotonic() - began
    began = time.monotonic()
    late = cluster.client(left).answer(put, timeout=20.0)
    waited = time.monotonic() - began
    status = cluster.status(left)
    health = get(left, "/health")
    serializable = get(left, "/health?serializable=true")
    cluster.spawn()
    cluster.wait_ready()

    assert at_once.value.details() == NO_LEADER.text
    assert seconds < 1.0
    assert late.code == "UNAVAILABLE"
    assert late.text.startswith("etcdserver: request timed out")
    assert 5.5 < waited < 7.5  # 5 s and two election timeouts
    assert list(status.errors) == [NO_LEADER.text]
    assert health == {"health": "false", "reason": "RAFT NO LEADER"}
    assert serializable["health"] == "true"
    assert cluster.client(left).answer(put).ok


def test_a_member_alone_of_three_tells_its_hash_and_its_leases(cluster: Cluster) -> None:
    left, *others = cluster.members
    cluster.client(left).call(pb.LeaseGrantRequest(ID=77, TTL=600), pb.LeaseGrantResponse)
    for member in others:
        member.stop()
    cluster.wait_for(lambda: not cluster.status(left).leader, "it knows no leader")

    hashed = cluster.client(left).answer(pb.HashKVRequest(), timeout=3.0)
    listed: Any = cluster.client(left).answer(pb.LeaseLeasesRequest(), timeout=3.0).message
    cluster.spawn()
    cluster.wait_ready()

    assert hashed.ok
    assert [lease.ID for lease in listed.leases] == [77]


def test_a_full_member_raises_the_alarm_and_goes_on_after_it_is_disarmed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    value = b"x" * 4096
    flags = ["--quota-backend-bytes=300000"]
    with (
        Member(tmp_path_factory.mktemp("full"), flags=flags) as member,
        Client(member.endpoint) as client,
    ):
        puts = 0
        while (answer := client.answer(pb.PutRequest(key=b"key", value=value))).ok:
            puts += 1
            assert puts < 200
        health = get(member, "/health")
        still_full = client.answer(pb.PutRequest(key=b"key", value=value))
        revision = client.range(pb.RangeRequest(key=b"key")).header.revision
        client.call(pb.CompactionRequest(revision=revision, physical=True), pb.CompactionResponse)
        disarm = pb.AlarmRequest(
            action=pb.AlarmRequest.DEACTIVATE,
            memberID=client.call(pb.StatusRequest(), pb.StatusResponse).header.member_id,
            alarm=pb.AlarmType.NOSPACE,
        )
        disarmed = client.raw(ALARM, disarm.SerializeToString())

        again = client.answer(pb.PutRequest(key=b"key", value=value))

    assert answer.text == still_full.text == NO_SPACE.text
    assert puts > 20
    assert health["reason"] == "ALARM NOSPACE"
    assert disarmed.ok
    assert again.ok


def test_a_member_that_has_lost_its_data_does_not_vote_again(tmp_path: Path) -> None:
    """It could elect a member that lacks what it had acknowledged with the third one."""
    with Cluster(tmp_path, flags=QUICK) as cluster:
        first, second, third = cluster.members
        cluster.wait_for(
            lambda: all(READY in member.log for member in cluster.members), "all are ready"
        )
        cluster.wait_applied()
        second.kill()
        assert cluster.client(first).answer(pb.PutRequest(key=b"precious", value=b"v")).ok
        for member in (first, third):
            member.terminate()
        shutil.rmtree(third.data_dir)

        cluster.spawn([second, third])
        assert third.process is not None
        assert third.process.wait(20) == STORAGE_EXIT_CODE
        assert "has already been bootstrapped" in third.log
        assert cluster.status(second).leader == 0
        third.kill()  # no member of the cluster any more, to whoever waits for all
        cluster.spawn([first])
        cluster.wait_ready()
        found = cluster.client(second).range(pb.RangeRequest(key=b"precious"))

        third.flags = [*third.flags, "--unsafe-rejoin"]
        cluster.spawn([third])
        cluster.wait_ready()
        again = cluster.client(third).range(pb.RangeRequest(key=b"precious"))

    assert found.kvs[0].value == again.kvs[0].value == b"v"
