"""The sync thread: in order, many at a time, errors on the owner's thread."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable

import pytest

from actors.raft_sync import SyncThread
from storage.wal_errors import WalSyncError


class Disk:
    """Syncs when it is let."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.syncs = 0
        self.error: WalSyncError | None = None

    def sync(self) -> None:
        """Wait for the gate, then succeed or fail."""
        self.gate.acquire()
        self.syncs += 1
        if self.error is not None:
            raise self.error


def wait_for(thread: SyncThread, done: Callable[[int], bool]) -> int:
    """Wait on the eventfd until the outcome satisfies `done`."""
    while True:
        number, _ = thread.outcome()
        if done(number):
            return number
        readable, _, _ = select.select([thread.descriptor], [], [], 10)
        assert readable, "the sync thread says nothing"


def test_submissions_that_wait_share_one_sync() -> None:
    disk = Disk()
    thread = SyncThread(disk.sync, "log-sync")
    assert thread.submit() == 1
    disk.gate.release()
    wait_for(thread, lambda number: number == 1)
    for _ in range(5):
        thread.submit()
    for _ in range(5):
        disk.gate.release()
    wait_for(thread, lambda number: number == 6)

    assert disk.syncs <= 3
    thread.close()


def test_nothing_is_done_before_its_sync() -> None:
    disk = Disk()
    thread = SyncThread(disk.sync, "log-sync")
    thread.submit()

    assert thread.outcome()[0] == 0
    disk.gate.release()
    thread.close()


def test_an_error_of_the_disk_is_raised_where_the_outcome_is_asked() -> None:
    disk = Disk()
    disk.error = WalSyncError("gone")
    thread = SyncThread(disk.sync, "log-sync")
    thread.submit()
    disk.gate.release()
    select.select([thread.descriptor], [], [], 10)

    with pytest.raises(WalSyncError):
        thread.outcome()
    thread.close()
