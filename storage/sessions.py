"""Sessions in the database, and the results kept for them.

A transaction writes one row for each session it has results of: the results, and how far the
session is. A row whose requests have all been answered is written over by the session's next one,
so that some rows on one page are all there is, whatever comes by. Only rows that are big or many
are deleted.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import apsw
import msgpack

from kv.store import Kept, KeptResults, Session
from storage.leases import LeaseTable
from storage.queries import Queries
from storage.schema import signed, unsigned

ROWS_KEPT: Final = 8
"""Of a session, if none of them is asked for any more."""
ROW_BYTES_KEPT: Final = 4096

_UPSERT: Final = (
    "INSERT INTO sessions (id, member_id, slot, mark, highest, closed) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET "
    "mark = excluded.mark, highest = excluded.highest, closed = excluded.closed"
)
_KEEP: Final = "INSERT OR REPLACE INTO session_results VALUES (?, ?, ?, ?, ?, ?)"


class SessionTable(LeaseTable):
    """The part of kv.store.Store that is about sessions.

    Invariants: `_rows` has (highest request, number, bytes) of every row, by session, in the order
    they were written; up to `_numbers`, a row number is there or in `_free`.
    """

    __slots__ = ("_free", "_numbers", "_rows")

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__(connection)
        self._rows: dict[int, deque[tuple[int, int, int]]] = {}
        self._free: list[int] = []
        self._numbers = 0

    def load_sessions(self) -> dict[int, Session]:
        """Return all sessions in the order they were opened; forget what was rolled back."""
        sessions = {
            unsigned(row): Session(
                unsigned(row), unsigned(member_id), slot, mark, highest, bool(closed)
            )
            for row, member_id, slot, mark, highest, closed in self.execute(
                "SELECT id, member_id, slot, mark, highest, closed FROM sessions ORDER BY place"
            ).fetchall()
        }
        self._rows = {}
        numbers: set[int] = set()
        for number, name, mark, last_id, size in self.execute(
            "SELECT number, session, mark, last_id, length(results) FROM session_results "
            "ORDER BY last_id"
        ).fetchall():
            session = sessions[unsigned(name)]
            session.mark = max(session.mark, mark)
            session.highest = max(session.highest, last_id)
            self._rows.setdefault(session.id, deque()).append((last_id, number, size))
            numbers.add(number)
        self._numbers = max(numbers, default=0)
        self._free = [number for number in range(1, self._numbers) if number not in numbers]
        return sessions

    def save_session(self, session: Session) -> None:
        """See Store."""
        self.execute(
            _UPSERT,
            (
                signed(session.id),
                signed(session.member_id),
                session.slot,
                session.mark,
                session.highest,
                session.closed,
            ),
        )
        if session.closed:
            self._forget_results(session.id)

    def delete_session(self, session_id: int) -> None:
        """See Store."""
        self.execute("DELETE FROM sessions WHERE id = ?", (signed(session_id),))
        self._forget_results(session_id)

    def keep_results(self, session: Session, results: KeptResults) -> None:
        """See Store."""
        first_id = min(first for first, _ in results)
        last_id = max(first + len(run) - 1 for first, run in results)
        assert last_id >= session.mark, f"{last_id} has been answered, the mark is {session.mark}"
        packed = msgpack.packb(results)
        rows = self._rows.setdefault(session.id, deque())
        if rows and rows[0][0] < session.mark:
            number = rows.popleft()[1]
        elif self._free:
            number = self._free.pop()
        else:
            number = self._numbers = self._numbers + 1
        rows.append((last_id, number, len(packed)))
        self.execute(_KEEP, (number, signed(session.id), session.mark, first_id, last_id, packed))
        while rows[0][0] < session.mark and (len(rows) > ROWS_KEPT or rows[0][2] > ROW_BYTES_KEPT):
            number = rows.popleft()[1]
            self.execute("DELETE FROM session_results WHERE number = ?", (number,))
            self._free.append(number)

    def results(self, session_id: int, first_id: int, last_id: int) -> dict[int, Kept]:
        """See Store."""
        return load_results(self, session_id, first_id, last_id)

    def _forget_results(self, session_id: int) -> None:
        self.execute("DELETE FROM session_results WHERE session = ?", (signed(session_id),))
        self._free += [number for _, number, _ in self._rows.pop(session_id, ())]


def load_results(queries: Queries, session_id: int, first_id: int, last_id: int) -> dict[int, Kept]:
    """Return the kept results of a session with ids in [first_id, last_id].

    Some of them may be below the mark.
    """
    found: dict[int, Kept] = {}
    for (packed,) in queries.execute(
        "SELECT results FROM session_results WHERE session = ? AND first_id <= ? AND last_id >= ?",
        (signed(session_id), last_id, first_id),
    ).fetchall():
        for run_first, results in msgpack.unpackb(packed):
            for request_id, result in enumerate(results, run_first):
                if first_id <= request_id <= last_id:
                    found[request_id] = result if isinstance(result, int) else tuple(result)
    return found
