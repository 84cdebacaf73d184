"""etcdserverpb.KV: validate, then put into the log or read a view.

Rules, in the order they are applied:
1. What is malformed or invalid is refused here, with etcd's error, and changes nothing.
2. Put, DeleteRange, Compact and a Txn that writes go through the log as the client's own bytes.
3. Range and a Txn that only reads are served from the database, linearizable unless the request
   says serializable (for a Txn: every range in it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from api.backend import Backend
from api.grpc import Call, Method
from api.validate import (
    check_compact_request,
    check_delete_request,
    check_put_request,
    check_range_request,
    check_txn_request,
)
from etcdpb.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
)
from kv.batch import Op
from kv.errors import NOT_SUPPORTED_FOR_LEARNER, REQUEST_TOO_LARGE, Code, EtcdError
from kv.range import is_small
from kv.txn import is_read_only, is_serializable, is_small_txn

M = TypeVar("M", bound=Message)
ROOMLESS_BYTES: Final = 1024
"""An answer this small is sent whether the client reads or not: requests cost it as much."""
NO_CUSTOM_SORT = "RangeStream does not support custom sort orders"
NO_FILTERS = "RangeStream does not support revision filters"


def parsed(message_type: type[M], call: Call, data: bytes) -> M | None:
    """Parse a request; a malformed one is answered as grpc-go does and None is returned."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        call.finish(Code.INTERNAL, "grpc: error unmarshalling request: proto: cannot parse")
        return None


class KvService:
    """The methods of etcdserverpb.KV."""

    def __init__(self, backend: Backend, *, max_txn_ops: int, max_request_bytes: int) -> None:
        self._backend = backend
        self._status = backend.status()
        self._max_txn_ops = max_txn_ops
        self._max_request_bytes = max_request_bytes

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        prefix = b"/etcdserverpb.KV/"
        return {
            prefix + b"Range": Method.unary(self.range),
            prefix + b"RangeStream": Method.server_stream(self.range_stream),
            prefix + b"Put": Method.unary(self.put),
            prefix + b"DeleteRange": Method.unary(self.delete_range),
            prefix + b"Txn": Method.unary(self.txn),
            prefix + b"Compact": Method.unary(self.compact),
        }

    def put(self, call: Call, data: bytes) -> None:
        """Put one key."""
        try:
            request = PutRequest.FromString(data)
            check_put_request(request)
            if len(data) > self._max_request_bytes:
                raise EtcdError(REQUEST_TOO_LARGE)
        except EtcdError as error:
            call.fail(error.status)
        except DecodeError:
            parsed(PutRequest, call, data)
        else:
            self._backend.propose(Op.PUT, data, call)

    def range(self, call: Call, data: bytes) -> None:
        """Read a key or a range."""
        request = self._checked(RangeRequest, call, data, check_range_request)
        if request is None:
            return
        if not request.serializable and self._status.is_learner:
            call.fail(NOT_SUPPORTED_FOR_LEARNER)
            return
        if not is_small(request):
            self._backend.scan(call, request, serializable=request.serializable, stream=False)
            return

        def serve(view: Any, call: Call) -> None:
            body = view.range(request)
            if len(body) > ROOMLESS_BYTES and not call.take_room(len(body)):
                # Once more, when the client has read: no later view is staler than this one.
                self._backend.scan(call, request, serializable=True, stream=False)
                return
            call.reply(self._backend.header(view.revision) + body)

        self._backend.read(call, serve, serializable=request.serializable)

    def range_stream(self, call: Call, data: bytes) -> None:
        """Read a range in pieces of one revision; key order only."""
        request = self._checked(RangeRequest, call, data, check_range_request)
        if request is None:
            return
        if request.sort_order or request.sort_target:
            call.finish(Code.UNIMPLEMENTED, NO_CUSTOM_SORT)
        elif (
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        ):
            call.finish(Code.UNIMPLEMENTED, NO_FILTERS)
        else:
            self._backend.scan(call, request, serializable=request.serializable, stream=True)

    def delete_range(self, call: Call, data: bytes) -> None:
        """Delete a key or a range."""
        request = self._checked(DeleteRangeRequest, call, data, check_delete_request)
        if request is not None:
            self._write(call, Op.DELETE_RANGE, data)

    def txn(self, call: Call, data: bytes) -> None:
        """Compare, then do one of two branches, at one revision."""

        def check(request: TxnRequest) -> None:
            check_txn_request(request, self._max_txn_ops)

        request = self._checked(TxnRequest, call, data, check)
        if request is None:
            return
        if not is_read_only(request):
            self._write(call, Op.TXN, data)
            return

        serializable = is_serializable(request)
        if not is_small_txn(request):
            self._backend.scan_txn(call, request, serializable=serializable)
            return

        def serve(view: Any, call: Call) -> None:
            body = view.txn(request)
            if len(body) > ROOMLESS_BYTES and not call.take_room(len(body)):
                self._backend.scan_txn(call, request, serializable=True)
                return
            call.reply(self._backend.header(view.revision) + body)

        self._backend.read(call, serve, serializable=serializable)

    def compact(self, call: Call, data: bytes) -> None:
        """Forget history below a revision; with `physical`, answer when it is gone from disk."""
        request = self._checked(CompactionRequest, call, data, check_compact_request)
        if request is None:
            return
        answer = _PhysicalCompaction(self._backend, call, request) if request.physical else call
        self._backend.propose(Op.COMPACT, data, answer)

    def _write(self, call: Call, op: int, data: bytes) -> None:
        if len(data) > self._max_request_bytes:
            call.fail(REQUEST_TOO_LARGE)
        else:
            self._backend.propose(op, data, call)

    def _checked(
        self, message_type: type[M], call: Call, data: bytes, check: Callable[[M], None]
    ) -> M | None:
        request = parsed(message_type, call, data)
        if request is None:
            return None
        try:
            check(request)
        except EtcdError as error:
            call.fail(error.status)
            return None
        return request


class _PhysicalCompaction:
    """Answers a Compact when the pruning has reached its revision."""

    def __init__(self, backend: Backend, call: Call, request: CompactionRequest) -> None:
        self._backend = backend
        self._call = call
        self._revision = request.revision

    @property
    def closed(self) -> bool:
        return self._call.closed

    def fail(self, status: Any) -> None:
        """Refuse the call."""
        self._call.fail(status)

    def answered(self, revision: int, body: bytes) -> None:
        """The compaction is logged; wait for the disk."""

        def done() -> None:
            self._call.reply(self._backend.header(revision) + body)

        self._backend.when_pruned(self._revision, self._call, done)
