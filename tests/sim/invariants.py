"""What must hold at any time, whatever the world does.

Election safety, leader append-only, log matching, leader completeness and state-machine safety
are figure 3 of the Raft paper. Besides: votes and acknowledgements that left are kept across
crashes; the same index gives the same hash; the same row of history is the same everywhere; no
value that a client put once is put twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kv.store import SUB_BITS, HistoryRow
from raft.messages import Message, MsgAppResp, MsgStorageAppend, MsgVoteResp
from raft.roles import LEADER
from raft.state import Entry
from raft.storage import MemoryStorage
from tests.sim.world import InvariantBrokenError, World

if TYPE_CHECKING:
    from storage.wal import Wal
    from tests.sim.member import Member
    from tests.sim.node import SimRaftNode


def require(holds: bool, text: str) -> None:
    """Raise InvariantBrokenError unless something holds."""
    if not holds:
        raise InvariantBrokenError(text)


class Invariants:
    """Checks during a run. Everything here is what an observer of all members would know."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._leaders: dict[int, int] = {}
        self._entries: dict[tuple[int, int], tuple[int, bytes, int | None]] = {}
        self._committed: dict[int, tuple[int, bytes]] = {}
        """What any member has applied: (term, data) by index."""
        self._committed_in: dict[int, int] = {}
        """The lowest term in which a node was known to hold an index committed."""
        self._states: dict[int, tuple[int, int, int]] = {}
        self._rows: dict[int, tuple[bytes, bytes, int, int]] = {}
        self._values: dict[bytes, int] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._acks: dict[int, dict[int, int]] = {}
        self._leading: dict[int, tuple[int, int, int, int]] = {}
        self._known: dict[int, int] = {}
        self._looked: dict[int, int] = {}
        self._applied_index = 0
        self._asked: dict[int, list[tuple[int, int]]] = {}
        self.elections = 0
        self.last_index = 0

    # --- the raft node ----------------------------------------------------------------------------

    def raft_turn(self, member: Member) -> None:
        """A turn of a raft node is over."""
        actor = member.node
        if actor is None:
            return
        raft = actor.core.raft
        log = raft.log
        require(
            log.applied <= log.applying <= log.committed <= log.last_index(),
            f"{member}: {log.applied} <= {log.applying} <= {log.committed} <= {log.last_index()}",
        )
        for index in range(self._known.get(member.id, 0) + 1, log.committed + 1):
            known = self._committed_in.get(index)
            if known is None or raft.term < known:
                self._committed_in[index] = raft.term
        self._known[member.id] = max(self._known.get(member.id, 0), log.committed)
        self.last_index = max(self.last_index, log.committed)
        if raft.state is LEADER:
            self._leader(member, raft)
        else:
            self._leading.pop(member.id, None)

    def _leader(self, member: Member, raft: Any) -> None:
        log, term = raft.log, raft.term
        who = self._leaders.setdefault(term, member.id)
        require(who == member.id, f"election safety: m{who} and {member} lead term {term}")
        before = self._leading.get(member.id)
        if before is None or before[0] != term:
            self.elections += 1
            self._world.trace(f"{member} leads term {term}, log ends at {log.last_index()}")
            self._world.point("leader elected", member)
            self._completeness(member, raft)
        else:
            _, last, last_term, committed = before
            own = log.committed in (committed, 0) or (
                log.committed < log.first_index() or log.term(log.committed) == term
            )
            require(own, f"{member}@{term} committed {log.committed} of an earlier term by itself")
            same = log.last_index() >= last and (
                last < log.first_index() or log.term(last) == last_term
            )
            require(same, f"leader append-only: {member}@{term} lost its entry {last}")
        self._leading[member.id] = term, log.last_index(), log.last_term(), log.committed

    def _completeness(self, member: Member, raft: Any) -> None:
        """Leader completeness, at the moment of the election."""
        log = raft.log
        for index, term in self._committed_in.items():
            if term >= raft.term:
                continue
            text = f"leader completeness: {member}@{raft.term} lacks {index}, committed in {term}"
            require(index <= log.last_index(), text)
            applied = self._committed.get(index)
            if applied is not None and index >= log.first_index():
                require(log.term(index) == applied[0], text)

    def writing(self, member: Member, actor: SimRaftNode, order: MsgStorageAppend) -> None:
        """Entries and hard state are about to be written. Log matching is checked here."""
        previous: int | None = None
        if order.entries:
            storage = actor._log.storage
            before = order.entries[0].index - 1
            if storage.first_index() - 1 <= before <= storage.last_index():
                previous = storage.term(before)
            acks = self._acks.get(member.id, {})
            for index in [index for index in acks if index > before]:
                del acks[index]
        for entry in order.entries:
            self._entry(member, entry, previous)
            previous = entry.term

    def _entry(self, member: Member, entry: Entry, previous: int | None) -> None:
        key = entry.index, entry.term
        known = self._entries.get(key)
        if known is None:
            self._entries[key] = entry.type, entry.data, previous
            return
        same = known[:2] == (entry.type, entry.data)
        linked = known[2] is None or previous is None or known[2] == previous
        require(same and linked, f"log matching: {entry.index}@{entry.term} differs on {member}")

    def sending(self, member: Member, actor: SimRaftNode, message: Message) -> None:
        """A message is about to leave: what it promises must be kept."""
        if isinstance(message, MsgVoteResp) and not message.reject:
            key = member.id, message.term
            to = self._votes.setdefault(key, message.to)
            text = f"double vote: {member} voted for m{to} and m{message.to} in {message.term}"
            require(to == message.to, text)
        elif isinstance(message, MsgAppResp) and not message.reject:
            storage = actor._log.storage
            index = message.index
            require(index <= storage.last_index(), f"{member} acknowledged {index} unwritten")
            if index >= storage.first_index() - 1:
                self._acks.setdefault(member.id, {})[index] = storage.term(index)

    def recovered(self, member: Member, storage: MemoryStorage, wal: Wal) -> None:
        """A raft node has read its log: nothing it promised may be missing."""
        hard_state, _ = storage.initial_state()
        for (voter, term), to in self._votes.items():
            if voter == member.id and term >= hard_state.term:
                kept = (hard_state.term, hard_state.vote) == (term, to)
                require(kept, f"{member} forgot its vote for m{to} in {term}: {hard_state}")
        acks = self._acks.get(member.id, {})
        for index, term in acks.items():
            text = f"{member} acknowledged {index}@{term}, its log ends at {storage.last_index()}"
            require(index <= storage.last_index(), text)
            if index >= storage.first_index() - 1:
                require(storage.term(index) >= term, text)
        self._leading.pop(member.id, None)

    # --- the applier ------------------------------------------------------------------------------

    def applied(self, member: Member) -> None:
        """A turn of an applier is over."""
        database = member.database
        state = database.store.committed.state
        progress = state.progress
        index = progress.applied_index
        self._applied_index = max(self._applied_index, index)
        now = progress.applied_term, progress.hash, progress.revision
        known = self._states.setdefault(index, now)
        text = f"state machine: at {index} {member} has (term, hash, revision) {now}, not {known}"
        require(known == now, text)
        actor = member.node
        if actor is None:
            return
        storage = actor._log.storage
        first = max(self._looked.get(member.id, 0) + 1, storage.first_index())
        for place in range(first, min(index, storage.last_index()) + 1):
            (entry,) = storage.entries(place, place + 1, 1)
            fact = entry.term, entry.data
            applied = self._committed.setdefault(place, fact)
            text = f"state machine safety: {member} applied {fact} at {place}, another {applied}"
            require(applied == fact, text)
        self._looked[member.id] = max(self._looked.get(member.id, 0), index)

    # --- reads ------------------------------------------------------------------------------------

    def asks(self, gateway: int, read_id: int) -> None:
        """A gateway asks for a read index: it must cover whatever anybody has applied by now."""
        self._asked.setdefault(gateway, []).append((read_id, self._applied_index))

    def confirmed(self, gateway: int, read_id: int, index: int) -> None:
        """A gateway has got a read index for everything up to `read_id`."""
        asked = self._asked.get(gateway, [])
        theirs = bool(asked) and asked[0][0] <= read_id and all(i != read_id for i, _ in asked)
        require(
            not theirs, f"read {read_id} of the predecessor of session {gateway:x} confirms its own"
        )
        needed = 0
        while asked and asked[0][0] <= read_id:
            needed = asked.pop(0)[1]
        text = (
            f"stale read index: {index} for a read of session {gateway:x} that began after {needed}"
        )
        require(index >= needed, text)

    def reads_at_once(self, member: Member) -> None:
        """A gateway reads without an index, as that of the only voter may."""
        index = member.database.store.committed.state.progress.applied_index
        text = f"stale read: the only voter {member} has {index}, others {self._applied_index}"
        require(index >= self._applied_index, text)

    # --- history ----------------------------------------------------------------------------------

    def rows(self, history: list[HistoryRow]) -> None:
        """Rows of history are written somewhere: the same rows everywhere, each value once."""
        for row, key, _, create_revision, version, _, value in history:
            fact = key, value, create_revision, version
            known = self._rows.setdefault(row, fact)
            text = f"history: revision {row >> SUB_BITS} is {fact} here and {known} elsewhere"
            require(known == fact, text)
            if value:
                first = self._values.setdefault(value, row)
                text = f"exactly once: {value[:20]!r} put at {first >> SUB_BITS}"
                require(first == row, f"{text} and at {row >> SUB_BITS}")

    def put_at(self, value: bytes) -> int:
        """Return the revision that put a value, 0 if nothing did."""
        return self._values.get(value, 0) >> SUB_BITS
