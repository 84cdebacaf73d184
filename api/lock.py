"""v3lockpb.Lock: a mutex whose holders queue by the revision their keys were created at.

A key under the lock's name, attached to a lease, is a place in the queue; whoever's key is the
oldest holds the lock. After waiting the own key is looked at again: its lease may have ended.
"""

from __future__ import annotations

import random
from typing import Final

from api.backend import Backend
from api.grpc import Call, Method
from api.kv import parsed
from api.recipes import (
    CallEndedError,
    Cook,
    Recipe,
    RecipeError,
    Write,
    first_created,
    if_created,
    own_key,
    session,
    wait_for_turn,
)
from api.watch import Hub
from etcdpb.lock_pb2 import LockRequest, LockResponse, UnlockRequest, UnlockResponse
from etcdpb.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp
from kv.batch import Op
from kv.errors import EMPTY_KEY, EtcdError

SESSION_EXPIRED: Final = "mutex: session is expired"


class LockService:
    """The methods of v3lockpb.Lock."""

    def __init__(self, backend: Backend, hub: Hub) -> None:
        self._backend = backend
        self._hub = hub
        self._chance = random.SystemRandom()

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        prefix = b"/v3lockpb.Lock/"
        return {
            prefix + b"Lock": Method.unary(self.lock),
            prefix + b"Unlock": Method.unary(self.unlock),
        }

    def lock(self, call: Call, data: bytes) -> None:
        """Answer when the lock is held, with the key that holds it."""
        request = parsed(LockRequest, call, data)
        if request is not None:
            Cook(self._backend, self._hub, call, self._locking(call, request))

    def unlock(self, call: Call, data: bytes) -> None:
        """Delete a key that holds, or waits for, a lock."""
        request = parsed(UnlockRequest, call, data)
        if request is not None:
            Cook(self._backend, self._hub, call, self._unlocking(call, request))

    def _new_id(self) -> int:
        return self._chance.getrandbits(62) + 1

    def _locking(self, call: Call, request: LockRequest) -> Recipe:
        lease = yield from session(request.lease, self._new_id)
        prefix = request.name + b"/"
        key = prefix + format(lease, "x").encode()
        owner = RequestOp(request_range=first_created(prefix))
        revision, response = yield from if_created(
            key,
            0,
            [RequestOp(request_put=PutRequest(key=key, lease=lease)), owner],
            [RequestOp(request_range=RangeRequest(key=key)), owner],
        )
        place = revision
        if not response.succeeded:
            place = response.responses[0].response_range.kvs[0].create_revision
        first = response.responses[1].response_range.kvs
        if first and first[0].create_revision != place:
            try:
                yield from wait_for_turn(prefix, place)
                revision, pair = yield from own_key(key)
            except (CallEndedError, EtcdError):
                yield Write(Op.DELETE_RANGE, DeleteRangeRequest(key=key).SerializeToString())
                raise
            if pair is None:
                raise RecipeError(SESSION_EXPIRED)
        elif call.closed and response.succeeded:  # nobody would ever unlock it
            yield Write(Op.DELETE_RANGE, DeleteRangeRequest(key=key).SerializeToString())
            return
        answer = LockResponse(key=key).SerializeToString()
        call.reply(self._backend.header(revision) + answer)

    def _unlocking(self, call: Call, request: UnlockRequest) -> Recipe:
        if not request.key:
            raise EtcdError(EMPTY_KEY)
        delete = DeleteRangeRequest(key=request.key)
        revision, _ = yield Write(Op.DELETE_RANGE, delete.SerializeToString())
        call.reply(self._backend.header(revision) + UnlockResponse().SerializeToString())
