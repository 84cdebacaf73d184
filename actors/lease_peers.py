"""What lessors of different members say to each other: questions of clients, and their answers.

A payload is msgpack, an array that begins with its kind; fields of a newer version stand at its end
and are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgpack

from raft.message import message

_ASKED: Final = 1
_TOLD: Final = 2
_LIMIT: Final = 1 << 63


class LeasePeerError(ValueError):
    """A payload is not what a lessor says."""


@message
class Asked:
    """A gateway of the sending member asks; columns as in actors.messages.LeaseAsk."""

    gateway: str
    ids: list[int]
    leases: list[int]
    kinds: bytes


@message
class Told:
    """The answers for a gateway of the receiving member, as in actors.messages.LeaseTold."""

    gateway: str
    ids: list[int]
    seconds: list[int]


def encode_asked(gateway: str, ids: Sequence[int], leases: Sequence[int], kinds: bytes) -> bytes:
    """Return the payload of a question."""
    data: bytes = msgpack.packb((_ASKED, gateway, ids, leases, kinds))
    return data


def encode_told(gateway: str, ids: Sequence[int], seconds: Sequence[int]) -> bytes:
    """Return the payload of an answer."""
    data: bytes = msgpack.packb((_TOLD, gateway, ids, seconds))
    return data


def decode_lease_peer(payload: bytes) -> Asked | Told:
    """Return what a payload holds. Raises LeasePeerError."""
    try:
        kind, gateway, ids, column, *more = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise LeasePeerError(f"not a lessor's payload: {error}") from error
    if not (isinstance(gateway, str) and _integers(ids) and _integers(column)):
        raise LeasePeerError("a column is not one of integers")
    if len(ids) != len(column):
        raise LeasePeerError(f"{len(ids)} ids for {len(column)} values")
    if kind == _TOLD:
        return Told(gateway, ids, column)
    if kind != _ASKED or not more or not isinstance(more[0], bytes) or len(more[0]) != len(ids):
        raise LeasePeerError(f"kind {kind!r} is unknown or incomplete")
    return Asked(gateway, ids, column, more[0])


def _integers(column: object) -> bool:
    return isinstance(column, list) and all(
        type(value) is int and -_LIMIT <= value < _LIMIT for value in column
    )
