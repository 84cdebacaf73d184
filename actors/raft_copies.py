"""Proposals that the leader's log holds already: it drops them (RULES A3).

A gateway proposes what is unanswered again when a raft node, transport or leader is new, or after
half a second: often the first copy is in the log and merely not applied yet. That costs the log,
the links and the applier a second copy. Exactly once does not depend on this: the applier looks
*every* entry up (kv/session.py), and a copy that was dropped is asked for again until it is
answered, so that a first copy which is never committed does no harm.

Invariants:
- A name that is known is that of an entry above the applied index of this leadership's log: within
  a term a leader only appends, and with another term everything is learnt anew.
- What has no name is never dropped.

The copy would also have shown the applier that the message before it was lost. Whoever drops it
sends the applier something in its place (Feed.remind).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from kv.batch import batch_name
from raft.node import Raft
from raft.size import NO_LIMIT
from raft.state import Entry, EntryType


class Copies:
    """See the module docstring. Knows no clock; for a member that leads."""

    __slots__ = ("_names", "_noted", "_order", "_term", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        """Copies left out, ever."""
        self._term = 0
        self._noted = 0  # the log has been looked at up to this index
        self._names: dict[bytes, int] = {}
        self._order: deque[tuple[int, bytes]] = deque()  # the same by index, ascending

    def __len__(self) -> int:
        return len(self._names)

    def look(self, raft: Raft) -> None:
        """Learn what has been appended; forget what has been applied."""
        log, names, order = raft.log, self._names, self._order
        if raft.term != self._term:
            self._term, self._noted = raft.term, 0
            names.clear()
            order.clear()
        applied, last = log.applied, log.last_index()
        for entry in log.slice(max(self._noted, applied) + 1, last + 1, NO_LIMIT):
            name = _name(entry)
            if name is not None:
                names[name] = entry.index
                order.append((entry.index, name))
        self._noted = last
        while order and order[0][0] <= applied:
            index, name = order.popleft()
            if names[name] == index:  # else there is a later copy
                del names[name]

    def left_out(self, batches: Sequence[bytes]) -> list[bytes]:
        """Return batches without copies of what is in the log, or of each other."""
        seen: set[bytes] = set()
        return [batch for batch in batches if not self._is_copy(batch_name(batch), seen)]

    def left_out_of(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """The same for what another member passes on; changes of the configuration stay."""
        seen: set[bytes] = set()
        return tuple([entry for entry in entries if not self._is_copy(_name(entry), seen)])

    def _is_copy(self, name: bytes | None, seen: set[bytes]) -> bool:
        if name is None:
            return False
        if name in self._names or name in seen:
            self.dropped += 1
            return True
        seen.add(name)
        return False


def _name(entry: Entry) -> bytes | None:
    return batch_name(entry.data) if entry.type == EntryType.NORMAL else None
