"""What a node wants done next."""

from __future__ import annotations

from dataclasses import dataclass

from raft.messages import Message
from raft.roles import ReadState, SoftState
from raft.state import Entry, HardState, Snapshot


@dataclass(slots=True)
class Ready:
    """To do, in this order: write, then send, then apply; then advance().

    - Write hard_state, snapshot and entries; fsync only if must_sync (a commit index alone may be
      lost). Messages whose class is in messages.AFTER_APPEND leave after that; the others, MsgApp
      above all, may leave before.
    - committed_entries are durable, or are in this very Ready's entries: apply them after the
      write.
    With async_storage_writes messages hold a MsgStorageAppend and a MsgStorageApply that say all
    this by themselves, committed_entries are always durable, and there is no advance(). Orders of
    each kind are carried out in order. A snapshot may overtake entries that wait to be applied:
    those at or below its index are then skipped, but answered.
    """

    soft_state: SoftState | None = None
    """Set if it has changed."""
    hard_state: HardState | None = None
    """Set if it has changed."""
    read_states: tuple[ReadState, ...] = ()
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    committed_entries: tuple[Entry, ...] = ()
    messages: tuple[Message, ...] = ()
    must_sync: bool = False
