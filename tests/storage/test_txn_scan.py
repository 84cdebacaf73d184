"""A read-only txn in slices answers as one in a single step does."""

from __future__ import annotations

from pathlib import Path

import pytest

from etcdpb.rpc_pb2 import Compare, RangeRequest, RequestOp, TxnRequest, TxnResponse
from kv.errors import COMPACTED, EtcdError
from storage import scan as scan_module
from tests.kv.driver import finish
from tests.storage.database_driver import Filled, filled

KEYS = [f"key{i:03}" for i in range(60)]
EVERYTHING = RequestOp(request_range=RangeRequest(key=b"\0", range_end=b"\0"))
VALUES = Compare(
    key=b"key", range_end=b"kez", target=Compare.VALUE, result=Compare.EQUAL, value=b"v"
)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """Sixty keys; every step of a scan does the least it can, in a transaction of its own."""
    monkeypatch.setattr(scan_module, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(scan_module, "SECONDS_MAX", 0.0)
    driver = filled(tmp_path)
    driver.put(*KEYS)
    return driver


def of_view(driver: Filled, request: TxnRequest) -> TxnResponse:
    with driver.reader.view() as view:
        return TxnResponse.FromString(view.txn(request))


def test_all_of_it_is_of_one_moment_whatever_is_written_meanwhile(driver: Filled) -> None:
    old = RequestOp(request_range=RangeRequest(key=b"\0", range_end=b"\0", revision=30))
    request = TxnRequest(compare=[VALUES], success=[EVERYTHING, old, EVERYTHING])
    expected = of_view(driver, request)
    scan = driver.reader.scan_txn(request)

    turns = 0
    while not scan.step():
        turns += 1
        if turns % 10 == 0:
            driver.put(f"new{turns}", KEYS[turns % 60], value=b"later")
            driver.delete(KEYS[-turns % 60])

    answer = TxnResponse.FromString(b"".join(scan.body()))
    assert answer == expected
    assert answer.succeeded
    assert [len(op.response_range.kvs) for op in answer.responses] == [60, 29, 60]
    assert turns > 180
    driver.close()


def test_a_compare_ends_with_the_first_key_that_fails_it(driver: Filled) -> None:
    driver.put(KEYS[5], value=b"other")
    request = TxnRequest(compare=[VALUES], success=[EVERYTHING])
    scan = driver.reader.scan_txn(request)
    steps = 1

    while not scan.step():
        steps += 1

    assert TxnResponse.FromString(b"".join(scan.body())) == of_view(driver, request)
    assert 5 <= steps < 20
    driver.close()


def test_it_begins_again_when_its_revision_is_compacted(driver: Filled) -> None:
    request = TxnRequest(compare=[VALUES], success=[EVERYTHING], failure=[EVERYTHING, EVERYTHING])
    scan = driver.reader.scan_txn(request)
    for _ in range(100):
        assert not scan.step()
    driver.put(KEYS[0], value=b"other")
    driver.compact(driver.machine.revision)
    driver.prune()

    answer = TxnResponse.FromString(finish(scan))

    assert answer == of_view(driver, request)
    assert (answer.succeeded, scan.revision) == (False, driver.machine.revision)
    driver.close()


def test_a_revision_that_was_asked_for_and_is_compacted_meanwhile_is_refused(
    driver: Filled,
) -> None:
    old = RequestOp(request_range=RangeRequest(key=b"\0", range_end=b"\0", revision=30))
    scan = driver.reader.scan_txn(TxnRequest(success=[EVERYTHING, old]))
    for _ in range(10):
        assert not scan.step()
    driver.compact(31)

    with pytest.raises(EtcdError, match=COMPACTED.text):
        finish(scan)
    driver.close()
