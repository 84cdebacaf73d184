"""Broken cores: each must be caught, or the simulation proves nothing.

A mutant replaces functions of the real code by name while `planted` lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import actors.raft_log
import kv.apply
import kv.machine
import raft.leader
import raft.log
import raft.raw_node
import raft.step
import raft.tracker
import storage.wal
from actors.early import Early
from actors.raft_node import RaftNode
from actors.reads import Reads
from kv.batch import Batch
from kv.session import Sessions
from kv.store import Session
from raft.messages import MsgStorageAppend, MsgVoteResp
from raft.state import HardState
from tests.sim.member import Member
from tests.sim.node import SimRaftNode
from tests.sim.process import MACHINE

Change = tuple[Any, str, Any]


def commit_without_quorum() -> list[Change]:
    """A leader commits what anybody has."""

    def any_index(incoming: Any, outgoing: Any, acked: Any) -> int:
        return max(acked.values(), default=0)

    return [(raft.tracker, "joint_committed_index", any_index)]


def votes_before_fsync() -> list[Change]:
    """A vote leaves before it is durable."""
    store = SimRaftNode._store

    def hasty(self: Any, order: MsgStorageAppend, *, must_sync: bool) -> None:
        votes = [r for r in order.responses if type(r) is MsgVoteResp and r.to != self._id]
        for vote in votes:
            self._outbox.add(vote)
        self._send_outbox()
        rest = tuple(r for r in order.responses if r not in votes)
        store(self, replace(order, responses=rest), must_sync=must_sync)

    return [(SimRaftNode, "_store", hasty)]


def acknowledgements_before_fsync() -> list[Change]:
    """A follower acknowledges what is written and not synced."""

    def hasty(self: Any, responses: Any) -> None:
        MACHINE.process.actor._let_out(responses)
        original(self, ())

    original = actors.raft_log.RaftLog.sync_behind
    return [(actors.raft_log.RaftLog, "sync_behind", hasty)]


def reads_without_a_round() -> list[Change]:
    """A leader answers ReadIndex without asking whether it still leads."""

    def at_once(r: Any, message: Any) -> None:
        raft.leader.respond_to_read(r, message, r.log.committed)

    return [(raft.leader, "_confirm_read", at_once)]


def requests_vouch_for_everybody() -> list[Change]:
    """A leader takes a follower's request for the word of a quorum, however many that needs."""
    needs_round = raft.leader.needs_round

    def trusting(r: Any, message: Any) -> bool:
        return not message.follows and needs_round(r, message)

    return [(raft.leader, "needs_round", trusting), (raft.raw_node, "needs_round", trusting)]


def reads_before_the_first_commit() -> list[Change]:
    """A new leader answers ReadIndex before an entry of its term is committed."""

    def early(r: Any, message: Any) -> None:
        raft.leader._confirm_read(r, message)

    return _handlers(raft.leader.on_read_index, early)


def old_terms_are_committed() -> list[Change]:
    """A leader commits entries of earlier terms by counting."""

    def maybe_commit(self: Any, index: int, term: int) -> bool:
        if index > self.committed:
            self.commit_to(index)
            return True
        return False

    return [(raft.log.RaftLog, "maybe_commit", maybe_commit)]


def no_log_matching() -> list[Change]:
    """A follower takes entries whatever stands before them."""
    maybe_append = raft.log.RaftLog.maybe_append

    def trusting(self: Any, index: int, term: int, entries: Any, commit: int) -> int | None:
        if index <= self.last_index() and index >= self.first_index():
            term = self.term(index)
        return maybe_append(self, index, term, entries, commit)

    return [(raft.log.RaftLog, "maybe_append", trusting)]


def votes_twice() -> list[Change]:
    """A member forgets whom it has voted for."""
    on_vote = raft.step.on_vote

    def forgetful(r: Any, message: Any) -> None:
        r.vote = r.lead = 0
        on_vote(r, message)

    return _handlers(on_vote, forgetful)


def hard_state_is_lost() -> list[Change]:
    """A restarted raft node does not know whom it voted for."""
    recover = Member.recover

    def forgetful(self: Member, resume_at: int) -> Any:
        recovered = recover(self, resume_at)
        hard_state, _ = recovered.storage.initial_state()
        recovered.storage.set_hard_state(HardState(hard_state.term, 0, hard_state.commit))
        return recovered

    return [(Member, "recover", forgetful)]


