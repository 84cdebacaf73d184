"""Random requests over few keys, so that they collide; everything from one seed."""

from __future__ import annotations

from random import Random
from typing import Any

from etcdpb.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
)

KEYS = [b"a", b"a\0", b"aa", b"ab", b"b", b"c\xff", b"d", b"\xff"]
LEASES = [1, 2, -3, 1 << 62]
ENDS = [b"", b"", b"", b"\0", b"b", b"c", b"\xff\xff", b"a"]


class RandomRequests:
    """Makes requests for a store that is at `revision` and compacted at `compact_revision`."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.revision = 1
        self.compact_revision = -1

    def write(self) -> Any:
        """Return a request that goes through the log."""
        kinds = ("put", "delete", "txn", "compact", "grant", "revoke")
        kind = self._random.choices(kinds, (10, 4, 5, 1, 2, 1))[0]
        if kind == "put":
            return self.put()
        if kind == "delete":
            return self.delete()
        if kind == "txn":
            return self.txn(depth=0)
        if kind == "grant":
            return LeaseGrantRequest(ID=self._lease(), TTL=self._random.randint(2, 9))
        if kind == "revoke":
            return LeaseRevokeRequest(ID=self._lease())
        return CompactionRequest(revision=self._revision())

    def _lease(self) -> int:
        return self._random.choice(LEASES)

    def _key(self) -> bytes:
        return self._random.choice(KEYS)

    def _some(self, chance: float = 0.3) -> bool:
        return self._random.random() < chance

    def _revision(self) -> int:
        low = max(self.compact_revision - 2, -2)
        return self._random.randint(low, self.revision + 1)

    def put(self) -> PutRequest:
        """Return a put; flags that contradict each other are left out."""
        request = PutRequest(key=self._key(), prev_kv=self._some())
        if self._some(0.1):
            request.ignore_value = True
        else:
            request.value = b"%d" % self._random.randint(0, 9) if self._some(0.9) else b""
        if self._some(0.1):
            request.ignore_lease = True
        elif self._some(0.3):
            request.lease = self._lease()
        return request

    def delete(self) -> DeleteRangeRequest:
        """Return a delete of a key or a range."""
        end = self._random.choice(ENDS) if self._some(0.4) else b""
        return DeleteRangeRequest(key=self._key(), range_end=end, prev_kv=self._some())

    def range(self) -> RangeRequest:
        """Return a range with any mixture of options."""
        random = self._random
        request: Any = RangeRequest(key=self._key(), range_end=random.choice(ENDS))
        if self._some():
            request.revision = self._revision()
        if self._some():
            request.limit = random.randint(-1, 5)
        request.sort_order = random.choice((0, 0, 1, 2))
        request.sort_target = random.choice((0, 0, 1, 2, 3, 4))
        request.keys_only = self._some(0.1)
        request.count_only = self._some(0.1)
        for name in ("min_mod", "max_mod", "min_create", "max_create"):
            if self._some(0.08):
                setattr(request, name + "_revision", random.randint(-1, self.revision))
        done: RangeRequest = request
        return done

    def compare(self) -> Compare:
        """Return a compare with an operand that has a chance."""
        random = self._random
        compare: Any = Compare(key=self._key())
        compare.result, compare.target = random.randint(0, 3), random.randint(0, 4)
        if self._some(0.2):
            compare.range_end = random.choice(ENDS)
        operand = random.choice((0, 1, 2, self.revision, self.revision // 2))
        names = ("version", "create_revision", "mod_revision", "value", "lease")
        name = names[compare.target] if self._some(0.9) else random.choice(names)
        setattr(compare, name, b"%d" % random.randint(0, 9) if name == "value" else operand)
        done: Compare = compare
        return done

    def txn(self, depth: int = 0, *, read_only: bool = False) -> TxnRequest:
        """Return a txn, nested up to two levels."""
        request = TxnRequest()
        for _ in range(self._random.randint(0, 2)):
            request.compare.append(self.compare())
        for branch in (request.success, request.failure):
            for _ in range(self._random.randint(0, 3)):
                op = branch.add()
                kinds = ("range",) if read_only else ("put", "put", "range", "delete", "txn")
                kind = self._random.choice(kinds)
                if kind == "put":
                    op.request_put.CopyFrom(self.put())
                elif kind == "delete":
                    op.request_delete_range.CopyFrom(self.delete())
                elif kind == "txn" and depth < 2:
                    op.request_txn.CopyFrom(self.txn(depth + 1))
                else:
                    op.request_range.CopyFrom(self.range())
        return request
