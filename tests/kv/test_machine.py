"""The state machine, entry by entry."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest

import kv.apply
import kv.machine
from etcdpb.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
)
from kv.batch import Op, encode_batch
from kv.cluster import Member, decode_member_change, encode_member_change
from kv.errors import (
    CORRUPT,
    MEMBER_NOT_FOUND,
    NO_SPACE,
    RESPONSE_TOO_LARGE,
    SESSION_CLOSED,
    TOO_MANY_CHANGES,
    RevisionOverflowError,
)
from kv.machine import Machine
from kv.memory import MemoryStore
from kv.store import REVISION_MAX, SUB_MAX, Progress
from kv.tally import ROW_BYTES
from kv.txn import is_read_only, is_serializable
from kv.writer import HistoryWriter
from raft.state import ConfState
from tests.kv.driver import KINDS, OPS, MemoryDriver, driver_over
from tests.kv.random_requests import RandomRequests


@pytest.fixture(params=KINDS)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = driver_over(request.param, tmp_path)
    yield made
    made.close()


def put(key: bytes, value: bytes = b"v") -> PutRequest:
    return PutRequest(key=key, value=value)


def test_an_empty_entry_moves_only_the_applied_index(driver: MemoryDriver) -> None:
    (applied,) = driver.entries(b"")

    assert applied.results == []
    assert (driver.machine.applied_index, driver.machine.revision) == (1, 1)


def test_an_entry_out_of_order_is_refused(driver: MemoryDriver) -> None:
    driver.store.begin()

    with pytest.raises(AssertionError, match="5 after 0"):
        driver.machine.apply(5, 1, b"")


def test_applied_names_the_revisions_that_are_new(driver: MemoryDriver) -> None:
    driver.propose(put(b"a"))
    ops = bytes([Op.PUT, Op.PUT])
    datas = [put(b"b").SerializeToString(), put(b"c").SerializeToString()]

    (applied,) = driver.entries(encode_batch(0, 0, 0, ops, datas))

    assert (applied.first_revision, applied.last_revision) == (2, 4)
    assert applied.results == [3, 4]


def test_a_rollback_takes_everything_back(driver: MemoryDriver) -> None:
    driver.propose(put(b"a"))
    before = (driver.machine.revision, driver.machine.hash, driver.machine.applied_index)

    driver.entries(
        encode_batch(0, 0, 0, bytes([Op.PUT]), [put(b"a", b"w").SerializeToString()]), commit=False
    )

    machine = driver.machine
    assert (machine.revision, machine.hash, machine.applied_index) == before
    assert driver.range(RangeRequest(key=b"a")).kvs[0].value == b"v"


def test_state_and_hash_do_not_depend_on_how_entries_come_in_transactions(tmp_path: Path) -> None:
    requests = RandomRequests(5)
    datas = []
    model = MemoryDriver()
    for _ in range(120):
        requests.revision = model.machine.revision
        request = requests.write()
        model.propose(request)
        ops = bytes([OPS[type(request).__name__]])
        datas.append(encode_batch(0, 0, 0, ops, [request.SerializeToString()]))
    other = driver_over("sqlite", tmp_path)

    rest = list(datas)
    chance = Random(6)
    while rest:
        count = chance.randint(1, 9)
        other.entries(*rest[:count])
        rest = rest[count:]
        if chance.random() < 0.2:
            other.restart()

    assert other.machine.hash == model.machine.hash
    assert other.machine.revision == model.machine.revision
    everything = RangeRequest(key=b"\0", range_end=b"\0")
    assert other.range(everything) == model.range(everything)
    other.close()


def test_the_hash_tells_two_histories_apart() -> None:
    hashes = set()
    for value in (b"v", b"w"):
        for key in (b"a", b"b"):
            driver = MemoryDriver()
            driver.propose(put(key, value), put(b"z"))
            hashes.add(driver.machine.hash)

    assert len(hashes) == 4


def test_alarms_are_raised_listed_and_cleared(driver: MemoryDriver) -> None:
    raised = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1 << 63, alarm=AlarmType.NOSPACE)
    cleared = AlarmRequest(
        action=AlarmRequest.DEACTIVATE, memberID=1 << 63, alarm=AlarmType.NOSPACE
    )

    ((revision, body),) = driver.propose(raised)  # type: ignore[misc]
    driver.restart()
    listed = driver.propose(AlarmRequest())
    gone = driver.propose(cleared, cleared, AlarmRequest())

    assert revision == 1
    assert listed == [(1, body)]
    assert AlarmResponse.FromString(body).alarms[0].memberID == 1 << 63
    assert gone == [(1, body), 1, 1]


def test_an_alarm_that_does_not_exist_is_not_raised(driver: MemoryDriver) -> None:
    unknown = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1, alarm=99)  # type: ignore[arg-type]

    assert driver.propose(unknown, AlarmRequest()) == [1, 1]


def test_a_response_that_is_too_large_is_refused_and_its_writes_stay(
    driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it ends does not depend on memory or on protobuf: every member refuses the same."""
    for module, name, limit in (
        (kv.machine, "RESPONSE_BYTES_MAX", 4 * (ROW_BYTES + 1001)),
        (kv.machine, "BODY_BYTES_MAX", 100),  # what is small is always answered
    ):
        monkeypatch.setattr(module, name, limit)
    driver.propose(*(put(name, b"v" * 1000) for name in (b"a", b"b", b"c")))
    ranges, fits, delete = TxnRequest(), TxnRequest(), TxnRequest()
    for txn, times in ((ranges, 2), (fits, 1)):
        txn.success.add().request_put.CopyFrom(put(b"d"))
        for _ in range(times):
            txn.success.add().request_range.CopyFrom(RangeRequest(key=b"a", range_end=b"d"))
    for _ in range(2):
        delete.success.add().request_put.CopyFrom(
            PutRequest(key=b"a", value=b"v" * 1000, prev_kv=True)
        )
        delete.success.add().request_delete_range.CopyFrom(
            DeleteRangeRequest(key=b"a", range_end=b"d", prev_kv=True)
        )
    several = DeleteRangeRequest(key=b"a", range_end=b"z", prev_kv=True)

    (enough,) = driver.propose(fits)
    results = driver.propose(ranges, delete, several)
    again = driver.propose(several, put(b"e"))

    assert not isinstance(enough, int)
    assert enough[0] == 5
    assert results == [-RESPONSE_TOO_LARGE.number] * 2 + [results[2]]
    assert not isinstance(results[2], int)
    assert results[2][0] == 8  # the put of `ranges`, what `delete` did, and this
    assert again == [8, 9]


