"""Leases in the state machine: granted, revoked, checkpointed by entries of the log.

Rules:
1. A lease is a row: id, TTL, remaining TTL of the last checkpoint, and the index of the entry that
   granted it. Its keys are those whose newest row names it; nothing else has to be kept in step.
2. What a lessor proposes by itself (expiries, checkpoints) names the term it leads and the granting
   entry of the lease. It is dropped unless both are the entry's and the lease's own: neither a
   deposed leader nor a late copy touches a lease granted again under the same id (RULES A6).
3. A revocation deletes the lease's keys in one revision, in their order (etcd's lessor).

What an entry did to leases is noted in `facts`, for the lessor; they leave with the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, TypeAlias

import msgpack

from etcdpb.rpc_pb2 import LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest
from kv.apply import check_changes
from kv.batch import Op
from kv.errors import LEASE_EXIST, LEASE_NOT_FOUND, LEASE_TTL_TOO_LARGE, EtcdError
from kv.store import Lease, Progress, Result, Store
from kv.writer import HistoryWriter

TTL_MAX: Final = 9_000_000_000
"""Seconds; etcd's MaxLeaseTTL."""

LEASE_OPS: Final = frozenset(
    (Op.LEASE_GRANT, Op.LEASE_REVOKE, Op.LEASE_EXPIRE, Op.LEASE_CHECKPOINT)
)


class LeaseEvent(IntEnum):
    """What became of a lease. Append-only: it travels between actors."""

    GRANTED = 1
    """`seconds` is its TTL."""
    REVOKED = 2
    """By a client or by its expiry; `seconds` is 0."""
    CHECKPOINTED = 3
    """`seconds` is its remaining TTL; 0: none is stored."""


LeaseFact: TypeAlias = tuple[int, int, int, int]
"""LeaseEvent, lease id, seconds, index of the entry that granted it."""


def encode_expiry(term: int, lease_id: int, granted_index: int) -> bytes:
    """Return the request of LEASE_EXPIRE; `term` is the proposing leader's."""
    data: bytes = msgpack.packb((term, lease_id, granted_index))
    return data


def encode_checkpoints(term: int, checkpoints: Sequence[tuple[int, int, int]]) -> bytes:
    """Return the request of LEASE_CHECKPOINT: (lease id, granted index, remaining seconds)."""
    data: bytes = msgpack.packb((term, checkpoints))
    return data


class Leases:
    """The leases of a store, as the state machine changes them."""

    __slots__ = ("_store", "_writer", "facts")

    def __init__(self, store: Store, writer: HistoryWriter) -> None:
        self._store = store
        self._writer = writer
        self.facts: list[LeaseFact] = []

    def take_facts(self) -> list[LeaseFact]:
        """Return what happened since the last call, in order."""
        facts, self.facts = self.facts, []
        return facts

    def execute(self, op: int, data: bytes, progress: Progress) -> Result:
        """Carry out a request of one of LEASE_OPS. Raises EtcdError; nothing has changed then."""
        if op == Op.LEASE_GRANT:
            return self._grant(LeaseGrantRequest.FromString(data), progress)
        if op == Op.LEASE_REVOKE:
            lease = self._store.lease(LeaseRevokeRequest.FromString(data).ID)
            if lease is None:
                raise EtcdError(LEASE_NOT_FOUND)
            return self._revoke(lease, progress)
        if op == Op.LEASE_EXPIRE:
            term, lease_id, granted_index = msgpack.unpackb(data)[:3]
            lease = self._fenced(term, lease_id, granted_index, progress)
            return progress.revision if lease is None else self._revoke(lease, progress)
        term, checkpoints = msgpack.unpackb(data)[:2]
        for lease_id, granted_index, seconds in checkpoints:
            lease = self._fenced(term, lease_id, granted_index, progress)
            if lease is not None:
                self._checkpoint(lease, seconds)
        return progress.revision

    def _fenced(
        self, term: int, lease_id: int, granted_index: int, progress: Progress
    ) -> Lease | None:
        """Return the lease that a lessor means, if it is still that one and the term its own."""
        if term != progress.applied_term:
            return None
        lease = self._store.lease(lease_id)
        return lease if lease is not None and lease.granted_index == granted_index else None

    def _grant(self, request: LeaseGrantRequest, progress: Progress) -> Result:
        """The id is chosen and the least TTL applied before the request is logged."""
        if not request.ID:
            raise EtcdError(LEASE_NOT_FOUND)
        if request.TTL > TTL_MAX:
            raise EtcdError(LEASE_TTL_TOO_LARGE)
        if self._store.lease(request.ID) is not None:
            raise EtcdError(LEASE_EXIST)
        lease = Lease(request.ID, request.TTL, 0, progress.applied_index)
        self._store.save_lease(lease)
        self.facts.append((LeaseEvent.GRANTED, lease.id, lease.ttl, lease.granted_index))
        body = LeaseGrantResponse(ID=lease.id, TTL=lease.ttl).SerializeToString()
        return progress.revision, body

    def _revoke(self, lease: Lease, progress: Progress) -> Result:
        writer = self._writer
        writer.sync()
        keys = self._store.lease_keys(lease.id)
        check_changes(len(keys))
        writer.start(progress.revision)
        for key in keys:
            writer.delete(key)
        progress.revision = writer.revision
        self._store.delete_lease(lease.id)
        self.facts.append((LeaseEvent.REVOKED, lease.id, 0, lease.granted_index))
        return progress.revision

    def _checkpoint(self, lease: Lease, seconds: int) -> None:
        kept = Lease(lease.id, lease.ttl, seconds, lease.granted_index)
        self._store.save_lease(kept)
        self.facts.append((LeaseEvent.CHECKPOINTED, lease.id, seconds, lease.granted_index))
