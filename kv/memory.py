"""A store in memory: the same interface as the database, for scripts and tests.

Nothing here is clever: it is the measure that the database is compared with.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from kv.cluster import Member
from kv.store import (
    KV,
    SUB_BITS,
    HistoryRow,
    Kept,
    KeptResults,
    Latest,
    Lease,
    Progress,
    Session,
    State,
    row_id,
)
from raft.state import ConfState


@dataclass(slots=True)
class _Data:
    state: State = field(default_factory=State)
    history: dict[int, HistoryRow] = field(default_factory=dict)
    latest: dict[bytes, Latest] = field(default_factory=dict)
    kept: dict[int, dict[int, KeptResults]] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)


class MemoryStore:
    """Implements kv.store.Store. A transaction works on a copy."""

    def __init__(self) -> None:
        self._committed = _Data()
        self._data = self._committed

    # --- transactions -----------------------------------------------------------------------------

    def load(self) -> State:
        """See Store."""
        return copy.deepcopy(self._committed.state)

    def begin(self) -> None:
        """See Store."""
        assert self._data is self._committed, "a transaction is open"
        self._data = copy.deepcopy(self._committed)

    def commit(self) -> None:
        """See Store."""
        assert self._data is not self._committed, "no transaction is open"
        self._committed = self._data

    def rollback(self) -> None:
        """See Store."""
        self._data = self._committed

    # --- reads ------------------------------------------------------------------------------------

    def get(self, key: bytes, revision: int = 0) -> KV | None:
        """See Reads."""
        if key not in self._data.latest:
            return None
        row = self._data.latest[key][0]
        while revision and row >= row_id(revision + 1):
            row = self._data.history[row][2]
        found = self._data.history.get(row)
        if found is None or found[4] == 0:
            return None
        _, _, _, create_revision, version, lease, value = found
        return key, value, create_revision, row >> SUB_BITS, version, lease

    def scan(
        self, key: bytes, end: bytes | None, revision: int = 0, limit: int = 0
    ) -> Sequence[KV]:
        """See Reads."""
        keys = sorted(self._data.latest)
        last = len(keys) if end is None else bisect_left(keys, end)
        found = (self.get(k, revision) for k in keys[bisect_left(keys, key) : last])
        kvs = [kv for kv in found if kv is not None]
        return kvs[:limit] if limit else kvs

    def count(self, key: bytes, end: bytes | None, revision: int = 0) -> int:
        """See Reads."""
        return len(self.scan(key, end, revision))

    def latest(self, keys: Collection[bytes]) -> dict[bytes, Latest]:
        """See Store."""
        return {key: self._data.latest[key] for key in keys if key in self._data.latest}

    # --- writes -----------------------------------------------------------------------------------

    def write(self, history: list[HistoryRow], latest: dict[bytes, Latest]) -> None:
        """See Store."""
        for row in history:
            assert row[0] > max(self._data.history, default=0), "row ids ascend"
            self._data.history[row[0]] = row
        self._data.latest.update(latest)

    def save_progress(self, progress: Progress) -> None:
        """See Store."""
        self._data.state.progress = copy.copy(progress)

    def save_conf_state(self, conf_state: ConfState) -> None:
        """See Store."""
        self._data.state.conf_state = conf_state

    def save_cluster_version(self, version: str) -> None:
        """See Store."""
        self._data.state.cluster_version = version

    def save_member(self, member: Member) -> None:
        """See Store."""
        self._data.state.members[member.id] = member

    def delete_member(self, member_id: int) -> None:
        """See Store."""
        self._data.state.members.pop(member_id, None)

    def save_alarms(self, alarms: Iterable[tuple[int, int]]) -> None:
        """See Store."""
        self._data.state.alarms = set(alarms)

    def lease(self, lease_id: int) -> Lease | None:
        """See Store."""
        return self._data.leases.get(lease_id)

    def lease_keys(self, lease_id: int) -> Sequence[bytes]:
        """See Store."""
        latest = self._data.latest
        return sorted(key for key, row in latest.items() if row[2] and row[3] == lease_id)

    def save_lease(self, lease: Lease) -> None:
        """See Store."""
        self._data.leases[lease.id] = lease

    def delete_lease(self, lease_id: int) -> None:
        """See Store."""
        self._data.leases.pop(lease_id, None)

    def save_session(self, session: Session) -> None:
        """See Store."""
        self._data.state.sessions[session.id] = copy.copy(session)
        kept = self._data.kept.setdefault(session.id, {})
        for first_id, runs in list(kept.items()):
            last_id = max(first + len(results) - 1 for first, results in runs)
            if session.closed or last_id < session.mark:
                del kept[first_id]

    def delete_session(self, session_id: int) -> None:
        """See Store."""
        self._data.state.sessions.pop(session_id, None)
        self._data.kept.pop(session_id, None)

    def keep_results(self, session: Session, results: KeptResults) -> None:
        """See Store."""
        self.save_session(session)
        first_id = min(first for first, _ in results)
        self._data.kept[session.id][first_id] = copy.deepcopy(results)

    def results(self, session_id: int, first_id: int, last_id: int) -> dict[int, Kept]:
        """See Store."""
        return {
            request_id: result
            for runs in self._data.kept.get(session_id, {}).values()
            for run_first, results in runs
            for request_id, result in enumerate(results, run_first)
            if first_id <= request_id <= last_id
        }

    # --- pruning ----------------------------------------------------------------------------------

    def prune(self) -> None:
        """Remove all history that the compact revision makes needless, at once."""
        data = self._data
        compact = data.state.progress.compact_revision
        bound = row_id(compact + 1)
        for row in [row for row in data.history if row < bound]:
            _, key, previous, _, version, _, _ = data.history[row]
            data.history.pop(previous, None)
            if version == 0 and row < row_id(compact):
                del data.history[row]
                if data.latest.get(key, (0,))[0] == row:
                    del data.latest[key]
