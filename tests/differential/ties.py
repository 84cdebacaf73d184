"""Brings keys that sort alike into one order, in Ranges and in Ranges within transactions.

Go's sort (of 1.16) is not stable past 6 elements, so etcd leaves that order open.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from google.protobuf.message import Message

from etcdpb import rpc_pb2 as pb
from tests.client import Answer

STABLE_MAX: Final = 6  # up to here Go's sort is an insertion sort

_SORTED_BY: Final = {
    pb.RangeRequest.VERSION: "version",
    pb.RangeRequest.CREATE: "create_revision",
    pb.RangeRequest.MOD: "mod_revision",
    pb.RangeRequest.VALUE: "value",
}


def settle_ties(request: Message, answer: Answer) -> Answer:
    """Return the answer with its ties in the order of their bytes."""
    if answer.message is None:
        return answer
    message = type(answer.message)()
    message.CopyFrom(answer.message)
    _settle(request, message)
    return Answer(answer.code, answer.text, message)


def _settle(request: Any, response: Any) -> None:
    if isinstance(request, pb.RangeRequest):
        _settle_range(request, response)
    elif isinstance(request, pb.TxnRequest):
        operations = request.success if response.succeeded else request.failure
        for operation, result in zip(operations, response.responses, strict=False):
            kind = operation.WhichOneof("request")
            if kind in ("request_range", "request_txn"):
                answer = kind.replace("request", "response")
                _settle(getattr(operation, kind), getattr(result, answer))


def _settle_range(request: pb.RangeRequest, response: pb.RangeResponse) -> None:
    field = _SORTED_BY.get(request.sort_target)
    if field is None or response.count <= STABLE_MAX:
        return
    groups = [list(group) for _, group in groupby(response.kvs, lambda kv: getattr(kv, field))]
    if response.more and groups:
        # The limit may cut through the last group: which of its keys are shown is open, too.
        for kv in groups[-1]:
            kv.key, kv.value = b"", kv.value if field == "value" else b""
            for other in {"create_revision", "mod_revision", "version", "lease"} - {field}:
                kv.ClearField(other)
    settled = [
        kv for group in groups for kv in sorted(group, key=lambda kv: kv.SerializeToString())
    ]
    kept = [pb.RangeResponse().kvs.add() for _ in settled]
    for copy, kv in zip(kept, settled, strict=True):
        copy.CopyFrom(kv)
    del response.kvs[:]
    response.kvs.extend(kept)
