"""The replicated state machine: entries in, results out.

The result of an entry depends on the store and the entry alone: no clock, no chance, no limits of
this member. Deadlines, quota and overload are decided before an entry is proposed; here only the
log decides. Whatever is not foreseen raises, and the transaction is rolled back: an entry is never
skipped.

Invariants:
- Entries come in order, each once: `index` is the applied index plus one.
- Between `flush` and the next entry the store's transaction holds everything; before it, some is in
  memory only. After a rollback `reload` forgets it.
- The revision grows by one for each request that changes a key, by nothing for any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgpack

from etcdpb.rpc_pb2 import (
    AlarmRequest,
    AlarmType,
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    TxnRequest,
)
from kv.apply import apply_alarm, apply_compact, apply_delete_range, apply_put, takes_space
from kv.batch import Batch, Op, decode_batch
from kv.cluster import MemberChange, change_members
from kv.errors import CORRUPT, MEMBER_NOT_FOUND, NO_SPACE, EtcdError, RevisionOverflowError
from kv.lease_ops import LEASE_OPS, Leases
from kv.recall import BODY_BYTES_MAX, is_recalled, recall
from kv.session import CLOSED, Sessions
from kv.store import REVISION_MAX, SUB_BITS, Kept, Result, Store
from kv.tally import RESPONSE_BYTES_MAX, Tally
from kv.txn import apply_txn
from kv.writer import HistoryWriter
from raft.message import message

if TYPE_CHECKING:
    from kv.cluster import Member
    from kv.lease_ops import LeaseFact
    from kv.store import Session
    from raft.state import ConfState

_KEY_OPS = frozenset((Op.PUT, Op.DELETE_RANGE, Op.TXN, Op.COMPACT))


@message
class Applied:
    """What one entry came to.

    `results` has one element per request of the batch; None is a request that was dropped because
    it is below its session's mark. Revisions in (first_revision, last_revision] are the entry's.
    """

    session: int
    first_id: int
    results: list[Result | None]
    first_revision: int
    last_revision: int


class Machine:
    """Applies entries to a store. See the module docstring."""

    __slots__ = (
        "_alarmed",
        "_begins",
        "_big",
        "_goes_on",
        "_leases",
        "_progress",
        "_sessions",
        "_state",
        "_store",
        "_writer",
        "executed",
        "large_bytes",
    )

    def __init__(
        self,
        store: Store,
        begins: Callable[[bytes], None] | None = None,
        goes_on: Callable[[], None] | None = None,
    ) -> None:
        """`begins(ops)` is told of each batch before it is carried out.

        `goes_on()` is called before each request that may take long: any but a plain put.
        """
        self._begins = begins
        self._goes_on = goes_on
        self.executed = dict.fromkeys((Op.PUT, Op.DELETE_RANGE, Op.TXN), 0)
        """Requests carried out (also in what was rolled back): whoever counts them sets zero."""
        self.large_bytes = 0
        """What the responses of the last entry take that are too big to be kept."""
        self._store = store
        self._big: dict[int, int] = {}
        self.reload()

    def reload(self) -> None:
        """Forget everything since the last commit: the store has been rolled back."""
        self._state = self._store.load()
        self._progress = self._state.progress
        self._writer = HistoryWriter(self._store, self._progress.hash)
        self._leases = Leases(self._store, self._writer)
        self._sessions = Sessions(self._store, self._state.sessions)
        self._alarmed = bool(self._state.alarms)

    @property
    def applied_index(self) -> int:
        """Index of the last entry applied."""
        return self._progress.applied_index

    @property
    def applied_term(self) -> int:
        """Term of the last entry applied."""
        return self._progress.applied_term

    @property
    def revision(self) -> int:
        """Current revision; 1 in an empty store."""
        return self._progress.revision

    @property
    def compact_revision(self) -> int:
        """History below it is forgotten; -1 before the first compaction."""
        return self._progress.compact_revision

    @property
    def hash(self) -> int:
        """CRC-32 over every row ever written to the history, up to the last `flush`."""
        return self._progress.hash

    @property
    def conf_state(self) -> ConfState:
        """Raft's configuration at the applied index."""
        return self._state.conf_state

    @property
    def members(self) -> dict[int, Member]:
        """Members by id."""
        return self._state.members

    @property
    def cluster_version(self) -> str | None:
        """The decided version; None while undecided."""
        return self._state.cluster_version

    def take_lease_facts(self) -> list[LeaseFact]:
        """Return what happened to leases since the last call; to be told after the commit."""
        return self._leases.take_facts()

    # --- entries ----------------------------------------------------------------------------------

    def apply(self, index: int, term: int, data: bytes) -> Applied:
        """Apply one entry; empty data is a leader's no-op. Raises BatchDecodeError."""
        progress = self._progress
        assert index == progress.applied_index + 1, f"{index} after {progress.applied_index}"
        assert term >= progress.applied_term, f"term {term} after {progress.applied_term}"
        progress.applied_index = index
        progress.applied_term = term
        first_revision = progress.revision
        self.large_bytes = 0
        if not data:
            return Applied(0, 0, [], first_revision, first_revision)
        batch = decode_batch(data)
        if self._begins is not None:
            self._begins(batch.ops)
        results = self._results(batch)
        return Applied(batch.session, batch.first_id, results, first_revision, progress.revision)

    def apply_conf_change(
        self, index: int, term: int, conf_state: ConfState, change: MemberChange | None
    ) -> None:
        """Apply a configuration change and what it means for the list of members."""
        progress = self._progress
        assert index == progress.applied_index + 1, f"{index} after {progress.applied_index}"
        progress.applied_index = index
        progress.applied_term = term
        self._state.conf_state = conf_state
        self._store.save_conf_state(conf_state)
        if change is None:
            return
        kind, member = change
        now = change_members(self._state.members, change)
        if now is not None:
            self._store.save_member(now)
        elif kind == "remove":
            self._store.delete_member(member.id)
            self._sessions.close_member(member.id)

    def flush(self) -> None:
        """Bring everything into the store's transaction; commit follows."""
        self._writer.sync()
        self._progress.hash = self._writer.hash
        self._sessions.flush()
        self._store.save_progress(self._progress)

    # --- sessions ---------------------------------------------------------------------------------

    def _results(self, batch: Batch) -> list[Result | None]:
        if batch.session == 0:
            return list(self._execute(batch.ops, batch.requests))
        sessions = self._sessions
        session = sessions.get(batch.session)
        if session is None or (batch.ops and batch.ops[0] == Op.OPEN_SESSION):
            return [self._open_session(batch, i) for i in range(len(batch.requests))]
        if batch.mark > session.mark:
            sessions.move_mark(session, batch.mark)
        if not batch.requests:
            return []
        if batch.first_id > session.highest and batch.first_id >= session.mark:
            results = self._execute(batch.ops, batch.requests)
            sessions.keep(session, batch.first_id, self._kept(results))
            return list(results)
        answers = sessions.seen(session, batch)
        return [
            self._result_again(batch, place, answers[batch.first_id + place])
            if batch.first_id + place in answers
            else self._result_late(session, batch, place)
            for place in range(len(batch.requests))
        ]

    def _result_late(self, session: Session, batch: Batch, place: int) -> Result:
        """Carry out a request that others with higher numbers have overtaken."""
        results = self._execute(batch.ops[place : place + 1], batch.requests[place : place + 1])
        self._sessions.keep(session, batch.first_id + place, self._kept(results))
        return results[0]

    def _result_again(self, batch: Batch, place: int, kept: Kept | None) -> Result | None:
        if kept is None:
            return None
        if is_recalled(kept):
            self._writer.sync()
        compact = self._progress.compact_revision
        return recall(self._store, batch.ops[place], batch.requests[place], kept, compact)

    def _kept(self, results: list[Result]) -> list[Kept]:
        """Return results as they are kept; `_big` says which are too big and where they began."""
        if not self._big:
            return list(results)
        kept: list[Kept] = list(results)
        for place, began in self._big.items():
            result = results[place]
            assert not isinstance(result, int)
            kept[place] = (result[0], began)
        return kept

    def _open_session(self, batch: Batch, place: int) -> Result:
        if batch.ops[place] != Op.OPEN_SESSION:
            return CLOSED
        member_id, slot = msgpack.unpackb(batch.requests[place])[:2]
        opened = self._sessions.open(batch.session, member_id, slot)
        return self._progress.revision if opened else CLOSED

    # --- requests ---------------------------------------------------------------------------------

    def _execute(self, ops: bytes, requests: list[bytes]) -> list[Result]:
        progress = self._progress
        results: list[Result] = []
        for counted in self.executed:
            self.executed[counted] += ops.count(counted)
        self._big = {}
        revision = progress.revision
        if revision + len(requests) > REVISION_MAX:
            raise RevisionOverflowError(f"revision {revision} is the last one")
        parse = PutRequest.FromString
        note = self._writer.changes.append
        noted = self._writer.changes
        for op, data in zip(ops, requests, strict=True):
            if op == Op.PUT and not self._alarmed:
                request = parse(data)
                if not (
                    request.lease or request.prev_kv or request.ignore_value or request.ignore_lease
                ):
                    revision += 1
                    note((revision << SUB_BITS, request.key, request.value, 0))
                    results.append(revision)
                    continue
            progress.revision = revision
            result = self._execute_one(op, data)
            if not isinstance(result, int) and len(result[1]) > BODY_BYTES_MAX:
                self._big[len(results)] = revision
                self.large_bytes += len(result[1])
            results.append(result)
            revision = progress.revision
            if self._writer.changes is not noted:
                noted = self._writer.changes
                note = noted.append
        progress.revision = revision
        return results

    def _execute_one(self, op: int, data: bytes) -> Result:
        if self._goes_on is not None:
            self._goes_on()
        try:
            if op in _KEY_OPS:
                return self._execute_key_op(op, data)
            if op in LEASE_OPS:
                if self._alarmed:
                    self._refuse_alarmed(op, data)
                return self._leases.execute(op, data, self._progress)
            return self._execute_cluster_op(op, data)
        except EtcdError as error:
            return -error.status.number

    def _execute_key_op(self, op: int, data: bytes) -> Result:
        writer, progress = self._writer, self._progress
        if self._alarmed:
            self._refuse_alarmed(op, data)
        if op == Op.COMPACT:
            return apply_compact(progress, CompactionRequest.FromString(data))
        writer.start(progress.revision)
        # Small ones are always answered: not by them does an entry's response get too large.
        tally = Tally(max(BODY_BYTES_MAX, RESPONSE_BYTES_MAX - self.large_bytes))
        result: Result
        if op == Op.PUT:
            result = apply_put(writer, PutRequest.FromString(data), tally)
        elif op == Op.DELETE_RANGE:
            result = apply_delete_range(writer, DeleteRangeRequest.FromString(data), tally)
        else:
            compact = progress.compact_revision
            result = apply_txn(writer, TxnRequest.FromString(data), compact, tally)
        progress.revision = writer.revision
        return result

    def _refuse_alarmed(self, op: int, data: bytes) -> None:
        """Change nothing any more if members are corrupt, add nothing if one has no space."""
        kinds = {kind for _, kind in self._state.alarms}
        if AlarmType.CORRUPT in kinds:
            raise EtcdError(CORRUPT)
        if AlarmType.NOSPACE in kinds and (
            op in (Op.PUT, Op.LEASE_GRANT)
            or (op == Op.TXN and takes_space(TxnRequest.FromString(data)))
        ):
            raise EtcdError(NO_SPACE)

    def _execute_cluster_op(self, op: int, data: bytes) -> Result:
        state, revision = self._state, self._progress.revision
        if op == Op.ALARM:
            result = apply_alarm(state.alarms, revision, AlarmRequest.FromString(data))
            self._store.save_alarms(sorted(state.alarms))
            self._alarmed = bool(state.alarms)
            return result
        if op == Op.CLUSTER_VERSION:
            state.cluster_version = data.decode()
            self._store.save_cluster_version(state.cluster_version)
            return revision
        if op == Op.MEMBER_ATTRIBUTES:
            return self._publish(data)
        raise AssertionError(f"op {op} is unknown: a newer member proposed it")

    def _publish(self, data: bytes) -> Result:
        member_id, name, client_urls = msgpack.unpackb(data)[:3]
        known = self._state.members.get(member_id)
        if known is None:
            raise EtcdError(MEMBER_NOT_FOUND)
        member = type(known)(known.id, name, known.peer_urls, tuple(client_urls), known.is_learner)
        self._state.members[member_id] = member
        self._store.save_member(member)
        return self._progress.revision
