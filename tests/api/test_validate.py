"""Requests are refused for the fault etcd finds first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from api.validate import (
    check_compact_request,
    check_delete_request,
    check_put_request,
    check_range_request,
    check_txn_request,
)
from etcdpb.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from kv.errors import (
    DUPLICATE_KEY,
    EMPTY_KEY,
    INVALID_SORT_OPTION,
    KEY_NOT_FOUND,
    LEASE_PROVIDED,
    TOO_MANY_OPS,
    VALUE_PROVIDED,
    EtcdError,
    Status,
)

MAX_OPS = 128


def put(key: bytes) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key))


def delete(key: bytes, range_end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=range_end))


def nested(then: list[RequestOp], otherwise: list[RequestOp] | None = None) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(success=then, failure=otherwise or []))


def refusal(check: Callable[[], None]) -> Status | None:
    try:
        check()
    except EtcdError as error:
        return error.status
    return None


def of_txn(txn: TxnRequest, max_ops: int = MAX_OPS) -> Status | None:
    return refusal(lambda: check_txn_request(txn, max_ops))


def test_a_range_needs_a_key_first_and_known_sort_options_then() -> None:
    def check(**fields: Any) -> Status | None:
        return refusal(lambda: check_range_request(RangeRequest(**fields)))

    assert check(key=b"k") is None
    assert check(key=b"k", sort_order=2, sort_target=4) is None
    assert check(sort_order=7) == EMPTY_KEY
    assert check(key=b"k", sort_order=3) == INVALID_SORT_OPTION
    assert check(key=b"k", sort_target=5) == INVALID_SORT_OPTION
    assert check(key=b"k", sort_target=-1) == INVALID_SORT_OPTION


def test_a_put_does_not_carry_what_it_says_to_ignore() -> None:
    def check(**fields: Any) -> Status | None:
        return refusal(lambda: check_put_request(PutRequest(**fields)))

    assert check(key=b"k", value=b"v", lease=1) is None
    assert check(key=b"k", ignore_value=True, ignore_lease=True) is None
    assert check(value=b"v", ignore_value=True) == EMPTY_KEY
    assert check(key=b"k", value=b"v", ignore_value=True, lease=1, ignore_lease=True) == (
        VALUE_PROVIDED
    )
    assert check(key=b"k", lease=1, ignore_lease=True) == LEASE_PROVIDED


def test_a_delete_needs_a_key_and_a_compaction_nothing() -> None:
    assert refusal(lambda: check_delete_request(DeleteRangeRequest())) == EMPTY_KEY
    assert refusal(lambda: check_delete_request(DeleteRangeRequest(key=b"k"))) is None
    assert refusal(lambda: check_compact_request(CompactionRequest(revision=-1))) is None


@pytest.mark.parametrize("part", ["compare", "success", "failure"])
def test_each_part_of_a_txn_is_bounded(part: str) -> None:
    operation: Any = Compare(key=b"k") if part == "compare" else delete(b"k")

    assert of_txn(TxnRequest(**{part: [operation] * 3}), 3) is None
    assert of_txn(TxnRequest(**{part: [operation] * 4}), 3) == TOO_MANY_OPS


def test_a_nested_txn_has_what_is_left_of_the_budget() -> None:
    inner = nested([delete(b"a"), delete(b"b")])

    assert of_txn(TxnRequest(success=[inner]), 3) is None
    assert of_txn(TxnRequest(success=[inner, delete(b"c")]), 3) == TOO_MANY_OPS
    assert of_txn(TxnRequest(success=[inner], compare=[Compare(key=b"k")] * 2), 3) == TOO_MANY_OPS


def test_faults_are_found_in_etcds_order() -> None:
    no_key = Compare()
    both = TxnRequest(compare=[no_key], success=[put(b"a"), put(b"a")])

    assert of_txn(both, 1) == TOO_MANY_OPS
    assert of_txn(both) == EMPTY_KEY
    assert of_txn(TxnRequest(success=[RequestOp()])) == KEY_NOT_FOUND
    assert of_txn(TxnRequest(success=[RequestOp(), put(b"")])) == KEY_NOT_FOUND
    assert of_txn(TxnRequest(success=[put(b"")], failure=[RequestOp()])) == EMPTY_KEY
    assert of_txn(TxnRequest(success=[put(b"a"), put(b"a")], failure=[put(b"")])) == EMPTY_KEY


@pytest.mark.parametrize(
    "operations",
    [
        [put(b"a"), put(b"b"), put(b"a")],
        [put(b"a"), delete(b"a")],
        [delete(b"a"), put(b"a")],
        [put(b"b"), delete(b"a", b"c")],
        [delete(b"a", b"c"), put(b"a")],
        [delete(b"m"), delete(b"a", b"c"), delete(b"b", b"z"), put(b"y")],
        [put(b"a"), nested([put(b"a")])],
        [put(b"a"), nested([], [put(b"a")])],
        [put(b"a"), nested([nested([put(b"a")])])],
        [nested([put(b"a")]), nested([put(b"a")])],
        [nested([put(b"a")]), nested([], [put(b"a")])],
        [put(b"a"), nested([delete(b"a")])],
        [delete(b"a", b"c"), nested([put(b"b")])],
        [nested([delete(b"a", b"c")]), nested([put(b"b")])],
        [nested([put(b"a"), put(b"a")])],
    ],
)
def test_a_key_changed_twice_in_one_branch_is_refused(operations: list[RequestOp]) -> None:
    assert of_txn(TxnRequest(success=operations)) == DUPLICATE_KEY
    assert of_txn(TxnRequest(failure=operations)) == DUPLICATE_KEY


@pytest.mark.parametrize(
    "operations",
    [
        [put(b"a"), put(b"b")],
        [delete(b"a"), delete(b"a"), delete(b"a", b"z")],
        [put(b"c"), delete(b"a", b"c")],
        [put(b"a\0"), delete(b"a")],
        [nested([put(b"a")], [put(b"a")])],
        [nested([put(b"a")], [delete(b"a")])],
        [nested([put(b"a")]), nested([delete(b"a")])],  # etcd looks at earlier deletes only
        [put(b"b"), delete(b"a", b"\0")],  # etcd takes this end for an ordinary key
        [put(b"b"), delete(b"c", b"a")],
        [put(b"a"), RequestOp(request_range=RangeRequest(key=b"a"))],
    ],
)
def test_what_etcd_takes_is_taken(operations: list[RequestOp]) -> None:
    assert of_txn(TxnRequest(success=operations)) is None


def test_both_branches_may_change_the_same_key() -> None:
    assert of_txn(TxnRequest(success=[put(b"a")], failure=[put(b"a"), delete(b"b")])) is None


def test_many_deletes_and_puts_are_checked_without_a_quadratic_cost() -> None:
    keys = [b"%06d" % i for i in range(0, 20_000, 2)]
    odd = [b"%06d" % i for i in range(1, 20_000, 2)]
    txn = TxnRequest(success=[delete(key) for key in keys] + [put(key) for key in odd])

    started = time.process_time()
    assert of_txn(txn, 100_000) is None

    assert time.process_time() - started < 2
