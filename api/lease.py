"""etcdserverpb.Lease: grants and revocations go into the log, clocks are the lessor's to tell.

Rules (etcd's v3rpc/lease.go and v3_server.go):
1. A grant's id and its least TTL are settled here, before it is logged, so that every member comes
   to the same.
2. Keep-alives of a stream are answered in their order; an unknown lease has TTL 0. The header is
   made before the lessor is asked: its revision is never later than the renewal.
3. TimeToLive of an unknown lease is -1, no error. Keys and granted TTL are read from the database,
   what is left is asked of the leader's lessor. Keys are read last: they may be many.
4. What may be long is read when the client has room for it: one that does not read has little
   kept ready for it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final

from google.protobuf.message import DecodeError

from api.backend import Backend
from api.grpc import Call, Method
from api.grpc_call import PREFIX
from api.kv import parsed
from api.validate import check_lease_grant_request
from etcdpb.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from kv.batch import Op
from kv.errors import REQUEST_TOO_MANY_REQUESTS, Code, EtcdError, Status

ASKED_MAX: Final = 4096
"""Keep-alives of one stream that are asked for at once."""
QUEUED_MAX: Final = 65_536
"""Keep-alives of one stream that wait; a stream that has more is ended."""

RENEW, REMAINING = 1, 2  # actors.messages.LeaseKind


def min_ttl_seconds(heartbeat_interval_ms: int, election_timeout_ms: int) -> int:
    """Return the least TTL in seconds: one and a half election timeouts, rounded up."""
    ticks = election_timeout_ms // heartbeat_interval_ms
    return -(-(3 * ticks // 2 * heartbeat_interval_ms) // 1000)


class LeaseService:
    """The methods of etcdserverpb.Lease."""

    def __init__(self, backend: Backend, *, min_ttl: int) -> None:
        """`min_ttl` in seconds: grants get no less."""
        self._backend = backend
        self._min_ttl = min_ttl
        self._chance = random.SystemRandom()

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        prefix = b"/etcdserverpb.Lease/"
        return {
            prefix + b"LeaseGrant": Method.unary(self.grant),
            prefix + b"LeaseRevoke": Method.unary(self.revoke),
            prefix + b"LeaseKeepAlive": Method.stream(self.keep_alive),
            prefix + b"LeaseTimeToLive": Method.unary(self.time_to_live),
            prefix + b"LeaseLeases": Method.unary(self.leases),
        }

    def grant(self, call: Call, data: bytes) -> None:
        """Grant a lease, under an id of ours if none is given."""
        request = parsed(LeaseGrantRequest, call, data)
        if request is None:
            return
        try:
            check_lease_grant_request(request)
        except EtcdError as error:
            call.fail(error.status)
            return
        while not request.ID:
            request.ID = self._chance.getrandbits(63)
        request.TTL = max(request.TTL, self._min_ttl)
        self._backend.propose(Op.LEASE_GRANT, request.SerializeToString(), call)

    def revoke(self, call: Call, data: bytes) -> None:
        """Revoke a lease, deleting its keys."""
        if parsed(LeaseRevokeRequest, call, data) is not None:
            self._backend.propose(Op.LEASE_REVOKE, data, call)

    def keep_alive(self, call: Call) -> KeepAlives:
        """Open a stream of keep-alives."""
        return KeepAlives(self._backend, call)

    def time_to_live(self, call: Call, data: bytes) -> None:
        """Tell what is left of a lease, and its keys."""
        request = parsed(LeaseTimeToLiveRequest, call, data)
        if request is None:
            return

        def serve(view: Any, call: Call) -> None:
            lease = view.lease(request.ID)
            response = LeaseTimeToLiveResponse(ID=request.ID, TTL=-1)
            answer = _TimeToLive(self._backend, call, view.revision, response, keys=request.keys)
            if lease is None:
                answer.told(None, -1)
                return
            response.grantedTTL = lease.ttl
            self._backend.ask_lessor(REMAINING, request.ID, answer)

        self._backend.read(call, serve, serializable=False)

    def leases(self, call: Call, data: bytes) -> None:
        """List this member's leases: a leader's by what they have left, else as they were granted.

        As in etcd no quorum is asked.
        """
        if parsed(LeaseLeasesRequest, call, data) is None:
            return

        def serve(view: Any, call: Call) -> None:
            if _waits_for_room(self._backend, call, serve):
                return
            response = LeaseLeasesResponse()
            expiries = self._backend.lease_expiries()
            for lease_id in sorted(view.lease_ids(), key=lambda each: expiries.get(each, inf)):
                response.leases.add(ID=lease_id)
            _reply(call, self._backend.header(view.revision) + response.SerializeToString())

        self._backend.read(call, serve, serializable=True)


def _waits_for_room(backend: Backend, call: Call, serve: Callable[[Any, Call], None]) -> bool:
    """Whether a read has to wait for its client; when that has read, it is served anew.

    Then from any view: no later one is staler than the one it waited with.
    """
    if call.take_room(0):
        return False

    def again() -> None:
        call.on_drain = None
        backend.read(call, serve, serializable=True)

    call.on_drain = again
    return True


def _reply(call: Call, answer: bytes) -> None:
    call.take_room(len(answer))
    call.reply(answer)


class _TimeToLive:
    """Answers a TimeToLive with what the lessor tells."""

    def __init__(
        self,
        backend: Backend,
        call: Call,
        revision: int,
        response: LeaseTimeToLiveResponse,
        *,
        keys: bool,
    ) -> None:
        self._keys = keys
        self._backend = backend
        self._call = call
        self._revision = revision
        self._response = response

    @property
    def closed(self) -> bool:
        return self._call.closed

    def told(self, token: Any, seconds: int) -> None:
        """See LeaseAnswer; a lease that has gone meanwhile never was."""
        if seconds < 0:
            self._answer_gone(self._revision)
            return
        self._response.TTL = seconds
        if self._keys:
            self._backend.read(self._call, self._serve_keys, serializable=True)
        else:
            self._answer(self._revision, self._response)

    def _serve_keys(self, view: Any, call: Call) -> None:
        response = self._response
        if view.lease(response.ID) is None:
            self._answer_gone(view.revision)
        elif not _waits_for_room(self._backend, call, self._serve_keys):
            response.keys.extend(view.lease_keys(response.ID))
            self._answer(view.revision, response)

    def _answer_gone(self, revision: int) -> None:
        self._answer(revision, LeaseTimeToLiveResponse(ID=self._response.ID, TTL=-1))

    def _answer(self, revision: int, response: LeaseTimeToLiveResponse) -> None:
        _reply(self._call, self._backend.header(revision) + response.SerializeToString())

    def refused(self, token: Any, status: Status) -> None:
        """See LeaseAnswer."""
        self._call.fail(status)

    def settle(self) -> None:
        """See LeaseAnswer."""


class _Renewal:
    """One keep-alive on its way: `seconds` is None until it is answered."""

    __slots__ = ("header", "lease", "seconds")

    def __init__(self, header: bytes, lease: int) -> None:
        self.header = header
        self.lease = lease
        self.seconds: int | None = None


class KeepAlives:
    """One stream. Answers leave in the order of the requests, all that are ready as one piece."""

    def __init__(self, backend: Backend, call: Call) -> None:
        self._backend = backend
        self._call = call
        self._asked: deque[_Renewal] = deque()
        self._queued: deque[int] = deque()
        self._half_closed = False

    @property
    def closed(self) -> bool:
        """Whether nobody waits for answers any more."""
        return self._call.closed

    def on_message(self, message: bytes) -> None:
        """Take one keep-alive."""
        try:
            lease = LeaseKeepAliveRequest.FromString(message).ID
        except DecodeError:
            text = "grpc: error unmarshalling request: proto: cannot parse"
            self._call.finish(Code.INTERNAL, text)
            return
        if len(self._asked) < ASKED_MAX and not self._queued:
            self._ask(lease)
        elif len(self._queued) < QUEUED_MAX:
            self._queued.append(lease)
        else:
            self._call.fail(REQUEST_TOO_MANY_REQUESTS)

    def _ask(self, lease: int) -> None:
        backend = self._backend
        renewal = _Renewal(backend.header(backend.status().revision), lease)
        self._asked.append(renewal)
        backend.ask_lessor(RENEW, lease, self, renewal)

    def told(self, token: _Renewal, seconds: int) -> None:
        """See LeaseAnswer: an unknown lease has TTL 0."""
        token.seconds = max(0, seconds)

    def refused(self, token: _Renewal, status: Status) -> None:
        """See LeaseAnswer: one that fails ends the stream."""
        self._send_ready()
        self._call.fail(status)

    def settle(self) -> None:
        """Send what is ready, ask what has waited."""
        if self._call.closed:
            return
        self._send_ready()
        if not self._call.writable:
            return
        while self._queued and len(self._asked) < ASKED_MAX:
            self._ask(self._queued.popleft())
        self._end_if_done()

    def _send_ready(self) -> None:
        asked = self._asked
        pieces: list[bytes] = []
        while asked and asked[0].seconds is not None:
            renewal = asked.popleft()
            body = LeaseKeepAliveResponse(ID=renewal.lease, TTL=renewal.seconds)
            message = renewal.header + body.SerializeToString()
            pieces += (PREFIX.pack(0, len(message)), message)
        if pieces:
            self._call.send_framed(b"".join(pieces), len(pieces) // 2)

    def _end_if_done(self) -> None:
        if self._half_closed and not self._asked and not self._queued:
            self._call.finish()

    def on_half_close(self) -> None:
        """The client sends no more: the stream ends with the last answer."""
        self._half_closed = True
        self._end_if_done()

    def on_cancel(self) -> None:
        """The call has ended; what is on its way is passed over."""
        self._asked.clear()
        self._queued.clear()

    def on_drain(self) -> None:
        """The client reads again."""
        self.settle()