def test_more_changes_than_a_revision_holds_are_refused_and_change_nothing(
    driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv.apply, "SUB_MAX", 3)
    driver.propose(LeaseGrantRequest(ID=7, TTL=9))
    for name in (b"a", b"b", b"c", b"d"):
        driver.propose(PutRequest(key=name, value=b"v", lease=7))
    twice, fits = TxnRequest(), TxnRequest()
    for begin, end in ((b"a", b"c"), (b"c", b"e")):
        twice.success.add().request_delete_range.CopyFrom(
            DeleteRangeRequest(key=begin, range_end=end)
        )
    fits.success.add().request_put.CopyFrom(put(b"e"))
    fits.success.add().request_delete_range.CopyFrom(DeleteRangeRequest(key=b"a", range_end=b"c"))
    everything = DeleteRangeRequest(key=b"a", range_end=b"z")

    refused = driver.propose(everything, twice, LeaseRevokeRequest(ID=7))
    (done,) = driver.propose(fits)

    assert refused == [-TOO_MANY_CHANGES.number] * 3
    assert not isinstance(done, int)
    assert done[0] == 6


def test_whoever_waits_is_told_that_slow_requests_go_on() -> None:
    told = list[None]()
    store = MemoryStore()
    store.begin()
    machine = Machine(store, goes_on=lambda: told.append(None))
    slow = [DeleteRangeRequest(key=b"a", range_end=b"z"), TxnRequest()]
    ops = bytes([Op.PUT, *(OPS[type(request).__name__] for request in slow)])
    requests = [put(b"k").SerializeToString(), *(r.SerializeToString() for r in slow)]

    machine.apply(1, 1, encode_batch(0, 0, 0, ops, requests))

    assert len(told) == 2


def test_the_responses_of_an_entry_are_bounded_together(
    driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv.machine, "RESPONSE_BYTES_MAX", 4 * (ROW_BYTES + 1001))
    monkeypatch.setattr(kv.machine, "BODY_BYTES_MAX", 100)
    driver.propose(*(put(name, b"v" * 1000) for name in (b"a", b"b", b"c")), put(b"s", b"small"))
    large, small = TxnRequest(), TxnRequest()
    for txn, key, end in ((large, b"a", b"d"), (small, b"s", b"t")):
        txn.success.add().request_put.CopyFrom(put(b"z"))
        txn.success.add().request_range.CopyFrom(RangeRequest(key=key, range_end=end))

    first, second, third = driver.propose(large, large, small)
    told = driver.machine.large_bytes
    again = driver.propose(large)

    assert not isinstance(first, int)
    assert second == -RESPONSE_TOO_LARGE.number
    assert not isinstance(third, int)
    assert third[0] == 8
    assert told == len(first[1])
    assert not isinstance(again[0], int)


def test_without_space_only_puts_are_refused(driver: MemoryDriver) -> None:
    driver.propose(put(b"a"))
    txn = TxnRequest()
    txn.failure.add().request_put.CopyFrom(put(b"a"))
    harmless = TxnRequest()
    harmless.success.add().request_delete_range.CopyFrom(DeleteRangeRequest(key=b"a"))
    alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1, alarm=AlarmType.NOSPACE)

    _, *results = driver.propose(alarm, put(b"b"), txn, harmless)

    assert results[:2] == [-NO_SPACE.number] * 2
    assert isinstance(results[2], tuple)


def test_a_corrupt_cluster_changes_no_key(driver: MemoryDriver) -> None:
    alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1, alarm=AlarmType.CORRUPT)

    _, *results = driver.propose(alarm, put(b"b"), DeleteRangeRequest(key=b"b"), TxnRequest())

    assert results == [-CORRUPT.number] * 3


