"""Leases in the state machine, over both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdpb.rpc_pb2 import (
    AlarmRequest,
    AlarmType,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from kv.batch import Op, encode_batch
from kv.errors import KEY_NOT_FOUND, LEASE_EXIST, LEASE_NOT_FOUND, LEASE_TTL_TOO_LARGE, NO_SPACE
from kv.lease_ops import TTL_MAX, LeaseEvent, encode_checkpoints, encode_expiry
from kv.store import Lease
from tests.kv.driver import KINDS, MemoryDriver, driver_over


@pytest.fixture(params=KINDS)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryDriver]:
    made = driver_over(request.param, tmp_path)
    yield made
    made.close()


def grant(driver: MemoryDriver, lease: int, ttl: int = 10) -> int:
    """Grant a lease; return the index of its entry."""
    (result,) = driver.propose(LeaseGrantRequest(ID=lease, TTL=ttl))
    assert not isinstance(result, int), result
    return driver.machine.applied_index


def put(key: bytes, lease: int = 0, **options: bool) -> PutRequest:
    return PutRequest(key=key, value=b"v", lease=lease, **options)


def keys(driver: MemoryDriver, lease: int) -> list[bytes]:
    return list(driver.store.lease_keys(lease))


def lessor_proposes(driver: MemoryDriver, op: Op, data: bytes) -> None:
    driver.entries(encode_batch(0, 0, 0, bytes([op]), [data]))


def test_a_grant_answers_with_id_and_ttl_and_makes_no_revision(driver: MemoryDriver) -> None:
    (result,) = driver.propose(LeaseGrantRequest(ID=-7, TTL=5))

    assert result == (1, LeaseGrantResponse(ID=-7, TTL=5).SerializeToString())
    assert driver.machine.revision == 1
    assert driver.store.lease(-7) == Lease(-7, 5, 0, driver.machine.applied_index)


@pytest.mark.parametrize(
    ("lease", "ttl", "error"),
    [(1, 10, LEASE_EXIST), (2, TTL_MAX + 1, LEASE_TTL_TOO_LARGE), (0, 10, LEASE_NOT_FOUND)],
)
def test_a_grant_is_refused(driver: MemoryDriver, lease: int, ttl: int, error: object) -> None:
    grant(driver, 1)

    (result,) = driver.propose(LeaseGrantRequest(ID=lease, TTL=ttl))

    assert result == -error.number  # type: ignore[attr-defined]


def test_a_put_with_an_unknown_lease_is_refused(driver: MemoryDriver) -> None:
    assert driver.propose(put(b"a", 9)) == [-LEASE_NOT_FOUND.number]
    assert driver.machine.revision == 1


def test_in_a_txn_a_missing_key_is_found_before_a_missing_lease(driver: MemoryDriver) -> None:
    request = TxnRequest(success=[RequestOp(request_put=put(b"a", 9, ignore_value=True))])
    request.success[0].request_put.value = b""

    assert driver.propose(request) == [-KEY_NOT_FOUND.number]


def test_keys_are_attached_detached_and_attached_again(driver: MemoryDriver) -> None:
    grant(driver, 1)
    grant(driver, 2)
    driver.propose(put(b"b", 1), put(b"a", 1), put(b"c", 2))
    assert keys(driver, 1) == [b"a", b"b"]

    driver.propose(put(b"a"))  # without a lease: detached
    driver.propose(put(b"b", 2))  # another one
    driver.propose(PutRequest(key=b"c", value=b"w", ignore_lease=True))

    assert keys(driver, 1) == []
    assert keys(driver, 2) == [b"b", b"c"]


def test_a_deleted_key_is_detached_and_comes_back_without_its_lease(driver: MemoryDriver) -> None:
    grant(driver, 1)
    driver.propose(put(b"a", 1), DeleteRangeRequest(key=b"a"))
    assert keys(driver, 1) == []

    driver.propose(put(b"a"))
    driver.propose(LeaseRevokeRequest(ID=1))

    assert driver.range(RangeRequest(key=b"a")).count == 1


def test_a_revocation_deletes_all_keys_in_one_revision_in_order(driver: MemoryDriver) -> None:
    grant(driver, 1)
    driver.propose(put(b"b", 1), put(b"a", 1), put(b"c"))
    before = driver.machine.revision

    assert driver.propose(LeaseRevokeRequest(ID=1)) == [before + 1]

    left = driver.range(RangeRequest(key=b"\0", range_end=b"\0"))
    assert [kv.key for kv in left.kvs] == [b"c"]
    assert driver.store.lease(1) is None
    driver.propose(put(b"a"))
    assert driver.range(RangeRequest(key=b"a")).kvs[0].version == 1


def test_the_hash_after_a_revocation_is_that_of_a_delete(tmp_path: Path) -> None:
    leased, plain = (driver_over("memory", tmp_path) for _ in range(2))
    for one in (leased, plain):
        grant(one, 1)
        one.propose(put(b"b", 1), put(b"a", 1))
    leased.propose(LeaseRevokeRequest(ID=1))
    plain.propose(DeleteRangeRequest(key=b"a", range_end=b"c"))

    assert leased.machine.hash == plain.machine.hash
    assert leased.machine.revision == plain.machine.revision


def test_a_lease_without_keys_is_revoked_without_a_revision(driver: MemoryDriver) -> None:
    grant(driver, 1)

    assert driver.propose(LeaseRevokeRequest(ID=1)) == [1]
    assert driver.propose(LeaseRevokeRequest(ID=1)) == [-LEASE_NOT_FOUND.number]


def test_requests_of_one_entry_see_each_other(driver: MemoryDriver) -> None:
    results = driver.propose(
        LeaseGrantRequest(ID=1, TTL=5),
        put(b"a", 1),
        LeaseRevokeRequest(ID=1),
        put(b"a", 1),
        put(b"b"),
    )

    assert results[1:] == [2, 3, -LEASE_NOT_FOUND.number, 4]


def test_an_expiry_revokes_the_lease_it_names(driver: MemoryDriver) -> None:
    index = grant(driver, 1)
    driver.propose(put(b"a", 1))

    lessor_proposes(driver, Op.LEASE_EXPIRE, encode_expiry(driver.term, 1, index))

    assert driver.store.lease(1) is None
    assert driver.range(RangeRequest(key=b"a")).count == 0


@pytest.mark.parametrize(("term", "index"), [(0, 0), (1, 0), (0, 1), (-1, 0)])
def test_an_expiry_of_another_term_or_lease_is_dropped(
    driver: MemoryDriver, term: int, index: int
) -> None:
    granted_index = grant(driver, 1)
    driver.propose(put(b"a", 1))
    if (term, index) == (0, 0):  # granted again under the same id: an earlier index is named
        driver.propose(LeaseRevokeRequest(ID=1))
        grant(driver, 1)
        driver.propose(put(b"a", 1))

    lessor_proposes(
        driver, Op.LEASE_EXPIRE, encode_expiry(driver.term + term, 1, granted_index + index)
    )

    assert driver.range(RangeRequest(key=b"a")).count == 1


def test_a_checkpoint_is_stored_and_reset_under_the_same_fence(driver: MemoryDriver) -> None:
    index = grant(driver, 1, ttl=100)
    term = driver.term

    lessor_proposes(driver, Op.LEASE_CHECKPOINT, encode_checkpoints(term, [(1, index, 40)]))
    assert driver.store.lease(1).remaining_ttl == 40
    lessor_proposes(driver, Op.LEASE_CHECKPOINT, encode_checkpoints(term - 1, [(1, index, 0)]))
    lessor_proposes(driver, Op.LEASE_CHECKPOINT, encode_checkpoints(term, [(1, index + 1, 0)]))
    assert driver.store.lease(1).remaining_ttl == 40

    lessor_proposes(driver, Op.LEASE_CHECKPOINT, encode_checkpoints(term, [(1, index, 0)]))

    assert driver.store.lease(1).remaining_ttl == 0


def test_what_happened_is_told_once_and_not_if_it_was_rolled_back(driver: MemoryDriver) -> None:
    first = grant(driver, 1)
    driver.propose(LeaseRevokeRequest(ID=1))
    assert driver.machine.take_lease_facts() == [
        (LeaseEvent.GRANTED, 1, 10, first),
        (LeaseEvent.REVOKED, 1, 0, first),
    ]

    data = LeaseGrantRequest(ID=2, TTL=5).SerializeToString()
    driver.entries(encode_batch(0, 0, 0, bytes([Op.LEASE_GRANT]), [data]), commit=False)

    assert driver.machine.take_lease_facts() == []
    assert driver.store.lease(2) is None


def test_leases_and_keys_outlive_a_restart_and_compaction(driver: MemoryDriver) -> None:
    index = grant(driver, 1)
    driver.propose(put(b"a", 1), put(b"b", 1), put(b"b"))
    driver.propose(CompactionRequest(revision=driver.machine.revision))

    driver.prune()
    driver.restart()

    assert keys(driver, 1) == [b"a"]
    assert driver.store.lease(1) == Lease(1, 10, 0, index)


def test_no_lease_is_granted_without_space_but_one_is_revoked(driver: MemoryDriver) -> None:
    grant(driver, 1)
    alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1, alarm=AlarmType.NOSPACE)
    driver.propose(alarm)

    assert driver.propose(LeaseGrantRequest(ID=2, TTL=5)) == [-NO_SPACE.number]
    assert driver.propose(LeaseRevokeRequest(ID=1)) == [1]


def test_a_big_result_is_given_again_though_its_lease_has_gone(driver: MemoryDriver) -> None:
    grant(driver, 1)
    driver.propose(PutRequest(key=b"a", value=b"x" * 100_000, lease=1))
    driver.open_session(77)
    data = PutRequest(key=b"a", value=b"y", lease=1, prev_kv=True).SerializeToString()
    batch = encode_batch(77, 1, 1, bytes([Op.PUT]), [data])
    (first,) = driver.entries(batch)
    driver.propose(LeaseRevokeRequest(ID=1))

    (again,) = driver.entries(batch)

    assert again.results == first.results


def test_a_compare_sees_the_lease_of_a_key(driver: MemoryDriver) -> None:
    grant(driver, 4)
    driver.propose(put(b"a", 4))
    compare = Compare(key=b"a", target=Compare.LEASE, result=Compare.EQUAL, lease=4)
    request = TxnRequest(compare=[compare], success=[RequestOp(request_put=put(b"b", 4))])

    driver.propose(request)

    assert keys(driver, 4) == [b"a", b"b"]
