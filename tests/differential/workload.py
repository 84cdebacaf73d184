"""A seeded stream of KV requests, valid and invalid, with every option of etcd's API.

The same seed and the same answers give the same requests. The key space is small, so that puts,
deletes, transactions and compactions collide; revisions are drawn around what was seen last.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from google.protobuf.message import Message

from etcdpb import rpc_pb2 as pb

KEYS: Final = (
    b"a", b"a\x00", b"aa", b"ab", b"abc", b"b", b"b/1", b"b/2", b"b\xff", b"c", b"d", b"z",
    b"\xfe\xff", b"\xff", b"\xff\xff", b"\x00",
)  # fmt: skip
OUTSIDE: Final = (b"", b"\x00\x00", b"A", b"nobody", b"zz")
RANGE_ENDS: Final = (
    b"\x00",
    b"\x00\x00",
    b"a",
    b"ab",
    b"b",
    b"b0",
    b"c",
    b"zz",
    b"\xff",
    b"\xff\xff",
)
TXN_OPS_MAX: Final = 128
LEASE_UNKNOWN: Final = 0x1234567
LEASES: Final = (5, 6, 7, -8, 1 << 62)
TTLS: Final = (50_000, 60_000, 9_000_000_000)  # none expires in a run
TTLS_TOO_LARGE: Final = (9_000_000_001, (1 << 63) - 1)
VALUE_BYTES_TOO_MANY: Final = 1_600_000

Weighted = tuple[tuple[int, Callable[[], Message]], ...]


def prefix_end(prefix: bytes) -> bytes:
    """Return the range end that selects all keys with a prefix, as etcd's clients compute it."""
    for at in range(len(prefix) - 1, -1, -1):
        if prefix[at] < 0xFF:
            return prefix[:at] + bytes([prefix[at] + 1])
    return b"\x00"


