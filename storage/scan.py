"""Work too long for one turn of an event loop: big ranges and hashes, a millisecond at a time.

Rules (RULES A5):
1. A scan has a connection of its own, taken from a small pool; without a free one it waits.
2. Everything is read at one revision, the one the scan started at.
3. A read transaction lasts SECONDS_MAX at most, or the database's log could never be restarted.
   Past that the scan goes on in a new one, at the same revision as an old one, and believes rows
   only while that revision isn't compacted. Who asked for the newest revision did not ask for
   that one: unless part of the answer has been sent, the scan begins again at what is newest now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from zlib import crc32

import apsw

from etcdpb.rpc_pb2 import RangeRequest, RangeResponse
from kv.errors import COMPACTED, EtcdError
from kv.range import (
    add_kvs,
    arrange,
    check_revision,
    fetch_limit,
    has_filters,
    merged,
    range_bounds,
)
from kv.range import sort_key as order_of
from kv.store import KV
from raft.varint import varint
from storage.database import DatabaseError, no_descriptor_left, open_reader
from storage.queries import SLICE_KEYS, Queries, bindings, scan_statement

SECONDS_MAX: Final = 2.0
STEP_SECONDS: Final = 0.001
POOL_MAX: Final = 4
COUNT_KEYS: Final = 4000
RUN_KEYS: Final = 2000
RESTARTS_MAX: Final = 20
PIECE_ROWS: Final = 500
PIECE_BYTES: Final = 256 << 10

_PROGRESS: Final = "SELECT applied_index, revision, compact_revision FROM progress"


class ScanPool:
    """Connections for scans, opened when first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[apsw.Connection] = []
        self._lent = 0
        self.running: set[SlicedRead] = set()

    def take(self) -> apsw.Connection | None:
        """Return a free connection, None if all are lent or there is no descriptor for one more."""
        if self._lent == POOL_MAX:
            return None
        if not self._idle:
            try:
                self.open_one()
            except DatabaseError:
                if not no_descriptor_left():
                    raise
                return None
        self._lent += 1
        return self._idle.pop()

    def open_one(self) -> None:
        """Open one more connection."""
        self._idle.append(open_reader(self._path))

    def give_back(self, connection: apsw.Connection) -> None:
        """Take a connection back; it must not be in a transaction."""
        assert connection.txn_state() == apsw.SQLITE_TXN_NONE, "a scan left its transaction open"
        self._lent -= 1
        self._idle.append(connection)

    def rest(self) -> None:
        """End the transactions of scans that nobody has stepped for long."""
        now = time.monotonic()
        for scan in self.running:
            scan.rest(now)

    def move(self, path: Path) -> None:
        """Go over to another file; scans under way go on there."""
        there_were = bool(self._lent or self._idle)
        self.close()
        self._path = path
        if there_were:
            self.open_one()

    def close(self) -> None:
        """Close everything; scans under way are over."""
        for scan in list(self.running):
            scan.close()
        for connection in self._idle:
            connection.close()
        self._idle.clear()


