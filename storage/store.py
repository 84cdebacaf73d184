"""The state machine's store in SQLite: the only writer of the database.

One transaction per batch of entries: BEGIN IMMEDIATE ... COMMIT. Nothing is held in memory that
grows with the number of keys; opening reads a handful of rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

import apsw
import msgpack

from kv.cluster import Member
from kv.store import HistoryRow, Latest, Progress, State
from raft.state import ConfState
from storage.database import BUSY_MILLISECONDS, PAGE_BYTES
from storage.failures import DISK_ERRORS, is_for_space
from storage.queries import Queries
from storage.schema import signed, unsigned
from storage.sessions import SessionTable

_LOG_HEADER_BYTES: Final = 32  # of the -wal file; before each of its pages stand 24 more
_FRAME_BYTES: Final = 24 + PAGE_BYTES
_INSERT_HISTORY: Final = "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_KEY: Final = "INSERT INTO key VALUES (?, ?, ?, ?, ?)"
_UPSERT_KEY: Final = (
    "INSERT INTO key VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET id = excluded.id, "
    "create_revision = excluded.create_revision, version = excluded.version, lease = excluded.lease"
)
_PROGRESS: Final = (
    "UPDATE progress SET applied_index = ?, applied_term = ?, revision = ?, "
    "compact_revision = ?, hash = ? WHERE one = 1"
)


class SqliteStore(SessionTable):
    """Implements kv.store.Store on the writer's connection."""

    __slots__ = ("_connection", "_frames", "executemany")

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__(connection)
        self._connection = connection
        self.executemany: Callable[..., Any] = connection.executemany
        self._frames = 0
        connection.set_wal_hook(self._committed)

    def _committed(self, connection: apsw.Connection, name: str, frames: int) -> int:
        self._frames = frames
        return apsw.SQLITE_OK

    def total_changes(self) -> int:
        """Return how many rows this connection has changed so far."""
        return self._connection.total_changes()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def abandon(self) -> None:
        """Close the connection to a file that another has replaced: its log need not be copied."""
        self.rollback()
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close()

    # --- transactions -----------------------------------------------------------------------------

    def begin(self) -> None:
        """See Store."""
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """See Store. Raises DiskFullError."""
        self.execute("COMMIT")

    def lacks_space(self, error: Exception) -> bool:
        """Tell whether the last call raised `error` for want of space."""
        return is_for_space(error, self._connection.system_errno)

    def rollback(self) -> None:
        """See Store. Some errors have rolled back already."""
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    # --- the database's own log -------------------------------------------------------------------

    def wal_frames(self) -> int:
        """Return the length of the -wal file in pages, as of the last commit."""
        return self._frames

    def restart_wal(self) -> bool:
        """Have the next commit write to the start of the -wal; False if that can't be done now.

        A reader is in the way then, or the disk has no room for what has to be copied: what no
        checkpoint has copied yet is copied first, so the caller sees to it that it is little
        (RULES C2).
        """
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            return False
        except DISK_ERRORS as error:
            if not self.lacks_space(error):
                raise
            return False
        finally:
            self._connection.set_busy_timeout(BUSY_MILLISECONDS)
        self._frames = 0
        return True

    def keep_room(self, size: int) -> bool:
        """Allocate `size` bytes of the -wal file beyond its last page; tell if they are there.

        Zeros there are to SQLite what pages left from before a restart are: no part of the log. It
        has no locks on this file that closing a second descriptor could drop.
        """
        end = _LOG_HEADER_BYTES + self._frames * _FRAME_BYTES + size
        path = self._connection.filename + "-wal"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(descriptor).st_size < end:
                os.posix_fallocate(descriptor, 0, end)
        except OSError as error:
            if not is_for_space(error):
                raise
            return False
        finally:
            os.close(descriptor)
        return True

    # --- state ------------------------------------------------------------------------------------

    def load(self) -> State:
        """See Store."""
        ((progress),) = self.execute(
            "SELECT applied_index, applied_term, revision, compact_revision, hash FROM progress"
        ).fetchall()
        return State(
            Progress(*progress),
            load_conf_state(self),
            load_cluster_version(self),
            {member.id: member for member in load_members(self)},
            set(load_alarms(self)),
            self.load_sessions(),
        )

    def save_progress(self, progress: Progress) -> None:
        """See Store."""
        self.execute(
            _PROGRESS,
            (
                progress.applied_index,
                progress.applied_term,
                progress.revision,
                progress.compact_revision,
                progress.hash,
            ),
        )

    def write(self, history: list[HistoryRow], latest: dict[bytes, Latest]) -> None:
        """See Store."""
        self.executemany(_INSERT_HISTORY, history)
        self.executemany(_UPSERT_KEY, [(key, *row) for key, row in latest.items()])

    def save_conf_state(self, conf_state: ConfState) -> None:
        """See Store."""
        self.set_meta(
            "conf_state",
            msgpack.packb(
                (
                    conf_state.voters,
                    conf_state.learners,
                    conf_state.voters_outgoing,
                    conf_state.learners_next,
                    conf_state.auto_leave,
                )
            ),
        )

    def save_cluster_version(self, version: str) -> None:
        """See Store."""
        self.set_meta("cluster_version", version)

    def set_meta(self, name: str, value: bytes | str | int) -> None:
        """Set a value of the meta table."""
        self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def save_member(self, member: Member) -> None:
        """See Store."""
        self.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
            (
                signed(member.id),
                member.name,
                msgpack.packb(member.peer_urls),
                msgpack.packb(member.client_urls),
                member.is_learner,
            ),
        )

    def delete_member(self, member_id: int) -> None:
        """See Store."""
        self.execute("DELETE FROM members WHERE id = ?", (signed(member_id),))

    def save_alarms(self, alarms: Iterable[tuple[int, int]]) -> None:
        """See Store."""
        self.execute("DELETE FROM alarms")
        self.executemany(
            "INSERT INTO alarms VALUES (?, ?)", [(signed(m), alarm) for m, alarm in alarms]
        )

    def pruned_to(self) -> int:
        """Return the compact revision up to which history has been pruned; -1 for none."""
        return meta(self, "pruned_to", -1)


