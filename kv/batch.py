"""A raft entry's data: one batch of requests as one gateway sent it.

The cost of consensus is paid per batch, so a batch is columns: a byte per request that says what
it is, and the client's own bytes. Request number i has the id `first_id + i`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import msgpack

from raft.message import message

FIXARRAY: Final = 0x90
"""The high bits of the byte that begins a msgpack array of up to 15 fields."""
HEAD_BYTES: Final = 1 + 3 * 9
"""That byte and three integers, of 9 bytes at most each."""


class Op(IntEnum):
    """What a request is. Append-only: numbers are in the logs of living clusters."""

    OPEN_SESSION = 1
    """msgpack (member id, slot): open the batch's session."""
    PUT = 2
    """PutRequest."""
    DELETE_RANGE = 3
    """DeleteRangeRequest."""
    TXN = 4
    """TxnRequest."""
    COMPACT = 5
    """CompactionRequest."""
    MEMBER_ATTRIBUTES = 6
    """msgpack (member id, name, client URLs): what a member publishes of itself."""
    CLUSTER_VERSION = 7
    """UTF-8 text such as 3.7.0."""
    ALARM = 8
    """AlarmRequest."""
    LEASE_GRANT = 9
    """LeaseGrantRequest, with its id and a TTL that is not below the least one."""
    LEASE_REVOKE = 10
    """LeaseRevokeRequest of a client."""
    LEASE_EXPIRE = 11
    """A lessor's revocation of one lease: kv.lease_ops.encode_expiry. Fenced."""
    LEASE_CHECKPOINT = 12
    """A lessor's checkpoints: kv.lease_ops.encode_checkpoints. Fenced."""


class BatchDecodeError(ValueError):
    """The data of an entry is not a batch."""


@message
class Batch:
    """A decoded batch.

    Invariant: one byte of `ops` for each request. `session` 0 is a proposer whose requests are
    idempotent by content; it is never deduplicated. Every request of the session with an id below
    `mark` has been answered. A batch without requests only moves the mark.
    """

    session: int
    mark: int
    first_id: int
    ops: bytes
    requests: list[bytes]


def encode_batch(
    session: int, mark: int, first_id: int, ops: bytes, requests: Sequence[bytes]
) -> bytes:
    """Return the data of an entry. See Batch for the fields."""
    assert len(ops) == len(requests), f"{len(ops)} ops for {len(requests)} requests"
    data: bytes = msgpack.packb((session, mark, first_id, ops, requests))
    return data


def batch_name(data: bytes) -> bytes | None:
    """Return what tells a batch of a session from all others, copies of it apart; None without one.

    Its first bytes, undecoded: they hold the session, the mark and the first id entirely, and a
    session gives each number to one batch for ever. Openings and marks, which have no number, are
    copies of each other if they are equal there. Batches of session 0 have no name.
    """
    if len(data) < 2 or data[0] & 0xF0 != FIXARRAY or not data[1]:
        return None
    return data[:HEAD_BYTES]


def decode_batch(data: bytes) -> Batch:
    """Return the batch that an entry carries; fields of a newer version are passed over.

    Raises BatchDecodeError.
    """
    try:
        session, mark, first_id, ops, requests = msgpack.unpackb(data)[:5]
        if len(ops) != len(requests):
            raise BatchDecodeError(f"{len(ops)} ops for {len(requests)} requests")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise BatchDecodeError(f"not a batch: {error}") from error
    return Batch(session, mark, first_id, ops, requests)
