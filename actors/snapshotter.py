"""Makes what was applied durable, in the background, so that no put waits for a checkpoint's fsync.

Owns      the checkpoints of the database.
Receives  Committed from the applier: how far the database's own log has grown.
Sends     Durable to the raft node, Checkpointed to the applier.
Crashes   on a message of any other type. Jobs are idempotent: a new one starts over.

The order that counts (RULES A8): the applied index is read first; only a checkpoint that copied
everything after that makes it durable. A busy database is an ordinary answer.
"""

from __future__ import annotations

import time
from typing import Any, Final

from actors.base import Actor, handles, run
from actors.messages import Checkpointed, Committed, Durable
from actors.metrics import Histogram, SnapshotterMetric
from storage.checkpoint import Checkpointer
from storage.database import DiskFullError, exists
from storage.files import scaled
from transport.context import ActorContext
from transport.mailbox import Tick

FRAMES_MAX: Final = scaled(8192)  # 32 MiB of 4 KiB pages
SECONDS_MAX: Final = 2.0
RETRY_SECONDS: Final = 0.2


class Snapshotter(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self._directory = context.data_dir / "member" / "db"
        self._checkpointer: Checkpointer | None = None
        self._latest = Committed(applied_index=0, frames=0)
        self._durable_index = 0
        self._frames_left = 0
        self._next = 0.0
        self._took = Histogram(self.board, self.name, SnapshotterMetric.CHECKPOINT)

    @handles(Committed)
    def committed(self, message: Committed) -> None:
        """Note the growth; a big one starts a checkpoint at the end of the batch."""
        self._latest = message
        if message.frames - self._frames_left >= FRAMES_MAX:
            self.actor_inbox.wake_at(self._next)

    @handles(Tick)
    def tick(self, message: Tick) -> None:
        """Checkpoint when enough has gathered, or when something waits too long."""
        if self._latest.applied_index <= self._durable_index:
            return
        grown = self._latest.frames - self._frames_left >= FRAMES_MAX
        if (grown and message.now >= self._next) or message.now >= self._next + SECONDS_MAX:
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self._checkpointer is None:
            if not exists(self._directory):
                return
            self._checkpointer = Checkpointer(self._directory)
        started = time.monotonic_ns()
        self._next = time.monotonic() + RETRY_SECONDS
        try:
            result = self._checkpointer.run()
        except DiskFullError:
            return  # nothing is durable by it; the applier says that space is missing
        self._took.observe(time.monotonic_ns() - started)
        self.count(SnapshotterMetric.CHECKPOINTS)
        self._frames_left = result.frames_left
        self.send("applier", Checkpointed(result.frames_left))
        if result.durable_index is not None and result.durable_index > self._durable_index:
            self._durable_index = result.durable_index
            self.metric(SnapshotterMetric.DURABLE_INDEX, result.durable_index)
            self.send("raft-node", Durable(result.durable_index, result.durable_term))

    def stats(self) -> dict[str, Any]:
        """Return how far the checkpoints are."""
        return {"durable_index": self._durable_index, "frames_left": self._frames_left}


def main(context: ActorContext) -> None:
    """Run the snapshotter of one member."""
    run(Snapshotter, context)
