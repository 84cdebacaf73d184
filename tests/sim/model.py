"""etcd's key-value API as a sequential model: what requests answer when nothing is concurrent.

Written from the description of the API, apart from kv/: it is the measure that kv/ and real
clusters are held against. Small and slow on purpose.

A state is (revision, {key: KV}). A request that changes keys gives the store its next revision,
whatever it changes; every change of a request has that revision (etcd's main revision).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias


class KV(NamedTuple):
    """A key as a client sees it; the fields of mvccpb.KeyValue, leases apart."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


@dataclass(frozen=True, slots=True)
class Put:
    """PutRequest. `prev` is prev_kv."""

    key: bytes
    value: bytes
    prev: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """RangeRequest of the newest state, in key order; `end` empty: one key, b"\\0": no end."""

    key: bytes
    end: bytes = b""


@dataclass(frozen=True, slots=True)
class Delete:
    """DeleteRangeRequest. `prev` is prev_kv."""

    key: bytes
    end: bytes = b""
    prev: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """`target` of a key, a missing key having zeros (and no value), stands in `op` to `operand`."""

    target: Literal["version", "create", "mod", "value"]
    key: bytes
    op: Literal["=", "!=", "<", ">"]
    operand: int | bytes


Op: TypeAlias = Put | Range | Delete


@dataclass(frozen=True, slots=True)
class Txn:
    """TxnRequest without nested ones; etcd refuses to put a key twice in one."""

    compares: tuple[Compare, ...]
    success: tuple[Op, ...] = ()
    failure: tuple[Op, ...] = ()


Request: TypeAlias = Op | Txn


@dataclass(frozen=True, slots=True)
class Putted:
    """PutResponse."""

    prev: KV | None = None


@dataclass(frozen=True, slots=True)
class Ranged:
    """RangeResponse: all keys found, in order."""

    kvs: tuple[KV, ...] = ()


@dataclass(frozen=True, slots=True)
class Deleted:
    """DeleteRangeResponse; `prevs` only if asked for."""

    count: int
    prevs: tuple[KV, ...] = ()


@dataclass(frozen=True, slots=True)
class Txned:
    """TxnResponse: whether all compares held, and the answers of the branch taken."""

    succeeded: bool
    answers: tuple[Putted | Ranged | Deleted, ...] = ()


Body: TypeAlias = Putted | Ranged | Deleted | Txned


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got; `revision` is the header's, 0 if it is not known."""

    revision: int
    body: Body


Keys: TypeAlias = Mapping[bytes, KV]
Changes: TypeAlias = dict[bytes, KV | None]


def apply(revision: int, keys: Keys, request: Request) -> tuple[Answer, Changes]:
    """Return the answer to a request in a state, and the keys it changes (None: deleted).

    The state is not touched; the revision after it is the answer's.
    """
    changes: Changes = {}
    body: Body
    if isinstance(request, Txn):
        succeeded = all(holds(keys, compare) for compare in request.compares)
        branch = request.success if succeeded else request.failure
        body = Txned(succeeded, tuple(_one(revision + 1, keys, changes, op) for op in branch))
    else:
        body = _one(revision + 1, keys, changes, request)
    # A key that was made and deleted by one txn changed all the same: its None stands here.
    return Answer(revision + bool(changes), body), changes


def holds(keys: Keys, compare: Compare) -> bool:
    """Tell whether a compare holds."""
    kv = keys.get(compare.key)
    if compare.target == "value":
        if kv is None:  # etcd compares no value of a key that is not there
            return False
        found: int | bytes = kv.value
    elif kv is None:
        found = 0
    elif compare.target == "version":
        found = kv.version
    else:
        found = kv.create_revision if compare.target == "create" else kv.mod_revision
    if compare.op in "!=":
        return (found == compare.operand) == (compare.op == "=")
    less = found < compare.operand  # type: ignore[operator]
    return less if compare.op == "<" else found != compare.operand and not less


def within(key: bytes, request: Range | Delete) -> bool:
    """Tell whether a key is in the range of a request."""
    if not request.end:
        return key == request.key
    return request.key <= key and (request.end == b"\0" or key < request.end)


def touched(request: Request) -> set[bytes] | None:
    """Return the keys a request names, None if it has a range."""
    if isinstance(request, Txn):
        found = {compare.key for compare in request.compares}
        for op in request.success + request.failure:
            of_op = touched(op)
            if of_op is None:
                return None
            found |= of_op
        return found
    if not isinstance(request, Put) and request.end:
        return None
    return {request.key}


def written(request: Request) -> list[Put]:
    """Return every put a request may carry out."""
    if isinstance(request, Txn):
        return [op for op in request.success + request.failure if isinstance(op, Put)]
    return [request] if isinstance(request, Put) else []


def shown(body: Body) -> list[KV]:
    """Return every key-value pair in an answer."""
    if isinstance(body, Txned):
        return [kv for answer in body.answers for kv in shown(answer)]
    if isinstance(body, Ranged):
        return list(body.kvs)
    if isinstance(body, Deleted):
        return list(body.prevs)
    return [] if body.prev is None else [body.prev]


def _one(next_revision: int, keys: Keys, changes: Changes, op: Op) -> Putted | Ranged | Deleted:
    if isinstance(op, Put):
        before = changes[op.key] if op.key in changes else keys.get(op.key)
        create = before.create_revision if before else next_revision
        version = before.version + 1 if before else 1
        changes[op.key] = KV(op.key, op.value, create, next_revision, version)
        return Putted(before if op.prev else None)
    found = _found(keys, changes, op)
    if isinstance(op, Range):
        return Ranged(tuple(found))
    for kv in found:
        changes[kv.key] = None
    return Deleted(len(found), tuple(found) if op.prev else ())


def _found(keys: Keys, changes: Changes, op: Range | Delete) -> list[KV]:
    if not op.end:
        kv = changes[op.key] if op.key in changes else keys.get(op.key)
        return [] if kv is None else [kv]
    now = {key: kv for key, kv in keys.items() if within(key, op)}
    now |= {key: kv for key, kv in changes.items() if within(key, op)}  # type: ignore[misc]
    return [kv for _, kv in sorted(now.items()) if kv is not None]
