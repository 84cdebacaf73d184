"""Which operations of clients a batch holds, as 16 bits: cheap to note, and without their content.

A bit is an operation as operators know it; several ops of the log may share one.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from kv.batch import Op


class Operation(IntFlag):
    """A set of operations. At most 16: the flight recorder has so many bits for them."""

    PUT = 1 << 0
    DELETE_RANGE = 1 << 1
    TXN = 1 << 2
    COMPACT = 1 << 3
    RANGE = 1 << 4
    LEASE_GRANT = 1 << 5
    LEASE_REVOKE = 1 << 6
    LEASE_TIME_TO_LIVE = 1 << 7
    LEASE_EXPIRY = 1 << 8
    """A lessor's own: revocations and checkpoints."""
    ALARM = 1 << 9
    MEMBERSHIP = 1 << 10
    """What a member publishes of itself, and the cluster's version."""
    SESSION = 1 << 11
    """A gateway opens its session."""
    AHEAD = 1 << 14
    """None of a client's: results that were sent before their COMMIT."""
    OTHER = 1 << 15


_OF_OP: Final = {
    Op.OPEN_SESSION: Operation.SESSION,
    Op.PUT: Operation.PUT,
    Op.DELETE_RANGE: Operation.DELETE_RANGE,
    Op.TXN: Operation.TXN,
    Op.COMPACT: Operation.COMPACT,
    Op.MEMBER_ATTRIBUTES: Operation.MEMBERSHIP,
    Op.CLUSTER_VERSION: Operation.MEMBERSHIP,
    Op.ALARM: Operation.ALARM,
    Op.LEASE_GRANT: Operation.LEASE_GRANT,
    Op.LEASE_REVOKE: Operation.LEASE_REVOKE,
    Op.LEASE_EXPIRE: Operation.LEASE_EXPIRY,
    Op.LEASE_CHECKPOINT: Operation.LEASE_EXPIRY,
}
_BITS: Final = [int(Operation.OTHER)] * 256
for _op, _operation in _OF_OP.items():
    _BITS[_op] = int(_operation)
NAMES_MAX: Final = 3


def operations_of(ops: bytes) -> int:
    """Return the operations of a batch. It looks once at each kind of op, not at each request."""
    found = 0
    while ops:
        found |= _BITS[ops[0]]
        ops = ops.translate(None, ops[:1])
    return found


def operation_names(operations: int) -> list[str]:
    """Return the names of operations: `Put`, `DeleteRange`; at most NAMES_MAX, then `others`."""
    names = [
        "".join(word.capitalize() for word in str(each.name).split("_"))
        for each in Operation
        if operations & each
    ]
    return names if len(names) <= NAMES_MAX else [*names[:NAMES_MAX], "others"]
