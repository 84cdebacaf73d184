"""Results too big to be kept: given again from history.

Of such a result only its revision is kept, and the revision at which the request began. Carrying
the request out once more over the state of that time, with its changes kept aside, gives the same
response, as long as that state has not been compacted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from etcdpb.rpc_pb2 import DeleteRangeRequest, PutRequest, TxnRequest
from kv.apply import apply_delete_range, apply_put
from kv.batch import Op
from kv.errors import ANSWERED_ALREADY, EtcdError
from kv.store import KV, Kept, Result, Store
from kv.tally import Tally
from kv.txn import apply_txn
from kv.writer import HistoryWriter

BODY_BYTES_MAX: Final = 64 << 10
LOST: Final = -ANSWERED_ALREADY.number


def is_recalled(kept: Kept) -> bool:
    """Tell whether what was kept is not the result but where to find it."""
    return not isinstance(kept, int) and isinstance(kept[1], int)


def recall(store: Store, op: int, data: bytes, kept: Kept, compact: int) -> Result:
    """Return the first result of a request again; "already answered" if history is gone."""
    if isinstance(kept, int):
        return kept
    revision, began = kept
    if isinstance(began, bytes):
        return revision, began
    if began < compact:
        return LOST
    past = _Past(store, began)
    result: Result
    tally = Tally()
    try:
        if op == Op.PUT:
            result = apply_put(past, PutRequest.FromString(data), tally)
        elif op == Op.DELETE_RANGE:
            result = apply_delete_range(past, DeleteRangeRequest.FromString(data), tally)
        else:
            result = apply_txn(past, TxnRequest.FromString(data), compact, tally)
    except EtcdError:  # it succeeded once; what a txn read at an older revision is gone
        return LOST
    assert not isinstance(result, int), "a big result came back small"
    assert result[0] == revision, f"revision {revision} came back as {result[0]}"
    return result


class _Past(HistoryWriter):
    """A writer at an old revision whose changes go nowhere but into its own reads."""

    __slots__ = ("_aside", "_past", "_reads")

    def __init__(self, store: Store, revision: int) -> None:
        super().__init__(store, 0)
        self._reads = store
        self._past = revision
        self._aside: dict[bytes, KV | None] = {}
        self.start(revision)

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """See HistoryWriter."""
        before = self.get(key)
        super().put(key, value, lease)
        create_revision = before[2] if before else self.next_revision
        version = before[4] + 1 if before else 1
        self._aside[key] = (key, value, create_revision, self.next_revision, version, lease)

    def delete(self, key: bytes) -> None:
        """See HistoryWriter."""
        super().delete(key)
        self._aside[key] = None

    def get(self, key: bytes, revision: int = 0) -> KV | None:
        """See Reads."""
        if not revision and key in self._aside:
            return self._aside[key]
        return self._reads.get(key, revision or self._past)

    def scan(
        self, key: bytes, end: bytes | None, revision: int = 0, limit: int = 0
    ) -> Sequence[KV]:
        """See Reads."""
        found = {kv[0]: kv for kv in self._reads.scan(key, end, revision or self._past)}
        for name, kv in self._aside.items() if not revision else ():
            if key <= name and (end is None or name < end):
                found.pop(name, None)
                if kv is not None:
                    found[name] = kv
        kvs = sorted(found.values())
        return kvs[:limit] if limit else kvs

    def count(self, key: bytes, end: bytes | None, revision: int = 0) -> int:
        """See Reads."""
        return len(self.scan(key, end, revision))

    def has_lease(self, lease: int) -> bool:
        """It was there: the request succeeded once."""
        return True

    def sync(self) -> None:
        """Write nothing."""
