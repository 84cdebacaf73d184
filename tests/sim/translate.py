"""Between the model's requests and answers and etcd's protobuf messages."""

from __future__ import annotations

from typing import Any, Final

from etcdpb.kv_pb2 import KeyValue
from etcdpb.rpc_pb2 import (
    Compare as ComparePb,
)
from etcdpb.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from tests.sim.model import (
    KV,
    Body,
    Compare,
    Delete,
    Deleted,
    Op,
    Put,
    Putted,
    Range,
    Ranged,
    Request,
    Txned,
)

RESULTS: Final = {
    "=": ComparePb.EQUAL,
    "!=": ComparePb.NOT_EQUAL,
    "<": ComparePb.LESS,
    ">": ComparePb.GREATER,
}


def put_request(request: Put) -> PutRequest:
    """Return etcd's message."""
    return PutRequest(key=request.key, value=request.value, prev_kv=request.prev)


def range_request(request: Range) -> RangeRequest:
    """Return etcd's message."""
    return RangeRequest(key=request.key, range_end=request.end)


def delete_request(request: Delete) -> DeleteRangeRequest:
    """Return etcd's message."""
    return DeleteRangeRequest(key=request.key, range_end=request.end, prev_kv=request.prev)


def to_message(
    request: Request,
) -> PutRequest | RangeRequest | DeleteRangeRequest | TxnRequest:
    """Return etcd's message for any request."""
    if isinstance(request, Put):
        return put_request(request)
    if isinstance(request, Range):
        return range_request(request)
    if isinstance(request, Delete):
        return delete_request(request)
    return TxnRequest(
        compare=[_compare(compare) for compare in request.compares],
        success=[_op(op) for op in request.success],
        failure=[_op(op) for op in request.failure],
    )


def from_put(response: PutResponse) -> Putted:
    """Return the model's answer."""
    return Putted(_kv(response.prev_kv) if response.HasField("prev_kv") else None)


def from_range(response: RangeResponse) -> Ranged:
    """Return the model's answer."""
    return Ranged(tuple(map(_kv, response.kvs)))


def from_delete(response: DeleteRangeResponse) -> Deleted:
    """Return the model's answer."""
    return Deleted(response.deleted, tuple(map(_kv, response.prev_kvs)))


def from_txn(response: TxnResponse) -> Txned:
    """Return the model's answer."""
    answers: list[Putted | Ranged | Deleted] = []
    for each in response.responses:
        if each.HasField("response_put"):
            answers.append(from_put(each.response_put))
        elif each.HasField("response_range"):
            answers.append(from_range(each.response_range))
        else:
            answers.append(from_delete(each.response_delete_range))
    return Txned(response.succeeded, tuple(answers))


def from_message(response: Any) -> Body:
    """Return the model's answer for any response."""
    if isinstance(response, PutResponse):
        return from_put(response)
    if isinstance(response, RangeResponse):
        return from_range(response)
    if isinstance(response, DeleteRangeResponse):
        return from_delete(response)
    return from_txn(response)


def from_body(request: Request, body: bytes) -> Body:
    """Return the model's answer to a request whose response has these bytes."""
    if isinstance(request, Put):
        return from_put(PutResponse.FromString(body))
    if isinstance(request, Range):
        return from_range(RangeResponse.FromString(body))
    if isinstance(request, Delete):
        return from_delete(DeleteRangeResponse.FromString(body))
    return from_txn(TxnResponse.FromString(body))


def _kv(kv: KeyValue) -> KV:
    return KV(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version)


def _op(op: Op) -> RequestOp:
    if isinstance(op, Put):
        return RequestOp(request_put=put_request(op))
    if isinstance(op, Range):
        return RequestOp(request_range=range_request(op))
    return RequestOp(request_delete_range=delete_request(op))


def _compare(compare: Compare) -> ComparePb:
    message = ComparePb(key=compare.key, result=RESULTS[compare.op])
    if compare.target == "value":
        message.target, message.value = ComparePb.VALUE, bytes(compare.operand)
    elif compare.target == "version":
        message.target, message.version = ComparePb.VERSION, int(compare.operand)
    elif compare.target == "create":
        message.target, message.create_revision = ComparePb.CREATE, int(compare.operand)
    else:
        message.target, message.mod_revision = ComparePb.MOD, int(compare.operand)
    return message