class SlicedRead:
    """A read of one moment, done in steps.

    `revision` is the store's revision when the read began (for the header), `at` the one it reads.
    """

    restartable = True

    def __init__(self, pool: ScanPool, floor: int) -> None:
        self._pool = pool
        self._floor = floor
        self._connection: apsw.Connection | None = None
        self._queries: Queries
        self._cursor: apsw.Cursor | None = None
        self._began = 0.0
        self._in_transaction = False
        self._newest = True  # the open transaction is still the one the read began in
        self._steps: Iterator[None] | None = None
        self._restarts = 0
        self.revision = 0
        self.compact_revision = -1
        self.at = 0

    def asked_revision(self) -> int:
        """Return the revision asked for, 0 for the newest."""
        raise NotImplementedError

    def work(self) -> Iterator[None]:
        """Do it from the beginning, yielding often."""
        raise NotImplementedError

    def read_at(self, asked: int) -> None:
        """Read at a revision from now on, 0 for the one the read began at. Raises EtcdError."""
        self.at = check_revision(asked, self.revision, self.compact_revision) or self.revision

    @property
    def _fresh(self) -> bool:
        return self._newest and self.at == self.revision

    # --- steps ------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Work about a millisecond; True when done. Raises EtcdError."""
        now = time.monotonic()
        if not self._ready(now):
            return False
        if self._steps is None:
            self._steps = self.work()
        deadline = now + STEP_SECONDS
        for _ in self._steps:
            if time.monotonic() >= deadline:
                return False
        self.close()
        return True

    def rest(self, now: float) -> None:
        """End a transaction that has lasted too long; the next step begins another."""
        if self._in_transaction and now - self._began >= SECONDS_MAX:
            self._end()

    def close(self) -> None:
        """Let go of the connection, finished or not; a step after that goes on with another."""
        if self._connection is not None:
            self._end()
            self._pool.running.discard(self)
            self._pool.give_back(self._connection)
            self._connection = None

    def _ready(self, now: float) -> bool:
        if self._connection is None:
            self._connection = self._pool.take()
            if self._connection is None:
                return False
            self._queries = Queries(self._connection)
            self._pool.running.add(self)
        self.rest(now)
        return self._in_transaction or self._begin(now)

    def _begin(self, now: float) -> bool:
        assert self._connection is not None
        execute = self._queries.execute
        execute("BEGIN")
        self._in_transaction = True
        self._began = now
        ((applied_index, revision, compact_revision),) = execute(_PROGRESS).fetchall()
        self.compact_revision = compact_revision
        if self._steps is not None and compact_revision > self.at:
            self._start_again()
        if self._steps is not None:
            self._newest = False
        elif applied_index < self._floor:
            self._end()
            return False
        else:
            self._newest = True
            self.revision = revision
            self.read_at(self.asked_revision())
        return True

    def _start_again(self) -> None:
        """Forget what was read. Raises EtcdError where that can't be, or was done too often."""
        if self.asked_revision() > 0 or not self.restartable or self._restarts == RESTARTS_MAX:
            raise EtcdError(COMPACTED)
        self._restarts += 1
        self._steps = None

    def _end(self) -> None:
        if self._cursor is not None:
            self._cursor.close(True)
            self._cursor = None
        if self._in_transaction:
            assert self._connection is not None
            self._connection.execute("COMMIT")
            self._in_transaction = False

    # --- rows -------------------------------------------------------------------------------------

    def kvs(self, key: bytes, end: bytes | None, *, values: bool = True) -> Iterator[KV | None]:
        """Yield the keys of a range at `at`, and None where time may have passed for nothing."""
        if self._fresh:
            statement = scan_statement(bounded=end is not None, values=values)
            cursor = self._cursor = self._queries.execute(statement, bindings(key, end, -1))
            for kv in cursor:
                yield kv
                if self._cursor is not cursor:  # the transaction has been ended: go on from here
                    key = kv[0] + b"\0"
                    break
            else:
                self._cursor = None
                return
        yield from self._old_kvs(key, end)

    def _old_kvs(self, key: bytes, end: bytes | None) -> Iterator[KV | None]:
        while True:  # the connection may be another after each yield
            part = self._queries.slice(key, end, SLICE_KEYS)
            for name, newest in part:
                row, there = self._queries.walk(newest, self.at)
                while not there:
                    yield None
                    row, there = self._queries.walk(row, self.at)
                yield self._queries.row(row, name)
            if len(part) < SLICE_KEYS:
                return
            key = part[-1][0] + b"\0"

    def counts(self, key: bytes, end: bytes | None) -> Iterator[int]:
        """Yield numbers of keys that add up to how many a range has at `at`."""
        bound = "" if end is None else "AND key < ?"
        statement = (
            "SELECT count(*), max(key) FROM (SELECT key FROM key "
            f"WHERE key >= ? {bound} AND version > 0 ORDER BY key LIMIT ?)"
        )
        while self._fresh:
            ((found, last),) = self._queries.execute(
                statement, bindings(key, end, COUNT_KEYS)
            ).fetchall()
            yield found
            if found < COUNT_KEYS:
                return
            key = last + b"\0"
        for kv in self._old_kvs(key, end):
            yield kv is not None


