"""Range requests: which keys, in which order, how many of them (etcd 3.5's applyV3 Range).

Rules:
1. `count` is the number of keys in the range at the revision, whatever filters and limit do.
2. Filters and any order but the keys' own need every key first: the limit cuts afterwards.
3. A target without an order sorts ascending, but only what the limit let through (as etcd does).
4. Revision 0 or below is the newest; above the current one is the future; below the compact
   revision is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain
from typing import Any, Final

from etcdpb.rpc_pb2 import RangeRequest, RangeResponse
from kv.errors import COMPACTED, FUTURE_REV, EtcdError
from kv.store import KV, Reads
from kv.tally import Tally

LIMIT_MAX: Final = 1 << 62
_KEY, _VALUE, _CREATE, _MOD, _VERSION = range(5)
_TARGET_COLUMN: Final = {
    RangeRequest.KEY: _KEY,
    RangeRequest.VERSION: _VERSION,
    RangeRequest.CREATE: _CREATE,
    RangeRequest.MOD: _MOD,
    RangeRequest.VALUE: _VALUE,
}


def range_bounds(range_end: bytes) -> bytes | None:
    r"""Return the end of a range: None for b"\0", which means every key from the first on."""
    return None if range_end == b"\0" else range_end


def is_small(request: RangeRequest) -> bool:
    """Tell whether a request takes a bounded time: one key, as it is now."""
    return not request.range_end and request.revision <= 0


def check_revision(revision: int, current: int, compact: int) -> int:
    """Return the revision to read at, 0 for the newest. Raises EtcdError."""
    if revision > current:
        raise EtcdError(FUTURE_REV)
    if revision <= 0:
        return 0
    if revision < compact:
        raise EtcdError(COMPACTED)
    return 0 if revision == current else revision


def has_filters(request: RangeRequest) -> bool:
    """Tell whether revisions are filtered."""
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def fetch_limit(request: RangeRequest) -> int:
    """Return how many keys to read, 0 for all: one more than asked for tells `more`."""
    if request.limit <= 0 or has_filters(request):
        return 0
    if request.sort_order == RangeRequest.NONE or (
        request.sort_order == RangeRequest.ASCEND and request.sort_target == RangeRequest.KEY
    ):
        return min(request.limit, LIMIT_MAX) + 1
    return 0


def keeps(request: RangeRequest) -> Callable[[KV], bool] | None:
    """Return the filter of a request, None if everything passes."""
    if not has_filters(request):
        return None
    no_end = 1 << 63
    mod = (request.min_mod_revision or -no_end, request.max_mod_revision or no_end)
    create = (request.min_create_revision or -no_end, request.max_create_revision or no_end)

    def passes(kv: KV) -> bool:
        return create[0] <= kv[2] <= create[1] and mod[0] <= kv[3] <= mod[1]

    return passes


def sort_key(request: RangeRequest) -> tuple[Callable[[KV], Any], bool] | None:
    """Return (key function, descending); None where the keys' own order will do."""
    order, target = request.sort_order, request.sort_target
    if order != RangeRequest.DESCEND and target == RangeRequest.KEY:
        return None
    column = _TARGET_COLUMN[target]
    return (lambda kv: kv[column]), order == RangeRequest.DESCEND


def arrange(request: RangeRequest, kvs: Sequence[KV]) -> tuple[Sequence[KV], bool]:
    """Filter, sort and cut what was read; return it and whether there is more."""
    passes = keeps(request)
    if passes is not None:
        kvs = [kv for kv in kvs if passes(kv)]
    order = sort_key(request)
    if order is not None:
        kvs = sorted(kvs, key=order[0], reverse=order[1])
    if 0 < request.limit < len(kvs):
        return kvs[: request.limit], True
    return kvs, False


def merged(request: RangeRequest, runs: Iterable[Sequence[KV]]) -> Iterator[KV]:
    """Yield what consecutive runs of a range hold, each arranged, in the request's order."""
    order = sort_key(request)
    if order is None:
        return chain.from_iterable(runs)
    return merge(*runs, key=order[0], reverse=order[1])


def add_kvs(kvs: Any, rows: Sequence[KV], *, keys_only: bool = False) -> None:
    """Append rows to a repeated field of KeyValue."""
    add = kvs.add
    for key, value, create_revision, mod_revision, version, lease in rows:
        add(
            key=key,
            value=b"" if keys_only else value,
            create_revision=create_revision,
            mod_revision=mod_revision,
            version=version,
            lease=lease,
        )


def range_response(
    reads: Reads, request: RangeRequest, current: int, compact: int, tally: Tally | None = None
) -> RangeResponse:
    """Return a response without header; what is over a tally is left out. Raises EtcdError."""
    revision = check_revision(request.revision, current, compact)
    response = RangeResponse()
    key, range_end = request.key, request.range_end
    if not range_end:
        kv = reads.get(key, revision)
        if kv is None:
            return response
        response.count = 1
        if not request.count_only:
            found, response.more = arrange(request, [kv])
            if tally is None or tally.takes(found, keys_only=request.keys_only):
                add_kvs(response.kvs, found, keys_only=request.keys_only)
        return response
    end = range_bounds(range_end)
    if request.count_only:
        response.count = reads.count(key, end, revision)
        return response
    limit = fetch_limit(request)
    kvs = reads.scan(key, end, revision, limit)
    response.count = len(kvs)
    if limit and len(kvs) >= limit:
        response.count = reads.count(key, end, revision)
    found, response.more = arrange(request, kvs)
    if tally is None or tally.takes(found, keys_only=request.keys_only):
        add_kvs(response.kvs, found, keys_only=request.keys_only)
    return response
