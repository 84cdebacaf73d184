"""What a request costs of the space quota (etcd's BackendQuota, an estimate in bytes)."""

from __future__ import annotations

from typing import Final

from etcdpb.rpc_pb2 import PutRequest, RequestOp, TxnRequest
from kv.batch import Op

KV_OVERHEAD: Final = 256
LEASE_OVERHEAD: Final = 64
TAKES_SPACE: Final = frozenset((Op.PUT, Op.TXN, Op.LEASE_GRANT))


def cost(op: int, request: bytes) -> int:
    """Return what a request adds at most; 0 if it adds nothing and so is never refused."""
    if op == Op.PUT:
        return _put_cost(PutRequest.FromString(request))
    if op == Op.TXN:
        return _txn_cost(TxnRequest.FromString(request))
    return LEASE_OVERHEAD if op == Op.LEASE_GRANT else 0


def _put_cost(request: PutRequest) -> int:
    return KV_OVERHEAD + len(request.key) + len(request.value)


def _txn_cost(request: TxnRequest) -> int:
    """The dearer of the two branches."""
    return max(sum(map(_op_cost, request.success)), sum(map(_op_cost, request.failure)))


def _op_cost(op: RequestOp) -> int:
    if op.HasField("request_put"):
        return _put_cost(op.request_put)
    return _txn_cost(op.request_txn) if op.HasField("request_txn") else 0
