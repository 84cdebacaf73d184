"""Metric words: what each kind of actor counts in its block of the board.

One writer per word, so whichever gateway is asked can answer `/metrics` for the whole member, and
the figures of a dead actor stay readable. Words restart at zero with the board, not with an actor.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import IntEnum
from itertools import accumulate
from math import inf
from typing import Final

from transport.counters import Board, Cell


class RaftMetric(IntEnum):
    """Words of the raft node. Gauges first, then counters, then the histograms of the disk."""

    TERM = 0
    LEADER = 1
    COMMITTED_INDEX = 2
    LAST_INDEX = 3
    IS_LEADER = 4
    LEADER_CHANGES = 5
    PROPOSALS_FAILED = 6
    WAL_ENTRIES = 7
    WAL_BYTES = 8
    REQUESTS = 9
    SNAPSHOT_INDEX = 10
    READ_INDEXES = 11
    VOTERS = 12
    PROPOSALS_PENDING = 13
    MEMBER_ID = 14
    CLUSTER_ID = 15
    SOLE_VOTER = 16
    NO_SPACE = 17
    LED_TERM = 18  # the term this member leads; 0 when it does not
    LED_AT = 19  # CLOCK_BOOTTIME in ns of the last tick as leader
    PEER_MESSAGES_REFUSED = 20
    SYNC_SINCE_NS = 21  # CLOCK_MONOTONIC; 0 while the thread that syncs the log has nothing to do
    WAL_RESUME_AT = 22  # see Wal.resume_at; for the next incarnation
    HEARTBEATS_LATE = 23
    FSYNC = 32
    WAL_WRITE = 48


class ApplierMetric(IntEnum):
    """Words of the applier."""

    APPLIED_INDEX = 0
    REVISION = 1
    COMPACT_REVISION = 2
    PUTS = 3
    DELETES = 4
    TXNS = 5
    REQUESTS = 6
    DB_BYTES = 7
    DB_IN_USE_BYTES = 8
    WAL_FRAMES = 9
    PRUNED_KEYS = 10
    NO_SPACE = 11
    APPLIED_TERM = 12
    PRUNED_TO = 13
    GENERATION = 14  # raft index in the name of the database file in use
    INSTALLS = 15
    LEASE_INDEX = 16  # of the newest batch that changed leases
    LEASES_GRANTED = 17
    LEASES_REVOKED = 18
    INSTALLING = 19
    SLOW_APPLIES = 20
    ROLLBACKS = 21  # ever, with every start: what was told ahead of them is void
    COMMIT = 32
    LEASE_TTL = 64  # lease_metrics.py


class GatewayMetric(IntEnum):
    """Words of a gateway."""

    PENDING = 1
    RECEIVED_BYTES = 2
    SENT_BYTES = 3
    HEALTH_SUCCESS = 4
    HEALTH_FAILURES = 5
    SLOW_READ_INDEXES = 6
    REPROPOSED = 7
    READY = 8
    EXPIRED = 9  # requests given up because their time was over
    TURNS = 10  # moves while it accepts connections (balance.py)
    WATCHERS = 16
    WATCH_STREAMS = 17
    SLOW_WATCHERS = 18
    WATCH_EVENTS = 19
    READ_INDEXES_FAILED = 21
    UNREAD_REVISION = 20  # watchers have still to read from here on: not pruned yet; 0 is none
    HASH_REV = 24
    CLIENT_REQUESTS = 40  # pairs, see client_requests.py
    CALLS = 64  # pairs, see call_counts.py


class TransportMetric(IntEnum):
    """Words of the transport. PEERS are gauges of living links; what is before counts on."""

    ACTIVE_PEERS = 0
    LONGEST_CONNECTED = 1  # member id; 0 when no peer is active
    LOWEST_VERSION = 2  # of all members: major << 16 | minor << 8 | patch; 0 while one is unknown
    SENT_BYTES = 3
    RECEIVED_BYTES = 4
    DROPPED = 5  # payloads that found no room or waited too long
    LOST_FRAMES = 6  # gaps seen in what came from peers
    INBOUND_CLOSED = 7  # connections of others that ended, as those that sent too big a frame
    UNDELIVERED = 8  # payloads that came and whose actor had no open stream
    STANDING = 9  # transport.peer_wire.Standing of this member with the first peer that answered
    REJECTED = 16  # one word for each transport.peer_wire.Reason
    PEERS = 32  # PEER_SLOTS times PeerMetric


class PeerMetric(IntEnum):
    """Words of one peer within TransportMetric.PEERS; ID 0 is an empty slot."""

    ID = 0
    ACTIVE_SINCE_NS = 1  # CLOCK_MONOTONIC; 0 while it does not answer
    ROUND_TRIP_NS = 2
    SENT_BYTES = 3
    RECEIVED_BYTES = 4
    FAILURES = 5
    DROPPED = 6
    VERSION = 7


PEER_SLOTS: Final = 16


class LessorMetric(IntEnum):
    """Words of the lessor."""

    LEASES = 0  # clocks; 0 while not primary
    PRIMARY = 1
    RENEWED = 2
    EXPIRED = 3
    FORWARDED = 4
    REFUSED = 5  # payloads of other members that could not be read


class CompactorMetric(IntEnum):
    """Words of the compactor."""

    LAST_SECONDS = 0  # Unix time at which history was pruned last
    PAUSE = 16
    TOTAL = 32


class SnapshotterMetric(IntEnum):
    """Words of the snapshotter."""

    CHECKPOINTS = 0
    DURABLE_INDEX = 1
    FILES_MADE = 2
    SENDING = 3
    SENT = 4
    SEND_FAILURES = 5
    SENT_BYTES = 6
    RECEIVING = 7
    RECEIVED = 8
    RECEIVE_FAILURES = 9
    RECEIVED_BYTES = 10
    REJECTED = 11
    PURGED = 12
    CHECKPOINT = 32
    MAKE = 48  # these three are written and read by snapshot_metrics.py
    SEND = 64
    RECEIVE = 80


# etcd's buckets for disk latencies: 1 ms doubling 14 times.
BUCKET_SECONDS: Final = tuple(0.001 * 2**power for power in range(14))
_BUCKET_NS: Final = tuple(int(bound * 1e9) for bound in BUCKET_SECONDS)


class Histogram:
    """Durations in words of the board: 15 buckets (the last is +Inf), then the sum in ns."""

    def __init__(self, board: Board, name: str, first: int) -> None:
        """`first` is a metric word, such as RaftMetric.FSYNC."""
        self._words = board.words
        self._first = board.block(name) + Cell.METRICS + first

    def observe(self, nanoseconds: int) -> None:
        """Count one duration."""
        self._words[self._first + bisect_left(_BUCKET_NS, nanoseconds)] += 1
        self._words[self._first + 15] += nanoseconds

    def read(self) -> tuple[list[int], float]:
        """Return the count of each bucket (not cumulative) and the sum in seconds."""
        buckets = [self._words[self._first + i] for i in range(15)]
        return buckets, self._words[self._first + 15] / 1e9


class Scaled:
    """A histogram in buckets of etcd's that begin later than 1 ms, or are fewer.

    Times are divided before they are counted, so `size` buckets begin at `divisor` ms.
    """

    def __init__(self, board: Board, name: str, first: int, divisor: int, size: int) -> None:
        self._divisor, self._size = divisor, size
        self._histogram = Histogram(board, name, first)

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._histogram.observe(int(seconds * 1e9) // self._divisor)

    def read(self) -> tuple[list[tuple[float, float]], float]:
        """Return (upper bound in seconds, cumulative count) of each bucket, and the sum."""
        counts, total = self._histogram.read()
        bounds = [bound * self._divisor for bound in BUCKET_SECONDS[: self._size]]
        running = list(accumulate(map(float, counts)))
        buckets = list(zip(bounds, running, strict=False))
        return [*buckets, (inf, running[-1])], total * self._divisor