class RangePieces:
    """A RangeRequest over a sliced read: pieces of a serialised RangeResponse without header."""

    def __init__(self, read: SlicedRead, request: RangeRequest) -> None:
        self._read = read
        self._request = request
        self._rows: list[KV] = []
        self._rows_bytes = 0
        self._count = 0
        self._more = False
        self.pieces: list[bytes] = []

    def work(self) -> Iterator[None]:
        """Read, yielding often."""
        request = self._request
        key = request.key
        end = range_bounds(request.range_end) if request.range_end else key + b"\0"
        if request.count_only:
            yield from self._count_rest(key, end)
        elif order_of(request) is not None or has_filters(request):
            yield from self._arranged(key, end)
        else:
            yield from self._in_order(key, end)

    def _in_order(self, key: bytes, end: bytes | None) -> Iterator[None]:
        limit = fetch_limit(self._request)
        for kv in self._read.kvs(key, end, values=not self._request.keys_only):
            if kv is not None:
                if limit and self._count == limit - 1:
                    self._more = True
                    yield from self._count_rest(kv[0], end)
                    break
                self._count += 1
                self._add(kv)
            yield
        self._cut()

    def _arranged(self, key: bytes, end: bytes | None) -> Iterator[None]:
        """Sort in runs and merge them: neither step takes long, however many keys there are."""
        limit = fetch_limit(self._request)
        runs: list[Sequence[KV]] = []
        run: list[KV] = []
        for kv in self._read.kvs(key, end):
            if kv is not None:
                if limit and self._count == limit:
                    yield from self._count_rest(kv[0], end)
                    break
                self._count += 1
                run.append(kv)
                if len(run) == RUN_KEYS:
                    runs.append(self._arrange(run))
                    run = []
            yield
        runs.append(self._arrange(run))
        cut = self._request.limit if self._request.limit > 0 else None
        for kv in islice(merged(self._request, runs), cut):
            self._add(kv)
            yield
        self._more = self._more or (cut is not None and sum(map(len, runs)) > cut)
        self._cut()

    def _arrange(self, run: list[KV]) -> Sequence[KV]:
        found, more = arrange(self._request, run)
        self._more |= more
        return found

    def _count_rest(self, key: bytes, end: bytes | None) -> Iterator[None]:
        for found in self._read.counts(key, end):
            self._count += found
            yield

    def _add(self, kv: KV) -> None:
        self._rows.append(kv)
        self._rows_bytes += len(kv[0]) + len(kv[1])
        if len(self._rows) >= PIECE_ROWS or self._rows_bytes >= PIECE_BYTES:
            self._cut()

    def _cut(self) -> None:
        if self._rows:
            response = RangeResponse()
            add_kvs(response.kvs, self._rows, keys_only=self._request.keys_only)
            self.pieces.append(response.SerializeToString())
            self._rows, self._rows_bytes = [], 0

    def tail(self) -> bytes:
        """Return the last piece, once the work is done: `more` and `count`."""
        return RangeResponse(more=self._more, count=self._count).SerializeToString()


class Scan(SlicedRead):
    """A RangeRequest, answered in pieces of a serialised RangeResponse that only need joining."""

    def __init__(
        self, pool: ScanPool, request: RangeRequest, floor: int, *, stream: bool = False
    ) -> None:
        super().__init__(pool, floor)
        self.restartable = not stream
        self._request = request
        self._answer = RangePieces(self, request)
        self._done = False

    def asked_revision(self) -> int:
        """See SlicedRead."""
        return self._request.revision

    def work(self) -> Iterator[None]:
        """See SlicedRead."""
        self._answer = RangePieces(self, self._request)
        yield from self._answer.work()
        self._done = True

    def body(self) -> list[bytes]:
        """Return the pieces of the whole response, without header, once the scan is done."""
        assert self._done, "the scan is not done"
        return [*self._answer.pieces, self._answer.tail()]

    def chunks(self, header: Callable[[int], bytes]) -> Iterator[bytes]:
        """Yield the RangeStreamResponses that are ready and were not yielded before.

        The last one, once the scan is done, has `header(revision)`, `more` and `count` too.
        """
        pieces = self._answer.pieces
        while len(pieces) > 1:
            yield _streamed(pieces.pop(0))
        if self._done:
            rest = pieces.pop() if pieces else b""
            yield _streamed(header(self.revision) + rest + self._answer.tail())
            self._done = False


def _streamed(piece: bytes) -> bytes:
    """Wrap a RangeResponse: field 1 of RangeStreamResponse."""
    return b"\x0a" + varint(len(piece)) + piece


class HashScan(SlicedRead):
    """HashKV: a CRC-32 over the keys as they are at a revision, in the order of keys.

    It covers what can be read at the revision and nothing else, so neither compaction up to there
    nor pruning changes it.
    """

    def __init__(self, pool: ScanPool, revision: int, floor: int) -> None:
        super().__init__(pool, floor)
        self._asked = revision
        self.hash = 0

    @property
    def hash_revision(self) -> int:
        """The revision hashed."""
        return self.at

    def asked_revision(self) -> int:
        """See SlicedRead."""
        return self._asked

    def work(self) -> Iterator[None]:
        """See SlicedRead."""
        self.hash = 0
        for kv in self.kvs(b"", None):
            if kv is not None:
                key, value, *numbers = kv
                text = b"%d %d %d %d %d " % (len(key), *numbers)
                self.hash = crc32(value, crc32(key, crc32(text, self.hash)))
            yield