def meta(queries: Queries, name: str, default: int) -> int:
    """Return an integer of the meta table."""
    for (value,) in queries.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall():
        number: int = value
        return number
    return default


def load_conf_state(queries: Queries) -> ConfState:
    """Return raft's configuration."""
    statement = "SELECT value FROM meta WHERE name = 'conf_state'"
    for (value,) in queries.execute(statement).fetchall():
        voters, learners, outgoing, following, auto_leave = msgpack.unpackb(value)
        return ConfState(
            tuple(voters), tuple(learners), tuple(outgoing), tuple(following), auto_leave
        )
    return ConfState()


def load_cluster_version(queries: Queries) -> str | None:
    """Return the decided version of the cluster."""
    statement = "SELECT value FROM meta WHERE name = 'cluster_version'"
    for (value,) in queries.execute(statement).fetchall():
        return str(value)
    return None


def load_members(queries: Queries) -> list[Member]:
    """Return the members by id."""
    members = [
        Member(
            unsigned(row),
            name,
            tuple(msgpack.unpackb(peer_urls)),
            tuple(msgpack.unpackb(client_urls)),
            bool(is_learner),
        )
        for row, name, peer_urls, client_urls, is_learner in queries.execute(
            "SELECT id, name, peer_urls, client_urls, is_learner FROM members"
        ).fetchall()
    ]
    return sorted(members, key=lambda member: member.id)


def load_alarms(queries: Queries) -> list[tuple[int, int]]:
    """Return (member id, alarm type) of every raised alarm."""
    rows = queries.execute("SELECT member_id, alarm FROM alarms").fetchall()
    return sorted((unsigned(member_id), alarm) for member_id, alarm in rows)
