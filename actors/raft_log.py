"""The raft node's log: on disk, and the recent part in memory.

Orderings (DESIGN, RULES A4, B2):
1. What is stored is written (write(2)) before this returns: a killed process never lacks what it
   has sent. It is durable after `sync` or when the sync thread says so; whatever depends on that
   waits in `pending`, and leaves in the order it came.
2. A snapshot's record is synced before anything that tells of the snapshot leaves.
3. The log is cut only behind a durable checkpoint of the database, and not what a follower needs
   that is being sent a snapshot, or has just installed one (raft_transfers.py).
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Final

from actors import failpoints
from actors.messages import Durable
from actors.metrics import Histogram, RaftMetric
from actors.observing import NOTED_NS, SYNC_TAG, Observer
from actors.raft_sync import SyncThread
from actors.recovery import Recovered
from raft.messages import AfterAppend
from raft.size import NO_LIMIT
from raft.state import ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata
from storage.wal_errors import WalSpaceError
from transport.counters import Board

MEMORY_BYTES_MAX: Final = 32 << 20
TAIL_BYTES: Final = 16 << 20
FAST_SYNC_NS: Final = 5_000_000
PREPARE_BYTES: Final = 1 << 20
PREPARE_SLICES: Final = 4
SPACE_RETRY_SECONDS: Final = 0.05


class Fsyncs(Histogram):
    """How long syncs took; the recorder has those that were long enough to be waited for."""

    def __init__(self, board: Board, name: str, observer: Observer) -> None:
        super().__init__(board, name, RaftMetric.FSYNC)
        self._observer = observer

    def observe(self, nanoseconds: int) -> None:
        """Count one sync that has ended just now, on whichever thread."""
        super().observe(nanoseconds)
        if nanoseconds >= NOTED_NS:
            self._observer.note(SYNC_TAG, time.monotonic_ns() - nanoseconds, nanoseconds)


class RaftLog:
    """See the module docstring. One thread uses it, the raft node's; others sync and prepare."""

    def __init__(
        self,
        recovered: Recovered,
        *,
        snapshot_count: int,
        catchup: int,
        max_wals: int,
        out_of_space: Callable[[str], None],
        watch: Callable[[int], None],
        syncs: Histogram,
        writes: Histogram,
        syncing: Callable[[int], None] = lambda since_ns: None,
    ) -> None:
        """`out_of_space(text)` is called for every try on a full disk, with "" when it is over.

        `watch(descriptor)` is called with what becomes readable when `synced` has news,
        `syncing(since)` with CLOCK_MONOTONIC in ns when the thread begins a sync, 0 after the last.
        `syncs` and `writes` count what the disk takes for a batch.
        """
        self.wal = recovered.wal
        self.storage = recovered.storage
        self.snapshot_index = recovered.snapshot.index
        self.memory_bytes = 0
        self._covered_requests = 0
        self.sync_ns = 0
        self.conf_indexes: deque[int] = deque()
        """Configuration changes in the log that are not applied."""
        self._configurations = [(recovered.applied_index, recovered.conf_state)]
        self._snapshot_count = snapshot_count
        self._catchup = catchup
        self._max_wals = max_wals
        self._out_of_space = out_of_space
        self._watch = watch
        self._syncs, self._writes = syncs, writes
        self._syncing = syncing
        syncing(0)
        self._unwritten: HardState | None = None
        self._preparer: SyncThread | None = None
        self._preparing = 0
        self.wal.outgrows = True
        self._pending: deque[tuple[int, Sequence[AfterAppend]]] = deque()
        self.syncer: SyncThread | None = None
        first, last = self.storage.first_index(), self.storage.last_index()
        self._note_appended(
            self.storage.entries(first, last + 1, NO_LIMIT) if last >= first else ()
        )
        while self.conf_indexes and self.conf_indexes[0] <= recovered.applied_index:
            self.conf_indexes.popleft()

    # --- writing ----------------------------------------------------------------------------------

    def write(self, entries: Sequence[Entry], hard_state: HardState | None, *, now: bool) -> None:
        """Write entries and the hard state as one record. A commit index alone waits for the next.

        `now` says that entries, term or vote are among it. Waits for space on a full disk.
        """
        if hard_state is not None:
            self._unwritten = hard_state
            self.storage.set_hard_state(hard_state)
        if not now:
            return
        failpoints.hit("raftBeforeSave")
        while True:
            try:
                self.wal.append(entries, self._unwritten)
                break
            except WalSpaceError as error:
                self._out_of_space(str(error))
                time.sleep(SPACE_RETRY_SECONDS)
        self._writes.observe(self.wal.write_ns)
        self._unwritten = None
        self._out_of_space("")
        if entries:
            if entries[0].index <= self.storage.last_index():
                self._forget_from(entries[0].index)
            self.storage.append(entries)
            self._note_appended(entries)

    def _forget_from(self, index: int) -> None:
        """Entries from an index on are void: a new leader has others."""
        last = self.storage.last_index()
        void = self.storage.entries(max(index, self.storage.first_index()), last + 1, NO_LIMIT)
        self.memory_bytes -= sum(len(entry.data) for entry in void)
        while self.conf_indexes and self.conf_indexes[-1] >= index:
            self.conf_indexes.pop()

    def _note_appended(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.memory_bytes += len(entry.data)
            if entry.type != EntryType.NORMAL:
                self.conf_indexes.append(entry.index)

    def install(self, snapshot: Snapshot) -> None:
        """Record a snapshot whose file is complete and durable; the log goes on after it."""
        metadata = snapshot.metadata
        failpoints.hit("raftBeforeSaveSnap")
        while True:
            try:
                self.wal.save_snapshot(metadata)
                break
            except WalSpaceError as error:
                self._out_of_space(str(error))
                time.sleep(SPACE_RETRY_SECONDS)
        self._out_of_space("")
        failpoints.hit("raftAfterSaveSnap")
        failpoints.hit("raftBeforeApplySnap")
        self.storage.apply_snapshot(snapshot)
        failpoints.hit("raftAfterApplySnap")
        self.snapshot_index = metadata.index
        self.memory_bytes = 0
        self.conf_indexes.clear()
        self._configurations = [(metadata.index, metadata.conf_state)]

    def prepare(self) -> None:
        """Have some of the next segment made ready on a thread: no put and no heartbeat waits."""
        if self.wal.prepared:
            return
        if self._preparer is None:
            self._preparer = SyncThread(self._prepare_some, "log-prepare")
        done, _ = self._preparer.outcome()
        if done == self._preparing:
            self._preparing = self._preparer.submit()

    def _prepare_some(self) -> None:
        with suppress(WalSpaceError):  # the append that needs the space says so
            for _ in range(PREPARE_SLICES):
                if self.wal.prepare_slice(PREPARE_BYTES):
                    return

    # --- syncing ----------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether nothing waits for a sync."""
        return not self._pending

    def sync(self) -> None:
        """Sync here and now."""
        failpoints.hit("walBeforeSync")
        started = time.monotonic_ns()
        self.wal.sync()
        self.sync_ns = time.monotonic_ns() - started
        self._syncs.observe(self.sync_ns)
        failpoints.hit("walAfterSync")
        failpoints.hit("raftAfterSave")

    def sync_behind(self, responses: Sequence[AfterAppend]) -> None:
        """Sync on the other thread; `responses` come out of `durable` after that."""
        failpoints.hit("walBeforeSync")
        if self.syncer is None:
            self.syncer = SyncThread(self.wal.sync, "log-sync")
            self._watch(self.syncer.descriptor)
        if not self._pending:
            self._syncing(time.monotonic_ns())
        self._pending.append((self.syncer.submit(), responses))

    def wait_in_line(self, responses: Sequence[AfterAppend]) -> None:
        """Let `responses` come out behind everything that waits already."""
        self._pending.append((self._pending[-1][0], responses))

    def synced(self) -> list[AfterAppend]:
        """Return what may leave now that the sync thread has finished something."""
        assert self.syncer is not None, "nobody syncs"
        done, self.sync_ns = self.syncer.outcome()
        self._syncs.observe(self.sync_ns)
        failpoints.hit("walAfterSync")
        failpoints.hit("raftAfterSave")
        leaving: list[AfterAppend] = []
        while self._pending and self._pending[0][0] <= done:
            leaving += self._pending.popleft()[1]
        self._syncing(time.monotonic_ns() if self._pending else 0)
        return leaving

    # --- cutting ----------------------------------------------------------------------------------

    def conf_applied(self, index: int, conf_state: ConfState) -> None:
        """Note the configuration in force from an applied index on."""
        self._configurations.append((index, conf_state))

    def cover(
        self, durable: Durable, requests: int, kept_from: Callable[[int], float] = lambda _: inf
    ) -> bool:
        """Record that the database holds an index durably, and let go of needless log.

        `requests` is how many were applied here, ever, whoever proposed them. Does nothing before
        snapshot-count more of them (or much memory); True if it did something. `kept_from(bytes)`
        tells behind which index the log is still needed by others, see raft_transfers.py.
        """
        full = self.memory_bytes > MEMORY_BYTES_MAX
        index = durable.applied_index
        if index <= self.snapshot_index:
            return False
        if requests - self._covered_requests < self._snapshot_count and not full:
            return False
        place = bisect_right(self._configurations, index, key=lambda known: known[0]) - 1
        self._configurations = self._configurations[place:]
        conf_state = self._configurations[0][1]
        try:
            metadata = SnapshotMetadata(index, self.storage.term(index), conf_state)
            # A slow disk syncs the record with the next entries: heartbeats would wait for it.
            self.wal.save_snapshot(metadata, now=self.sync_ns < FAST_SYNC_NS)
        except WalSpaceError:
            return False
        self._covered_requests = requests
        self.storage.create_snapshot(index, conf_state)
        self.snapshot_index = index
        keep_from = index - self._catchup
        if full:
            keep_from = max(keep_from, self._before_tail(index))
        self._compact(int(min(keep_from, kept_from(self.memory_bytes))))
        return True

    def _before_tail(self, index: int) -> int:
        """Return what must go, up to `index` at most, so that TAIL_BYTES are left in memory."""
        first = self.storage.first_index()
        place, excess = first - 1, self.memory_bytes - TAIL_BYTES
        for entry in self.storage.entries(first, index + 1, NO_LIMIT):
            if excess <= 0:
                break
            place, excess = entry.index, excess - len(entry.data)
        return place

    def _compact(self, keep_from: int) -> None:
        first = self.storage.first_index()
        if keep_from >= first:
            for entry in self.storage.entries(first, keep_from + 1, NO_LIMIT):
                self.memory_bytes -= len(entry.data)
            self.storage.compact(keep_from)
        with suppress(WalSpaceError):  # a released segment gets another name, which may need room
            self.wal.release(self.storage.first_index() - 1, self._max_wals)
        failpoints.hit("raftAfterWALRelease")

    def close(self) -> None:
        """End the threads and close the files."""
        for thread in (self.syncer, self._preparer):
            if thread is not None:
                thread.close()
        self.wal.close()
