"""A thread that syncs the log, so that a slow disk holds up no heartbeat (AsyncStorageWrites).

Another of the same kind prepares the log's next segment: there a sync is all that `sync` does. The
raft node appends and submits; the thread makes one fdatasync for everything appended before
it began, and wakes the raft node through an eventfd. An error of the disk is raised where the raft
node looks for the outcome: on its own thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from storage.wal_errors import WalDiskError


class SyncThread:
    """Calls `sync` for submissions, in order, many at a time.

    Invariants: `done` never exceeds what was submitted before the sync that made it so began;
    after an error nothing is synced any more.
    """

    def __init__(self, sync: Callable[[], None], name: str) -> None:
        self._sync = sync
        self._condition = threading.Condition()
        self._submitted = 0
        self._done = 0
        self._took_ns = 0
        self._closing = False
        self._error: WalDiskError | None = None
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when `outcome` has something new to tell."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self) -> int:
        """Have everything appended so far synced; return the submission's number, from 1."""
        with self._condition:
            self._submitted += 1
            self._condition.notify()
            return self._submitted

    def outcome(self) -> tuple[int, int]:
        """Return (last submission that is durable, ns the last sync took); raises its error."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        with self._condition:
            if self._error is not None:
                raise self._error
            return self._done, self._took_ns

    def close(self) -> None:
        """End the thread; a sync under way is waited for."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        os.close(self.descriptor)

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._submitted == self._done and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                target = self._submitted
            started = time.monotonic_ns()
            error: WalDiskError | None = None
            try:
                self._sync()
            except WalDiskError as failed:  # raised again on the raft node's own thread
                error = failed
            with self._condition:
                self._took_ns = time.monotonic_ns() - started
                self._error = error
                if error is None:
                    self._done = target
            os.eventfd_write(self.descriptor, 1)
            if error is not None:
                return