def change(driver: MemoryDriver, kind: Any, member: Member) -> None:
    driver.store.begin()
    index = driver.machine.applied_index + 1
    decoded = decode_member_change(encode_member_change((kind, member)))
    driver.machine.apply_conf_change(index, 1, ConfState(voters=(member.id,)), decoded)
    driver.machine.flush()
    driver.store.commit()


def publish(driver: MemoryDriver, member_id: int, name: str) -> Any:
    data = msgpack.packb((member_id, name, ["http://c"]))
    (applied,) = driver.entries(encode_batch(0, 0, 0, bytes([Op.MEMBER_ATTRIBUTES]), [data]))
    return applied.results[0]


def test_members_come_change_and_go(driver: MemoryDriver) -> None:
    big = (1 << 64) - 3
    change(driver, "add", Member(big, peer_urls=("http://p",), is_learner=True))
    assert publish(driver, big, "m1") == 1
    change(driver, "promote", Member(big))
    change(driver, "update", Member(big, peer_urls=("http://q",)))
    driver.restart()
    known = dict(driver.machine.members)
    conf_state = driver.machine.conf_state

    change(driver, "remove", Member(big))
    driver.restart()

    assert known == {big: Member(big, "m1", ("http://q",), ("http://c",), False)}
    assert conf_state == ConfState(voters=(big,))
    assert driver.machine.members == {}
    assert publish(driver, big, "m1") == -MEMBER_NOT_FOUND.number


def test_removing_a_member_closes_its_sessions(driver: MemoryDriver) -> None:
    change(driver, "add", Member(5))
    driver.open_session(70, member_id=5)
    driver.open_session(71, member_id=6)

    change(driver, "remove", Member(5))

    datas = [put(b"a").SerializeToString()]
    gone, kept = driver.entries(
        encode_batch(70, 1, 1, b"\x02", datas), encode_batch(71, 1, 1, b"\x02", datas)
    )
    assert gone.results == [-SESSION_CLOSED.number]
    assert kept.results == [2]


def test_late_copies_of_a_removed_members_session_do_nothing(driver: MemoryDriver) -> None:
    change(driver, "add", Member(5))
    driver.open_session(70, member_id=5)
    batch = encode_batch(70, 1, 1, b"\x02", [put(b"a").SerializeToString()])
    driver.entries(batch)

    change(driver, "remove", Member(5))
    driver.restart()
    driver.open_session(70, member_id=5)
    (again,) = driver.entries(batch)

    assert again.results == [-SESSION_CLOSED.number]
    assert driver.machine.revision == 2


def test_an_empty_context_changes_no_member() -> None:
    assert decode_member_change(b"") is None


def test_the_cluster_version_is_decided_by_the_log(driver: MemoryDriver) -> None:
    assert driver.machine.cluster_version is None

    driver.entries(encode_batch(0, 0, 0, bytes([Op.CLUSTER_VERSION]), [b"3.7.0"]))
    driver.restart()

    assert driver.machine.cluster_version == "3.7.0"


def test_an_op_of_a_newer_version_stops_the_machine(driver: MemoryDriver) -> None:
    driver.store.begin()

    with pytest.raises(AssertionError, match="op 99 is unknown"):
        driver.machine.apply(1, 1, encode_batch(0, 0, 0, bytes([99]), [b""]))


def test_the_last_revision_is_not_passed() -> None:
    store = MemoryStore()
    store.begin()
    store.save_progress(Progress(revision=REVISION_MAX - 1))
    store.commit()
    machine = Machine(store)
    store.begin()
    data = put(b"a").SerializeToString()

    assert machine.apply(1, 1, encode_batch(0, 0, 0, b"\x02", [data])).results == [REVISION_MAX]
    with pytest.raises(RevisionOverflowError):
        machine.apply(2, 1, encode_batch(0, 0, 0, b"\x02", [data]))


def test_a_revision_holds_no_more_changes_than_its_row_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = HistoryWriter(MemoryStore(), 0)
    writer.start(1)
    writer.put(b"a", b"", 0)
    monkeypatch.setattr(writer, "_sub", SUB_MAX, raising=True)
    writer.put(b"b", b"", 0)

    with pytest.raises(RevisionOverflowError):
        writer.put(b"c", b"", 0)


def test_which_txns_are_reads() -> None:
    ranges = TxnRequest()
    ranges.success.add().request_range.CopyFrom(RangeRequest(key=b"a", serializable=True))
    mixed = TxnRequest()
    mixed.CopyFrom(ranges)
    mixed.failure.add().request_range.CopyFrom(RangeRequest(key=b"a"))
    nested = TxnRequest()
    nested.success.add().request_txn.CopyFrom(ranges)

    assert [is_read_only(t) for t in (TxnRequest(), ranges, mixed, nested)] == [
        True,
        True,
        True,
        False,
    ]
    assert [is_serializable(t) for t in (TxnRequest(), ranges, mixed, nested)] == [
        True,
        True,
        False,
        False,
    ]