def applied_before_durable() -> list[Change]:
    """Committed entries are applied while they are not durable here."""
    has_next = raft.log.RaftLog.has_next_committed_entries
    next_entries = raft.log.RaftLog.next_committed_entries
    accept = raft.log.RaftLog.accept_applying

    def accept_unstable(self: Any, index: int, size: int, allow_unstable: bool) -> None:
        accept(self, index, size, True)

    return [
        (raft.log.RaftLog, "has_next_committed_entries", lambda self, _: has_next(self, True)),
        (raft.log.RaftLog, "next_committed_entries", lambda self, _: next_entries(self, True)),
        (raft.log.RaftLog, "accept_applying", accept_unstable),
    ]


def snapshots_recorded_without_sync() -> list[Change]:
    """An installed snapshot is acknowledged before its record is durable."""
    save_snapshot = storage.wal.Wal.save_snapshot

    def unsynced(self: Any, metadata: Any) -> None:
        sync, self.sync = self.sync, lambda: None
        try:
            save_snapshot(self, metadata)
        finally:
            self.sync = sync

    return [(storage.wal.Wal, "save_snapshot", unsynced)]


def copies_are_not_looked_up() -> list[Change]:
    """A request that comes again is carried out again."""
    return [(Sessions, "seen", lambda self, session, batch: {})]


def only_retries_are_looked_up() -> list[Change]:
    """A copy that comes late is looked up only if its gateway still waits for it (RULES A3)."""
    seen = Sessions.seen

    def without_mark(self: Any, session: Session, batch: Batch) -> Any:
        answers = seen(self, session, batch)
        return {request: kept for request, kept in answers.items() if kept is not None}

    return [(Sessions, "seen", without_mark)]


def closed_sessions_are_served() -> list[Change]:
    """Closing a session changes nothing."""

    def get(self: Any, session_id: int) -> Session | None:
        found = self._sessions.get(session_id)
        return found if isinstance(found, Session) else None

    return [(Sessions, "get", get)]


def results_name_the_member() -> list[Change]:
    """What is kept as a result depends on the member that keeps it."""
    delete = kv.apply.apply_delete_range

    def signed(writer: Any, request: Any, tally: Any) -> Any:
        result = delete(writer, request, tally)
        if isinstance(result, int):
            return result
        header = b"\x0a\x02\x10" + bytes([MACHINE.process.member.id])
        return result[0], header + result[1]

    return [(kv.machine, "apply_delete_range", signed)]


def reads_of_the_only_voter_beside_learners() -> list[Change]:
    """The only voter reads its own database, while learners acknowledge writes."""

    original = RaftNode._note_sole_voter

    def note(self: Any) -> None:
        conf_state, self._conf_state = self._conf_state, replace(self._conf_state, learners=())
        try:
            original(self)
        finally:
            self._conf_state = conf_state

    return [(RaftNode, "_note_sole_voter", note)]


def results_are_told_before_their_commit() -> list[Change]:
    """A gateway answers from results whose transaction may yet be rolled back."""
    return [(Early, "add", lambda self, message: self._take(message))]


def read_ids_begin_anew() -> list[Change]:
    """A new gateway's reads have the ids of its predecessor's."""
    begin = Reads.__post_init__

    def anew(self: Reads) -> None:
        begin(self)
        self._next_id = 0

    return [(Reads, "__post_init__", anew)]


MUTANTS: Final[tuple[Callable[[], list[Change]], ...]] = (
    commit_without_quorum,
    votes_before_fsync,
    acknowledgements_before_fsync,
    reads_without_a_round,
    requests_vouch_for_everybody,
    reads_before_the_first_commit,
    old_terms_are_committed,
    no_log_matching,
    votes_twice,
    hard_state_is_lost,
    applied_before_durable,
    snapshots_recorded_without_sync,
    copies_are_not_looked_up,
    only_retries_are_looked_up,
    closed_sessions_are_served,
    results_name_the_member,
    reads_of_the_only_voter_beside_learners,
    results_are_told_before_their_commit,
    read_ids_begin_anew,
)


@contextmanager
def planted(changes: list[Change]) -> Iterator[None]:
    """Have the broken functions in place."""
    before = [(where, name, _get(where, name)) for where, name, _ in changes]
    for where, name, value in changes:
        _set(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            _set(where, name, value)


def _handlers(handler: Any, broken: Any) -> list[Change]:
    """Return the changes that put `broken` wherever raft.step looks `handler` up."""
    tables = [table for table in vars(raft.step).values() if isinstance(table, dict)]
    tables += [inner for table in tables for inner in table.values() if isinstance(inner, dict)]
    return [
        (table, key, broken) for table in tables for key, value in table.items() if value is handler
    ]


def _get(where: Any, name: Any) -> Any:
    return where[name] if isinstance(where, dict) else getattr(where, name)


def _set(where: Any, name: Any, value: Any) -> None:
    if isinstance(where, dict):
        where[name] = value
    else:
        setattr(where, name, value)
