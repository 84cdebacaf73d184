"""Big results that are carried out again instead of kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kv.machine
from etcdpb.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    PutRequest,
    TxnRequest,
)
from kv.batch import encode_batch
from kv.errors import ANSWERED_ALREADY
from kv.recall import BODY_BYTES_MAX
from tests.kv.driver import KINDS, OPS, SqliteDriver, driver_over
from tests.kv.random_requests import RandomRequests

BIG = b"x" * (BODY_BYTES_MAX + 1)


def batch_of(first_id: int, *requests: Any) -> bytes:
    ops = bytes(OPS[type(request).__name__] for request in requests)
    return encode_batch(7, 1, first_id, ops, [r.SerializeToString() for r in requests])


def big_txn() -> TxnRequest:
    txn = TxnRequest()
    txn.success.add().request_put.CopyFrom(PutRequest(key=b"b", value=b"small"))
    txn.success.add().request_delete_range.CopyFrom(DeleteRangeRequest(key=b"c"))
    txn.success.add().request_range.key = b"a"
    txn.success[-1].request_range.range_end = b"z"
    return txn


@pytest.mark.parametrize("kind", KINDS)
def test_a_big_result_is_not_kept_but_given_again(kind: str, tmp_path: Path) -> None:
    driver = driver_over(kind, tmp_path)
    driver.open_session(7)
    driver.propose(PutRequest(key=b"a", value=BIG), PutRequest(key=b"c", value=BIG))
    batch = batch_of(
        1,
        big_txn(),
        DeleteRangeRequest(key=b"a", range_end=b"b", prev_kv=True),
        DeleteRangeRequest(key=b"nobody"),
    )
    (first,) = driver.entries(batch)
    driver.propose(PutRequest(key=b"a", value=b"other"), DeleteRangeRequest(key=b"b"))
    driver.restart()

    (again,) = driver.entries(batch)

    assert again.results == first.results
    assert driver.store.results(7, 1, 3) == {1: (4, 3), 2: (5, 4), 3: first.results[2]}
    if isinstance(driver, SqliteDriver):
        with driver.reader.view() as view:
            assert view.session_results(7, range(1, 4)) == {3: first.results[2]}
    driver.close()


def test_a_big_result_is_lost_with_the_history_it_came_from() -> None:
    driver = driver_over("memory", Path())
    driver.open_session(7)
    driver.propose(PutRequest(key=b"a", value=BIG), PutRequest(key=b"a", value=BIG))
    batch = batch_of(1, DeleteRangeRequest(key=b"a", prev_kv=True))
    driver.entries(batch)
    driver.propose(CompactionRequest(revision=4))
    driver.prune()

    (again,) = driver.entries(batch)

    assert again.results == [-ANSWERED_ALREADY.number]


@pytest.mark.parametrize("kind", KINDS)
def test_a_big_result_is_lost_with_what_it_read_at_an_older_revision(
    kind: str, tmp_path: Path
) -> None:
    driver = driver_over(kind, tmp_path)
    driver.open_session(7)
    driver.propose(*(PutRequest(key=b"a", value=BIG) for _ in range(3)))
    txn = big_txn()
    txn.success[-1].request_range.revision = 2
    batch = batch_of(1, txn)
    driver.entries(batch)
    driver.propose(CompactionRequest(revision=3))  # the txn itself began at 4

    (again,) = driver.entries(batch)

    assert again.results == [-ANSWERED_ALREADY.number]
    driver.close()


@pytest.mark.parametrize("seed", range(4))
def test_any_result_is_given_again_as_it_was(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv.machine, "BODY_BYTES_MAX", 0)
    driver = driver_over("memory", Path())
    driver.open_session(7)
    requests = RandomRequests(seed)
    batches = []
    for first_id in range(1, 300):
        requests.revision = driver.machine.revision
        request = requests.write()
        if isinstance(request, CompactionRequest):
            continue
        if isinstance(request, LeaseGrantRequest):  # its result is small, whatever "big" is
            driver.propose(request)
            continue
        batch = batch_of(first_id, request)
        batches.append((batch, driver.entries(batch)[0].results))

    for batch, results in batches:
        assert driver.entries(batch)[0].results == results


def test_etcd_errors_are_kept_as_numbers() -> None:
    driver = driver_over("memory", Path())
    driver.open_session(7)
    batch = batch_of(1, PutRequest(key=b"a", ignore_value=True))

    results = [driver.entries(batch)[0].results for _ in range(2)]

    assert results[0] == results[1]
    assert isinstance(results[0][0], int)
    assert results[0][0] < 0
