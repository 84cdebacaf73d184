"""v3electionpb.Election: campaign for a name, proclaim as its leader, observe who leads.

Candidates queue as for a lock (lock.py), and each key's value is what its owner proclaims. After
waiting a candidate looks at its key again: a lost lease is no leadership.
"""

from __future__ import annotations

import random
from typing import Final

from api.backend import Backend
from api.grpc import Call, Method
from api.kv import parsed
from api.recipes import (
    ROOM,
    CallEndedError,
    Cook,
    Recipe,
    RecipeError,
    Wait,
    first_created,
    if_created,
    is_delete,
    own_key,
    prefix_end,
    session,
    wait_for_turn,
)
from api.watch import Hub
from etcdpb.election_pb2 import (
    CampaignRequest,
    CampaignResponse,
    LeaderKey,
    LeaderRequest,
    LeaderResponse,
    ProclaimRequest,
    ProclaimResponse,
    ResignRequest,
    ResignResponse,
)
from etcdpb.kv_pb2 import Event, KeyValue
from etcdpb.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp
from kv.errors import Code, EtcdError

MISSING_LEADER_KEY: Final = '"leader" field must be provided'
NOT_LEADER: Final = "election: not leader"
NO_LEADER: Final = "election: no leader"


class ElectionService:
    """The methods of v3electionpb.Election."""

    def __init__(self, backend: Backend, hub: Hub) -> None:
        self._backend = backend
        self._hub = hub
        self._chance = random.SystemRandom()

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        prefix = b"/v3electionpb.Election/"
        return {
            prefix + b"Campaign": Method.unary(self.campaign),
            prefix + b"Proclaim": Method.unary(self.proclaim),
            prefix + b"Leader": Method.unary(self.leader),
            prefix + b"Observe": Method.server_stream(self.observe),
            prefix + b"Resign": Method.unary(self.resign),
        }

    def campaign(self, call: Call, data: bytes) -> None:
        """Answer when the caller leads, with the key that proves it."""
        request = parsed(CampaignRequest, call, data)
        if request is not None:
            self._cook(call, self._campaigning(call, request))

    def proclaim(self, call: Call, data: bytes) -> None:
        """Set a new value as leader."""
        request = parsed(ProclaimRequest, call, data)
        if request is None:
            return
        if request.HasField("leader"):
            self._cook(call, self._proclaiming(call, request))
        else:
            call.finish(Code.UNKNOWN, MISSING_LEADER_KEY)

    def leader(self, call: Call, data: bytes) -> None:
        """Tell who leads."""
        request = parsed(LeaderRequest, call, data)
        if request is not None:
            self._cook(call, self._telling(call, request))

    def observe(self, call: Call, data: bytes) -> None:
        """Tell who leads and what it proclaims, now and whenever that changes."""
        request = parsed(LeaderRequest, call, data)
        if request is not None:
            self._cook(call, self._observing(call, request.name + b"/"))

    def resign(self, call: Call, data: bytes) -> None:
        """Give a leadership up; one that is lost already is no error."""
        request = parsed(ResignRequest, call, data)
        if request is None:
            return
        if request.HasField("leader"):
            self._cook(call, self._resigning(call, request.leader))
        else:
            call.finish(Code.UNKNOWN, MISSING_LEADER_KEY)

    def _cook(self, call: Call, recipe: Recipe) -> None:
        Cook(self._backend, self._hub, call, recipe)

    def _new_id(self) -> int:
        return self._chance.getrandbits(62) + 1

    # --- recipes --------------------------------------------------------------------------------

    def _campaigning(self, call: Call, request: CampaignRequest) -> Recipe:
        lease = yield from session(request.lease, self._new_id)
        prefix = request.name + b"/"
        key = prefix + format(lease, "x").encode()
        revision, response = yield from if_created(
            key,
            0,
            [_put(key, request.value, lease)],
            [RequestOp(request_range=RangeRequest(key=key))],
        )
        place = revision
        try:
            if not response.succeeded:
                before = response.responses[0].response_range.kvs[0]
                place = before.create_revision
                if before.value != request.value:
                    put = [_put(key, request.value, lease)]
                    _, proclaimed = yield from if_created(key, place, put, [])
                    if not proclaimed.succeeded:
                        raise RecipeError(NOT_LEADER)
            yield from wait_for_turn(prefix, place)
            _, pair = yield from own_key(key)
        except (CallEndedError, EtcdError):
            yield from if_created(key, place, [_delete(key)], [])
            raise
        if pair is None or pair.create_revision != place:
            raise RecipeError(NOT_LEADER)
        leader = LeaderKey(name=request.name, key=key, rev=place, lease=lease)
        answer = CampaignResponse(leader=leader).SerializeToString()
        call.reply(self._backend.header(revision) + answer)

    def _proclaiming(self, call: Call, request: ProclaimRequest) -> Recipe:
        leader = request.leader
        put = [_put(leader.key, request.value, leader.lease)]
        revision, response = yield from if_created(leader.key, leader.rev, put, [])
        if not response.succeeded:
            raise RecipeError(NOT_LEADER)
        call.reply(self._backend.header(revision) + ProclaimResponse().SerializeToString())

    def _resigning(self, call: Call, leader: LeaderKey) -> Recipe:
        revision, _ = yield from if_created(leader.key, leader.rev, [_delete(leader.key)], [])
        call.reply(self._backend.header(revision) + ResignResponse().SerializeToString())

    def _telling(self, call: Call, request: LeaderRequest) -> Recipe:
        response = yield first_created(request.name + b"/")
        if not response.kvs:
            raise RecipeError(NO_LEADER)
        call.reply(self._told(response.header.revision, response.kvs[0]))

    def _observing(self, call: Call, prefix: bytes) -> Recipe:
        while True:
            response = yield first_created(prefix)
            revision = response.header.revision
            if response.kvs:
                pair = response.kvs[0]
            else:
                event = yield Wait(prefix, prefix_end(prefix), revision, _is_put)
                if event is None:
                    continue
                pair = event.kv
                revision = pair.mod_revision
            while pair is not None:
                yield ROOM
                call.send(self._told(revision, pair))
                event = yield Wait(pair.key, b"", revision + 1, lambda _: True)
                pair = None if event is None or is_delete(event) else event.kv
                revision = 0 if pair is None else pair.mod_revision

    def _told(self, revision: int, pair: KeyValue) -> bytes:
        return self._backend.header(revision) + LeaderResponse(kv=pair).SerializeToString()


def _put(key: bytes, value: bytes, lease: int) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=value, lease=lease))


def _delete(key: bytes) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key))


def _is_put(event: Event) -> bool:
    return event.type == Event.PUT
