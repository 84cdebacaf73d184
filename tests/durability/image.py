"""A member's start on what a power loss has left, in this process, and the check of what it has.

The start is the actors' own: `recover` as the raft node does, then every entry of the log that the
database has not applied goes through the machine in one transaction, as the applier does. (The only
voter commits all that its log holds.) Then `check` compares the database with every acknowledgement
that was on record before the power went.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import apsw

from actors.recovery import Recovered, recover
from kv.cluster import decode_member_change
from kv.machine import Machine
from kv.store import SUB_BITS
from raft.conf_change import decode, next_conf_state
from raft.size import NO_LIMIT
from raft.state import EntryType
from storage.database import DatabaseError, open_or_create
from storage.failures import LogMismatchError
from storage.store import SqliteStore
from storage.wal_errors import WalError
from tests.durability.recorded import belongs
from transport.context import ActorContext
from transport.log import Logger

CONFIG: Final[Mapping[str, Any]] = {
    "name": "m1",
    "wal_dir": "",
    "initial_cluster_token": "etcd-cluster",
    "initial_cluster": {"m1": ["http://127.0.0.1:1"]},
}
START_ERRORS: Final = (
    AssertionError,
    LogMismatchError,
    WalError,
    DatabaseError,
    apsw.Error,
    TypeError,  # of values that a broken database gives for others
    ValueError,
)
Mark: TypeAlias = tuple[str, Any]
Writes: TypeAlias = dict[bytes, bytes | None]
"""Key -> value, None for a deletion."""


class ImageError(AssertionError):
    """A member that starts on this image breaks its word."""


class Truth:
    """What every revision was, from the acknowledgements of a whole life.

    Each write of that life was answered in the end, so this is all there is; an image holds a first
    part of it.
    """

    def __init__(self, marks: Sequence[Mark]) -> None:
        self.writes: dict[int, Writes] = {}
        self._states: dict[int, Writes] = {}
        for label, value in marks:
            if label == "put":
                pairs, revision = value
                assert revision not in self.writes, f"two writes were told revision {revision}"
                self.writes[revision] = dict(zip(pairs[::2], pairs[1::2], strict=True))
            elif label == "delete":
                key, revision = value
                assert revision not in self.writes, f"two writes were told revision {revision}"
                self.writes[revision] = {key: None}
        self.revision = max(self.writes)
        assert sorted(self.writes) == list(range(2, self.revision + 1)), (
            "a revision without a write"
        )
        for label, value in marks:
            if label == "read":
                assert self.writes[value[2]][value[0]] == value[1], "a read shows no write"

    def state_at(self, revision: int) -> Writes:
        """Return the newest value of every key at a revision."""
        if revision not in self._states:
            state: Writes = {}
            for number in range(2, revision + 1):
                state |= self.writes[number]
            self._states[revision] = state
        return self._states[revision]


def revision_of(label: str, value: Any) -> int:
    """Return the revision that an acknowledgement spoke of."""
    found: int = value if label == "compact" else value[-1]
    return found


@dataclass
class States:
    """What was seen at each applied index: (revision, hash) must be the same in all images."""

    seen: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, machine: Machine) -> None:
        """Compare a state with what other images had at the same index. Raises ImageError."""
        state = machine.revision, machine.hash
        known = self.seen.setdefault(machine.applied_index, state)
        if state != known:
            raise ImageError(f"index {machine.applied_index} gives {state}, elsewhere {known}")


def verdict(data_dir: Path, truth: Truth, marks: Sequence[Mark], states: States) -> str:
    """Start on an image and check it; return what is wrong, or nothing."""
    try:
        with _recovered(data_dir) as recovered:
            store = SqliteStore(open_or_create(data_dir / "member" / "db"))
            with closing(store):
                machine = Machine(store)
                states.add(machine)
                _replay(recovered, store, machine)
                states.add(machine)
                check(store, machine, truth, marks)
    except START_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def _recovered(data_dir: Path) -> Iterator[Recovered]:
    # Root makes both folders before anything else.
    (data_dir / "member").mkdir(parents=True, exist_ok=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        context = ActorContext(
            name="raft-node",
            module="actors.raft_node",
            incarnation=1,
            run_dir=data_dir,
            data_dir=data_dir,
            member_name="m1",
            config=CONFIG,
            sockets={},
            lock_fd=-1,
            log_fd=nowhere,
            root_pid=os.getpid(),
        )
        recovered = recover(context, Logger(nowhere, "raft-node"))
    finally:
        os.close(nowhere)
    try:
        yield recovered
    finally:
        recovered.wal.close()


def _replay(recovered: Recovered, store: SqliteStore, machine: Machine) -> None:
    last = recovered.storage.last_index()
    store.begin()
    if machine.applied_index < last:
        for entry in recovered.storage.entries(machine.applied_index + 1, last + 1, NO_LIMIT):
            if entry.type == EntryType.NORMAL:
                machine.apply(entry.index, entry.term, entry.data)
            else:
                change = decode(entry.type, entry.data)
                machine.apply_conf_change(
                    entry.index,
                    entry.term,
                    next_conf_state(machine.conf_state, change),
                    decode_member_change(change.context),
                )
    machine.flush()
    store.commit()


def check(store: SqliteStore, machine: Machine, truth: Truth, marks: Sequence[Mark]) -> None:
    """Hold the database against all that was acknowledged. Raises ImageError."""
    if (found := store.execute("PRAGMA integrity_check").get) != "ok":
        raise ImageError(f"integrity check: {found}")
    compact = machine.compact_revision
    for label, value in marks:
        reached = compact if label == "compact" else machine.revision
        if reached < (promised := revision_of(label, value)):
            raise ImageError(f"{label} acknowledged at {promised}, the database is at {reached}")
    history = _history(store)
    for revision in range(max(compact, 1) + 1, machine.revision + 1):
        if history.pop(revision, {}) != truth.writes[revision]:
            raise ImageError(f"revision {revision} is not what was acknowledged")
    if history and max(history) > compact:
        raise ImageError(f"revision {max(history)} above the current one, {machine.revision}")
    _check_compacted(history, truth, compact)


def _history(store: SqliteStore) -> dict[int, Writes]:
    """Read all rows; each value must be whole and come once, the key table name the newest row."""
    history: dict[int, Writes] = {}
    newest: dict[bytes, int] = {}
    values: set[bytes] = set()
    for row, key, version, value in store.execute(
        "SELECT id, key, version, value FROM history ORDER BY id"
    ).fetchall():
        revision = row >> SUB_BITS
        if version:
            if not belongs(key, value):
                raise ImageError(f"{key!r} at {revision} has a value not its own: {value!r}")
            if value in values:
                raise ImageError(f"a write to {key!r} was applied twice, again at {revision}")
            values.add(value)
        history.setdefault(revision, {})[key] = value if version else None
        newest[key] = row
    if dict(store.execute("SELECT key, id FROM key").fetchall()) != newest:
        raise ImageError("the key table does not name the newest rows")
    return history


def _check_compacted(history: dict[int, Writes], truth: Truth, compact: int) -> None:
    """At the compact revision every key has its value still, and none that was deleted is back."""
    kept: Writes = {}
    for revision in sorted(history):
        for key, value in history[revision].items():
            if truth.writes[revision].get(key, b"") != value:
                raise ImageError(f"{key!r} at {revision} is not what was acknowledged")
            kept[key] = value
    expected = truth.state_at(compact)
    for key in expected.keys() | kept.keys():
        if kept.get(key) != expected.get(key):
            raise ImageError(f"compacted to {compact}, {key!r} is not what was acknowledged")
