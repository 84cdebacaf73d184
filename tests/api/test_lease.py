"""The Lease service alone: what it settles itself, asks of the log, the database and the lessor."""

from __future__ import annotations

from typing import Any

import pytest

from api import lease as lease_module
from api.lease import REMAINING, RENEW, LeaseService, min_ttl_seconds
from etcdpb.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from kv.batch import Op
from kv.errors import LEASE_TTL_TOO_LARGE, REQUEST_TOO_MANY_REQUESTS, TIMEOUT, Code
from kv.lease import UNKNOWN
from kv.lease_ops import TTL_MAX
from kv.store import Lease
from tests.api.backend import MEMBER_ID, Backend, Caller


class Status:
    revision = 9


class View:
    """A database with lease 5 and its two keys."""

    revision = 12

    def lease(self, lease_id: int) -> Lease | None:
        return Lease(5, 60, 0, 3) if lease_id == 5 else None

    def lease_keys(self, lease_id: int) -> list[bytes]:
        return [b"a", b"b"]

    def lease_ids(self) -> list[int]:
        return [7, 5]


class Emptied(View):
    """The same a revision later: the lease has gone."""

    revision = 13

    def lease(self, lease_id: int) -> Lease | None:
        return None


class Stream(Caller):
    """A call with many messages; `messages` are those sent, without their prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.writable = True
        self.messages: list[LeaseKeepAliveResponse] = []

    def send_framed(self, data: bytes, messages: int) -> None:
        before = len(self.messages)
        while data:
            size = int.from_bytes(data[1:5], "big")
            self.messages.append(LeaseKeepAliveResponse.FromString(data[5 : 5 + size]))
            data = data[5 + size :]
        assert len(self.messages) - before == messages


@pytest.fixture
def backend() -> Backend:
    return Backend(View(), Status())


@pytest.fixture
def service(backend: Backend) -> LeaseService:
    return LeaseService(backend, min_ttl=2)


def keep_alive(lease: int) -> bytes:
    return LeaseKeepAliveRequest(ID=lease).SerializeToString()


def granted(backend: Backend) -> LeaseGrantRequest:
    ((op, data, _),) = backend.proposed
    assert op == Op.LEASE_GRANT
    return LeaseGrantRequest.FromString(data)


@pytest.mark.parametrize(("ttl", "logged"), [(60, 60), (1, 2), (0, 2), (-5, 2), (TTL_MAX, TTL_MAX)])
def test_a_grant_is_logged_with_a_ttl_that_all_members_agree_on(
    service: LeaseService, backend: Backend, ttl: int, logged: int
) -> None:
    service.grant(Caller(), LeaseGrantRequest(ID=8, TTL=ttl).SerializeToString())  # type: ignore[arg-type]

    assert granted(backend) == LeaseGrantRequest(ID=8, TTL=logged)


def test_a_grant_without_an_id_gets_a_positive_one(service: LeaseService, backend: Backend) -> None:
    service.grant(Caller(), LeaseGrantRequest(TTL=60).SerializeToString())  # type: ignore[arg-type]

    assert granted(backend).ID > 0


def test_a_grant_with_too_large_a_ttl_is_refused(service: LeaseService, backend: Backend) -> None:
    call: Any = Caller()

    service.grant(call, LeaseGrantRequest(TTL=TTL_MAX + 1).SerializeToString())

    assert call.outcomes == [(Code.OUT_OF_RANGE, LEASE_TTL_TOO_LARGE.text)]
    assert backend.proposed == []


def test_a_revocation_is_logged_as_it_came(service: LeaseService, backend: Backend) -> None:
    data = LeaseRevokeRequest(ID=8).SerializeToString()

    service.revoke(Caller(), data)  # type: ignore[arg-type]

    assert [(op, logged) for op, logged, _ in backend.proposed] == [(Op.LEASE_REVOKE, data)]


def test_leases_are_listed_from_the_database(service: LeaseService, backend: Backend) -> None:
    call: Any = Caller()

    service.leases(call, LeaseLeasesRequest().SerializeToString())
    backend.serve()

    response = LeaseLeasesResponse.FromString(call.outcomes[0])
    assert [status.ID for status in response.leases] == [7, 5]
    assert response.header.revision == 12
    assert backend.reads[0][2]  # without a quorum too


def test_leases_are_listed_by_what_they_have_left(service: LeaseService, backend: Backend) -> None:
    call: Any = Caller()
    backend.expiries = {5: 100, 7: 900}

    service.leases(call, LeaseLeasesRequest().SerializeToString())
    backend.serve()

    response = LeaseLeasesResponse.FromString(call.outcomes[0])
    assert [status.ID for status in response.leases] == [5, 7]


def read_on(call: Any, backend: Backend) -> None:
    """Let a client read what waited for it, and be served what it waited for."""
    backend.reads.clear()
    call.reads = True
    call.on_drain()
    backend.serve()


def test_leases_are_listed_when_the_client_reads(service: LeaseService, backend: Backend) -> None:
    call: Any = Caller()
    call.reads = False
    service.leases(call, LeaseLeasesRequest().SerializeToString())
    backend.serve()
    early = list(call.outcomes)

    read_on(call, backend)

    assert early == []
    assert call.on_drain is None
    assert len(LeaseLeasesResponse.FromString(call.outcomes[0]).leases) == 2


# --- time to live ---------------------------------------------------------------------------------


def time_to_live(service: LeaseService, backend: Backend, lease: int, *, keys: bool) -> Any:
    call: Any = Caller()
    service.time_to_live(call, LeaseTimeToLiveRequest(ID=lease, keys=keys).SerializeToString())
    backend.serve()
    return call


@pytest.mark.parametrize("keys", [True, False])
def test_what_is_left_comes_from_the_lessor_the_rest_from_the_database(
    service: LeaseService, backend: Backend, keys: bool
) -> None:
    call = time_to_live(service, backend, 5, keys=keys)
    ((kind, lease, answer, token),) = backend.asked

    answer.told(token, 41)
    backend.serve()

    assert (kind, lease) == (REMAINING, 5)
    response = LeaseTimeToLiveResponse.FromString(call.outcomes[0])
    assert (response.ID, response.TTL, response.grantedTTL) == (5, 41, 60)
    assert list(response.keys) == ([b"a", b"b"] if keys else [])
    assert response.header.member_id == MEMBER_ID


def test_an_unknown_lease_has_a_ttl_of_minus_one(service: LeaseService, backend: Backend) -> None:
    call = time_to_live(service, backend, 6, keys=True)

    response = LeaseTimeToLiveResponse.FromString(call.outcomes[0])
    assert (response.ID, response.TTL, response.grantedTTL) == (6, -1, 0)
    assert backend.asked == []


def test_a_lease_that_goes_meanwhile_has_a_ttl_of_minus_one_and_no_keys(
    service: LeaseService, backend: Backend
) -> None:
    call = time_to_live(service, backend, 5, keys=True)
    ((_, _, answer, token),) = backend.asked

    answer.told(token, UNKNOWN)

    response = LeaseTimeToLiveResponse.FromString(call.outcomes[0])
    assert (response.ID, response.TTL, response.grantedTTL) == (5, -1, 0)
    assert not response.keys


def test_keys_of_a_lease_are_read_when_the_client_reads(
    service: LeaseService, backend: Backend
) -> None:
    call = time_to_live(service, backend, 5, keys=True)
    ((_, _, answer, token),) = backend.asked
    call.reads = False
    backend.reads.clear()
    answer.told(token, 41)
    backend.serve()
    early = list(call.outcomes)

    read_on(call, backend)

    assert early == []
    response = LeaseTimeToLiveResponse.FromString(call.outcomes[0])
    assert (response.TTL, list(response.keys)) == (41, [b"a", b"b"])


def test_a_lease_that_goes_before_its_keys_are_read_never_was(
    service: LeaseService, backend: Backend
) -> None:
    call = time_to_live(service, backend, 5, keys=True)
    ((_, _, answer, token),) = backend.asked
    backend.reads.clear()
    answer.told(token, 41)

    backend.view = Emptied()
    backend.serve()

    response = LeaseTimeToLiveResponse.FromString(call.outcomes[0])
    assert (response.TTL, list(response.keys), response.header.revision) == (-1, [], 13)


def test_a_question_that_fails_is_answered_with_its_error(
    service: LeaseService, backend: Backend
) -> None:
    call = time_to_live(service, backend, 5, keys=False)
    ((_, _, answer, token),) = backend.asked

    answer.refused(token, TIMEOUT)

    assert call.outcomes == [(Code.UNAVAILABLE, TIMEOUT.text)]


# --- keep-alives ----------------------------------------------------------------------------------


def test_keep_alives_are_answered_in_order_when_they_can_be(
    service: LeaseService, backend: Backend
) -> None:
    call: Any = Stream()
    stream = service.keep_alive(call)
    for lease in (1, 2, 3):
        stream.on_message(keep_alive(lease))
    first, second, third = (token for _, _, _, token in backend.asked)

    stream.told(second, 20)
    stream.settle()
    assert call.messages == []
    stream.told(first, 10)
    stream.settle()
    assert [(m.ID, m.TTL) for m in call.messages] == [(1, 10), (2, 20)]
    stream.told(third, UNKNOWN)
    stream.settle()

    assert [(m.ID, m.TTL) for m in call.messages] == [(1, 10), (2, 20), (3, 0)]
    assert [kind for kind, _, _, _ in backend.asked] == [RENEW] * 3


def test_the_header_is_of_before_the_renewal(service: LeaseService, backend: Backend) -> None:
    call: Any = Stream()
    stream = service.keep_alive(call)
    stream.on_message(keep_alive(1))
    backend.member_status.revision = 99
    try:
        stream.told(backend.asked[0][3], 10)
        stream.settle()
    finally:
        del backend.member_status.revision

    assert call.messages[0].header.revision == 9


def test_a_stream_ends_with_its_last_answer_after_the_client_has_closed_its_side(
    service: LeaseService, backend: Backend
) -> None:
    call: Any = Stream()
    stream = service.keep_alive(call)
    stream.on_message(keep_alive(1))
    stream.on_half_close()
    assert call.outcomes == []

    stream.told(backend.asked[0][3], 10)
    stream.settle()

    assert len(call.messages) == 1
    assert call.outcomes == [(0, "")]


def test_a_keep_alive_that_fails_ends_the_stream_after_what_was_answered(
    service: LeaseService, backend: Backend
) -> None:
    call: Any = Stream()
    stream = service.keep_alive(call)
    for lease in (1, 2):
        stream.on_message(keep_alive(lease))

    stream.told(backend.asked[0][3], 10)
    stream.refused(backend.asked[1][3], TIMEOUT)

    assert [m.ID for m in call.messages] == [1]
    assert call.outcomes == [(Code.UNAVAILABLE, TIMEOUT.text)]


def test_a_flood_waits_and_in_the_end_ends_its_stream(
    service: LeaseService, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "ASKED_MAX", 2)
    monkeypatch.setattr(lease_module, "QUEUED_MAX", 3)
    call: Any = Stream()
    stream = service.keep_alive(call)
    for lease in range(1, 6):
        stream.on_message(keep_alive(lease))
    assert len(backend.asked) == 2

    stream.told(backend.asked[0][3], 10)
    stream.settle()
    assert len(backend.asked) == 3
    for lease in range(6, 8):
        stream.on_message(keep_alive(lease))

    assert call.outcomes == [(Code.UNKNOWN, REQUEST_TOO_MANY_REQUESTS.text)]


def test_a_client_that_does_not_read_is_asked_for_nothing_more_until_it_does(
    service: LeaseService, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "ASKED_MAX", 1)
    call: Any = Stream()
    stream = service.keep_alive(call)
    for lease in (1, 2):
        stream.on_message(keep_alive(lease))
    call.writable = False
    stream.told(backend.asked[0][3], 10)
    stream.settle()
    assert len(backend.asked) == 1

    call.writable = True
    stream.on_drain()

    assert len(backend.asked) == 2


def test_what_is_no_keep_alive_ends_the_stream(service: LeaseService) -> None:
    call: Any = Stream()

    service.keep_alive(call).on_message(b"\xff")

    assert call.outcomes[0][0] == Code.INTERNAL


@pytest.mark.parametrize(
    ("heartbeat", "election", "seconds"), [(100, 1000, 2), (20, 200, 1), (500, 5000, 8)]
)
def test_the_least_ttl_is_one_and_a_half_election_timeouts(
    heartbeat: int, election: int, seconds: int
) -> None:
    assert min_ttl_seconds(heartbeat, election) == seconds