class Workload:
    """Draws requests; `observe` tells it the revisions that came back."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.revision = 1
        self.compact_revision = 0
        self._value = 0
        self._kinds: Weighted = (
            (300, self.range),
            (5, self.unsortable),
            (320, self.put),
            (100, self.delete),
            (240, self.txn),
            (40, self.compact),
            (25, self.grant),
            (15, self.revoke),
            (20, self.time_to_live),
            (3, pb.LeaseLeasesRequest),
        )

    def next(self) -> Message:
        """Draw the next request."""
        weights = [weight for weight, _ in self._kinds]
        return self._random.choices(self._kinds, weights)[0][1]()

    def observe(self, revision: int) -> None:
        """Take note of the store's revision."""
        self.revision = max(self.revision, revision)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _key(self) -> bytes:
        return self._random.choice(OUTSIDE if self._chance(0.04) else KEYS)

    def _range_end(self, key: bytes) -> bytes:
        kind = self._random.randrange(10)
        if kind < 4:
            return b""
        if kind < 6:
            return prefix_end(key)
        if kind < 7:
            return b"\x00"
        if kind < 8:
            return key + b"\x00"
        return self._random.choice(RANGE_ENDS)  # at times below the key

    def _revision(self) -> int:
        """Draw a revision: of the past, compacted, now, to come, or absurd."""
        kind = self._random.randrange(20)
        if kind < 12:
            return self._random.randint(max(1, self.compact_revision - 2), self.revision)
        if kind < 16:
            return self._random.randint(max(1, self.revision - 5), self.revision + 1)
        return self._random.choice(
            (0, 1, -1, self.compact_revision, self.revision + 1, self.revision + 1000, 2**62)
        )

    def _new_value(self) -> bytes:
        if self._chance(0.1):
            return self._random.choice((b"", b"\x00", b"same", b"\xff\xfe", b"x" * 300))
        self._value += 1
        return b"value-%d" % self._value

    def range(self) -> pb.RangeRequest:
        """Draw a Range."""
        key = self._key()
        request = pb.RangeRequest(key=key, range_end=self._range_end(key))
        if self._chance(0.3):
            request.limit = self._random.choice((-1, 1, 1, 2, 3, 5, 100, 2**40))
        if self._chance(0.4):
            request.revision = self._revision()
        if self._chance(0.4):
            request.sort_order = self._random.choice((0, 1, 2, 2, 1))  # type: ignore[assignment]
            request.sort_target = self._random.randrange(5)  # type: ignore[assignment]
        request.serializable = self._chance(0.2)
        request.keys_only = self._chance(0.15)
        request.count_only = self._chance(0.1)
        for bound in (
            "min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision",
        ):  # fmt: skip
            if self._chance(0.08):
                setattr(request, bound, self._revision())
        return request

    def unsortable(self) -> pb.RangeRequest:
        """Draw a Range with a sort order that does not exist.

        Alone, never in a transaction: etcd 3.5.1 takes it, later ones do not, and the stores would
        part. A sort target that does not exist crashes 3.5.1, so it is never sent.
        """
        request = self.range()
        request.sort_order = self._random.choice((3, 17, -1))  # type: ignore[assignment]
        return request

    def put(self) -> pb.PutRequest:
        """Draw a Put."""
        request = pb.PutRequest(key=self._key(), value=self._new_value())
        request.prev_kv = self._chance(0.3)
        if self._chance(0.1):
            request.ignore_value = True
            if self._chance(0.8):
                request.value = b""
        if self._chance(0.1):
            request.ignore_lease = True
        if self._chance(0.06):
            request.lease = self._random.choice((LEASE_UNKNOWN, 1, -1))
        elif self._chance(0.25):
            request.lease = self._random.choice(LEASES)
        if self._chance(0.002):
            request.value = b"x" * VALUE_BYTES_TOO_MANY
        return request

    def _lease(self) -> int:
        return self._random.choice((0, LEASE_UNKNOWN) if self._chance(0.1) else LEASES)

    def grant(self) -> pb.LeaseGrantRequest:
        """Draw a LeaseGrant under an id of its own choice."""
        ttls = TTLS_TOO_LARGE if self._chance(0.1) else TTLS
        return pb.LeaseGrantRequest(
            ID=self._lease() or LEASE_UNKNOWN, TTL=self._random.choice(ttls)
        )

    def revoke(self) -> pb.LeaseRevokeRequest:
        """Draw a LeaseRevoke."""
        return pb.LeaseRevokeRequest(ID=self._lease())

    def time_to_live(self) -> pb.LeaseTimeToLiveRequest:
        """Draw a LeaseTimeToLive."""
        return pb.LeaseTimeToLiveRequest(ID=self._lease(), keys=self._chance(0.8))

    def delete(self) -> pb.DeleteRangeRequest:
        """Draw a DeleteRange; mostly of few keys, else the store would stay empty."""
        key = self._key()
        range_end = self._range_end(key) if self._chance(0.25) else b""
        return pb.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=self._chance(0.4))

    def compare(self) -> pb.Compare:
        """Draw a comparison of a transaction."""
        compare = pb.Compare(key=self._key())
        compare.result = self._random.randrange(4)  # type: ignore[assignment]
        compare.target = self._random.randrange(5)  # type: ignore[assignment]
        field = ("version", "create_revision", "mod_revision", "value", "lease")[compare.target]
        if self._chance(0.05):  # a value of another target than the one compared
            field = self._random.choice(("version", "mod_revision", "value", "lease"))
        if self._chance(0.03):
            field = ""
        if field == "value":
            compare.value = self._random.choice(
                (b"", b"same", b"value-%d" % self._random.randint(0, self._value + 1))
            )
        elif field == "version":
            compare.version = self._random.choice((0, 1, 1, 2, 5, -1))
        elif field == "lease":
            compare.lease = self._random.choice((0, 0, 1, LEASE_UNKNOWN, *LEASES))
        elif field:
            setattr(compare, field, self._random.choice((0, self._revision(), self._revision())))
        if self._chance(0.2):
            compare.range_end = self._range_end(compare.key)
        if self._chance(0.01):
            compare.result = 9  # type: ignore[assignment]
        if self._chance(0.01):
            compare.target = 9  # type: ignore[assignment]
        return compare

    def txn(self, depth: int = 0) -> pb.TxnRequest:
        """Draw a transaction, at times nested, at times too large."""
        request = pb.TxnRequest()
        request.compare.extend(self.compare() for _ in range(self._few()))
        if depth == 0 and self._chance(0.01):
            get = pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))
            request.success.extend([get] * (TXN_OPS_MAX + self._random.randrange(2)))
            return request
        for branch in (request.success, request.failure):
            branch.extend(self._operation(depth) for _ in range(self._few()))
        return request

    def _few(self) -> int:
        return self._random.choice((0, 1, 1, 2, 3))

    def _operation(self, depth: int) -> pb.RequestOp:
        kind = self._random.randrange(20)
        if kind < 7:
            return pb.RequestOp(request_range=self.range())
        if kind < 14:
            put = self.put()
            if len(put.value) > 1000:
                put.value = b"large"
            return pb.RequestOp(request_put=put)
        if kind < 16:
            return pb.RequestOp(request_delete_range=self.delete())
        if kind < 19 and depth < 3:
            return pb.RequestOp(request_txn=self.txn(depth + 1))
        return pb.RequestOp() if self._chance(0.1) else pb.RequestOp(request_range=self.range())

    def compact(self) -> pb.CompactionRequest:
        """Draw a Compact: of the recent past, repeated, to come, or absurd."""
        kind = self._random.randrange(10)
        revision = self._random.randint(
            self.compact_revision + 1, max(self.compact_revision + 1, self.revision - 1)
        )
        if kind < 2:
            revision = self._random.choice((self.revision, self.revision + 1, 2**62, 0, -1))
        elif kind < 4:
            revision = self.compact_revision
        if self.compact_revision < revision <= self.revision:
            self.compact_revision = revision
        return pb.CompactionRequest(revision=revision, physical=self._chance(0.3))
