"""Refuses malformed KV requests, in the order etcd finds their faults (v3rpc/key.go).

Messages come in parsed; an EtcdError is the answer, None means the request may go on. What needs
the store (permissions, missing keys, quota) is not decided here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from etcdpb.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
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
    LEASE_TTL_TOO_LARGE,
    TOO_MANY_OPS,
    VALUE_PROVIDED,
    EtcdError,
)
from kv.lease_ops import TTL_MAX

_SORT_ORDERS: Final = frozenset(RangeRequest.SortOrder.values())
_SORT_TARGETS: Final = frozenset(RangeRequest.SortTarget.values())


def check_range_request(request: RangeRequest) -> None:
    """Refuse an empty key, then a sort order or target that does not exist."""
    if not request.key:
        raise EtcdError(EMPTY_KEY)
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        raise EtcdError(INVALID_SORT_OPTION)


def check_put_request(request: PutRequest) -> None:
    """Refuse an empty key, a value or a lease that is to be ignored."""
    if not request.key:
        raise EtcdError(EMPTY_KEY)
    if request.ignore_value and request.value:
        raise EtcdError(VALUE_PROVIDED)
    if request.ignore_lease and request.lease:
        raise EtcdError(LEASE_PROVIDED)


def check_delete_request(request: DeleteRangeRequest) -> None:
    """Refuse an empty key."""
    if not request.key:
        raise EtcdError(EMPTY_KEY)


def check_lease_grant_request(request: LeaseGrantRequest) -> None:
    """Refuse a TTL that is too large; a small or negative one becomes the least one."""
    if request.TTL > TTL_MAX:
        raise EtcdError(LEASE_TTL_TOO_LARGE)


def check_compact_request(request: CompactionRequest) -> None:
    """Refuse nothing: which revisions can be compacted is the store's to say."""


def check_txn_request(request: TxnRequest, max_ops: int) -> None:
    """Refuse too many operations, faults of single ones, then keys changed twice.

    A nested transaction may use what its parents' longest lists left of `max_ops`.
    """
    _check_budget(request, max_ops)
    # Only a request within its budget is looked at for overlaps: their number is bounded then.
    _check_overlaps(request.success)
    _check_overlaps(request.failure)


def _check_budget(request: TxnRequest, max_ops: int) -> None:
    used = max(len(request.compare), len(request.success), len(request.failure))
    if used > max_ops:
        raise EtcdError(TOO_MANY_OPS)
    for compare in request.compare:
        if not compare.key:
            raise EtcdError(EMPTY_KEY)
    for operations in (request.success, request.failure):
        for operation in operations:
            _check_operation(operation, max_ops - used)


def _check_operation(operation: RequestOp, max_ops: int) -> None:
    kind = operation.WhichOneof("request")
    if kind == "request_put":
        check_put_request(operation.request_put)
    elif kind == "request_range":
        check_range_request(operation.request_range)
    elif kind == "request_delete_range":
        check_delete_request(operation.request_delete_range)
    elif kind == "request_txn":
        _check_budget(operation.request_txn, max_ops)
    else:
        raise EtcdError(KEY_NOT_FOUND)


class _Intervals:
    """A set of keys as sorted, disjoint, half-open intervals."""

    __slots__ = ("_begins", "_ends")

    def __init__(self) -> None:
        self._begins: list[bytes] = []
        self._ends: list[bytes] = []

    def add(self, begin: bytes, end: bytes) -> None:
        """Add [begin, end); one that ends before it begins holds nothing."""
        if end <= begin:
            return
        begins, ends = self._begins, self._ends
        first = bisect_left(ends, begin)
        last = first
        while last < len(begins) and begins[last] <= end:
            begin = min(begin, begins[last])
            end = max(end, ends[last])
            last += 1
        begins[first:last] = [begin]
        ends[first:last] = [end]

    def update(self, other: _Intervals) -> None:
        """Add another set's keys."""
        for begin, end in zip(other._begins, other._ends, strict=True):
            self.add(begin, end)

    def __contains__(self, key: bytes) -> bool:
        """Whether the key is in one of the intervals."""
        at = bisect_right(self._begins, key) - 1
        return at >= 0 and key < self._ends[at]


def _deleted(request: DeleteRangeRequest) -> tuple[bytes, bytes]:
    """Return the interval of a delete as etcd's check sees it.

    It takes a range end of one zero byte ("from key on") for an ordinary key, below every other:
    such a delete overlaps with nothing. Clients can see that, so it is kept.
    """
    key, range_end = request.key, request.range_end
    return key, range_end or key + b"\0"


def _check_overlaps(operations: Sequence[RequestOp]) -> tuple[set[bytes], _Intervals]:
    """Refuse a key put twice, or put and deleted, in one branch; return what it puts and deletes.

    The two branches of a nested transaction exclude each other, so they may put the same key.
    """
    puts: set[bytes] = set()
    deletes = _Intervals()
    nested: list[TxnRequest] = []
    own: list[bytes] = []
    for operation in operations:
        kind = operation.WhichOneof("request")
        if kind == "request_put":
            own.append(operation.request_put.key)
        elif kind == "request_delete_range":
            deletes.add(*_deleted(operation.request_delete_range))
        elif kind == "request_txn":
            nested.append(operation.request_txn)
    for txn in nested:
        then_puts, then_deletes = _check_overlaps(txn.success)
        else_puts, else_deletes = _check_overlaps(txn.failure)
        for key in then_puts | else_puts:
            if key in puts or key in deletes:
                raise EtcdError(DUPLICATE_KEY)
        puts |= then_puts
        puts |= else_puts
        deletes.update(then_deletes)
        deletes.update(else_deletes)
    for key in own:
        if key in puts or key in deletes:
            raise EtcdError(DUPLICATE_KEY)
        puts.add(key)
    return puts, deletes
