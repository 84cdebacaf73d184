"""Maintenance, Cluster, Health and the response header: small services, each by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from api.cluster import ClusterService
from api.grpc import Method
from api.header import HeaderWriter
from api.health import HealthService
from api.maintenance import MaintenanceService
from etcdpb.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse
from etcdpb.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    HashKVRequest,
    HashKVResponse,
    MemberListRequest,
    MemberListResponse,
    MoveLeaderRequest,
    PutResponse,
    ResponseHeader,
    StatusRequest,
    StatusResponse,
)
from kv.batch import Op
from kv.cluster import Member
from kv.errors import BAD_LEADER_TRANSFEREE, NO_LEADER, NOT_LEADER, Code
from kv.version import CLUSTER_VERSION, VERSION
from raft.varint import varint
from tests.api.backend import CLUSTER_ID, MEMBER_ID, TERM, Backend, Caller

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@dataclass
class Status:
    """What a member knows of itself."""

    leader: int = MEMBER_ID
    term: int = TERM
    committed_index: int = 20
    db_bytes: int = 4096
    db_in_use_bytes: int = 2048
    quota_bytes: int = 1 << 31
    is_learner: bool = False
    is_leader: bool = True


class View:
    """A moment: two alarms, two members."""

    revision = 9
    applied_index = 19

    def __init__(self) -> None:
        self.raised = [(1, int(AlarmType.NOSPACE)), (2, int(AlarmType.CORRUPT))]

    def alarms(self) -> list[tuple[int, int]]:
        return self.raised

    def cluster_version(self) -> str | None:
        return CLUSTER_VERSION

    def members(self) -> list[Member]:
        return [
            Member(1, "m1", ("http://a:2380",), ("http://a:2379",)),
            Member(2, "", ("http://b:2380",), (), True),
        ]


def call(methods: dict[bytes, Method], path: str, data: bytes) -> Caller:
    caller: Any = Caller()
    handler = methods[path.encode()].message
    assert handler is not None
    handler(caller, data)
    return caller  # type: ignore[no-any-return]


class Desk:
    def __init__(self) -> None:
        self.member = Status()
        self.backend = Backend(View(), self.member)
        backend: Any = self.backend
        self._methods = MaintenanceService(backend).methods() | ClusterService(backend).methods()

    def ask(self, path: str, data: bytes) -> Caller:
        caller = call(self._methods, path, data)
        self.backend.serve()
        return caller


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_status_asks_nobody_else(desk: Desk) -> None:
    caller = desk.ask("/etcdserverpb.Maintenance/Status", StatusRequest().SerializeToString())

    status = StatusResponse.FromString(caller.outcomes[0])
    assert desk.backend.reads[0][2] is True
    assert (status.version, status.storageVersion) == (VERSION, CLUSTER_VERSION)
    assert (status.leader, status.raftTerm) == (MEMBER_ID, TERM)
    assert (status.raftIndex, status.raftAppliedIndex) == (20, 19)
    assert (status.dbSize, status.dbSizeInUse, status.dbSizeQuota) == (4096, 2048, 1 << 31)
    assert status.header.revision == 9
    assert status.HasField("downgradeInfo")
    assert list(status.errors) == ["memberID:1 alarm:NOSPACE ", "memberID:2 alarm:CORRUPT "]


def test_status_tells_an_alarm_without_a_name_by_its_number(desk: Desk) -> None:
    desk.backend.view.raised = [(1, 99)]

    caller = desk.ask("/etcdserverpb.Maintenance/Status", b"")

    assert list(StatusResponse.FromString(caller.outcomes[0]).errors) == ["memberID:1 alarm:99 "]


def test_status_without_a_leader_says_so(desk: Desk) -> None:
    desk.member.leader = 0
    desk.backend.view.raised = []

    caller = desk.ask("/etcdserverpb.Maintenance/Status", b"")

    assert list(StatusResponse.FromString(caller.outcomes[0]).errors) == [NO_LEADER.text]


@pytest.mark.parametrize("action", [AlarmRequest.ACTIVATE, AlarmRequest.DEACTIVATE])
def test_alarms_are_raised_and_cleared_through_the_log(desk: Desk, action: Any) -> None:
    request = AlarmRequest(action=action, memberID=1, alarm=AlarmType.NOSPACE).SerializeToString()

    caller = desk.ask("/etcdserverpb.Maintenance/Alarm", request)

    assert desk.backend.proposed == [(Op.ALARM, request, caller)]


def test_the_leader_hands_over_to_a_voter(desk: Desk) -> None:
    request = MoveLeaderRequest(targetID=1).SerializeToString()

    caller = desk.ask("/etcdserverpb.Maintenance/MoveLeader", request)

    assert desk.backend.moves == [(caller, 1)]


@pytest.mark.parametrize("target", [2, 99])
def test_a_learner_or_a_stranger_cannot_be_made_the_leader(desk: Desk, target: int) -> None:
    request = MoveLeaderRequest(targetID=target).SerializeToString()

    caller = desk.ask("/etcdserverpb.Maintenance/MoveLeader", request)

    assert caller.outcomes == [(Code.FAILED_PRECONDITION, BAD_LEADER_TRANSFEREE.text)]
    assert desk.backend.moves == []


def test_who_does_not_lead_hands_nothing_over(desk: Desk) -> None:
    desk.member.is_leader = False

    caller = desk.ask(
        "/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest().SerializeToString()
    )

    assert caller.outcomes == [(Code.FAILED_PRECONDITION, NOT_LEADER.text)]


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (AlarmRequest(), [(1, AlarmType.NOSPACE), (2, AlarmType.CORRUPT)]),
        (AlarmRequest(memberID=2), [(2, AlarmType.CORRUPT)]),
        (AlarmRequest(alarm=AlarmType.NOSPACE), [(1, AlarmType.NOSPACE)]),
        (AlarmRequest(memberID=2, alarm=AlarmType.NOSPACE), []),
    ],
)
def test_alarms_are_listed_linearizably_and_filtered(
    desk: Desk, request_: AlarmRequest, found: list[tuple[int, int]]
) -> None:
    caller = desk.ask("/etcdserverpb.Maintenance/Alarm", request_.SerializeToString())

    response = AlarmResponse.FromString(caller.outcomes[0])
    assert [(alarm.memberID, alarm.alarm) for alarm in response.alarms] == found
    assert desk.backend.reads[0][2] is False


def test_hash_kv_tells_what_was_hashed(desk: Desk) -> None:
    request = HashKVRequest(revision=7)
    caller = desk.ask("/etcdserverpb.Maintenance/HashKV", request.SerializeToString())
    ((revision, finished),) = desk.backend.hashes

    finished(9, 12345, 3, 7)

    response = HashKVResponse.FromString(caller.outcomes[0])
    assert revision == 7
    assert (response.hash, response.compact_revision, response.hash_revision) == (12345, 3, 7)
    assert response.header.revision == 9


@pytest.mark.parametrize("linearizable", [False, True])
def test_members_are_listed_with_a_header_without_revision(desk: Desk, linearizable: bool) -> None:
    request = MemberListRequest(linearizable=linearizable)

    caller = desk.ask("/etcdserverpb.Cluster/MemberList", request.SerializeToString())

    response = MemberListResponse.FromString(caller.outcomes[0])
    first, second = response.members
    assert desk.backend.reads[0][2] is not linearizable
    assert (first.ID, first.name, list(first.clientURLs)) == (1, "m1", ["http://a:2379"])
    assert (second.isLearner, list(second.peerURLs)) == (True, ["http://b:2380"])
    assert (response.header.revision, response.header.raft_term) == (0, TERM)


@pytest.mark.parametrize(
    "method", ["Maintenance/Status", "Maintenance/Alarm", "Cluster/MemberList"]
)
def test_rubbish_is_refused(desk: Desk, method: str) -> None:
    caller = desk.ask(f"/etcdserverpb.{method}", b"\xff\xff")

    assert caller.outcomes[0][0] == Code.INTERNAL


class Health:
    """The health service of a server that may be ready."""

    def __init__(self) -> None:
        self.ready = False
        self.service = HealthService(lambda: self.ready)

    def ask(self, method: str, service: str = "") -> Caller:
        request = HealthCheckRequest(service=service)
        path = f"/grpc.health.v1.Health/{method}"
        return call(self.service.methods(), path, request.SerializeToString())


@pytest.fixture
def health() -> Health:
    return Health()


def statuses(caller: Caller) -> list[Any]:
    return [HealthCheckResponse.FromString(message).status for message in caller.outcomes]


def test_a_server_serves_once_it_is_ready(health: Health) -> None:
    before = health.ask("Check")
    health.ready = True
    after = health.ask("Check")
    listed = HealthListResponse.FromString(health.ask("List").outcomes[0])

    assert (statuses(before), statuses(after)) == ([NOT_SERVING], [SERVING])
    assert {name: found.status for name, found in listed.statuses.items()} == {"": SERVING}


def test_a_service_nobody_knows_is_not_found(health: Health) -> None:
    assert health.ask("Check", "nope").outcomes == [(Code.NOT_FOUND, "unknown service")]
    assert statuses(health.ask("Watch", "nope")) == [HealthCheckResponse.SERVICE_UNKNOWN]


def test_a_watcher_is_told_now_and_at_every_change_until_it_goes(health: Health) -> None:
    caller = health.ask("Watch")

    health.ready = True
    health.service.changed()
    assert caller.on_close is not None
    caller.on_close()
    health.service.changed()

    assert statuses(caller) == [NOT_SERVING, SERVING]


@pytest.mark.parametrize("revision", [0, 1, 127, 128, 300, (1 << 63) - 1])
def test_a_header_before_a_body_is_what_protobuf_would_write(revision: int) -> None:
    write = HeaderWriter(CLUSTER_ID, (1 << 64) - 1)
    write.term = 5

    response = PutResponse.FromString(write(revision))

    assert response.header == ResponseHeader(
        cluster_id=CLUSTER_ID, member_id=(1 << 64) - 1, revision=revision, raft_term=5
    )


def test_a_new_term_is_in_the_next_header_of_the_same_revision() -> None:
    write = HeaderWriter(CLUSTER_ID, MEMBER_ID)
    write.term = 5
    first = write(9), write(9)

    write.term = 6

    assert first[0] == first[1]
    assert PutResponse.FromString(write(9)).header.raft_term == 6


def test_a_negative_number_takes_ten_bytes_as_in_protobuf() -> None:
    assert varint(-1) == b"\xff" * 9 + b"\x01"
