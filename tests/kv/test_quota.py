"""What requests cost of the space quota."""

from __future__ import annotations

from etcdpb.rpc_pb2 import DeleteRangeRequest, PutRequest, RequestOp, TxnRequest
from kv.batch import Op
from kv.quota import KV_OVERHEAD, LEASE_OVERHEAD, cost

PUT = PutRequest(key=b"key", value=b"12345")
PUT_COST = KV_OVERHEAD + 8


def put_op() -> RequestOp:
    return RequestOp(request_put=PUT)


def test_a_put_costs_its_key_its_value_and_an_overhead() -> None:
    assert cost(Op.PUT, PUT.SerializeToString()) == PUT_COST


def test_a_txn_costs_its_dearer_branch_with_all_that_is_nested() -> None:
    nested = RequestOp(request_txn=TxnRequest(success=[put_op()], failure=[put_op(), put_op()]))
    request = TxnRequest(success=[put_op()], failure=[put_op(), nested])

    assert cost(Op.TXN, request.SerializeToString()) == 3 * PUT_COST


def test_who_only_takes_away_costs_nothing() -> None:
    delete = RequestOp(request_delete_range=DeleteRangeRequest(key=b"key"))

    assert cost(Op.TXN, TxnRequest(success=[delete]).SerializeToString()) == 0
    assert cost(Op.DELETE_RANGE, b"") == 0


def test_a_lease_costs_a_fixed_sum() -> None:
    assert cost(Op.LEASE_GRANT, b"") == LEASE_OVERHEAD
