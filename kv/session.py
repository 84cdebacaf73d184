"""Exactly once: sessions, numbered requests and a mark below which everything is answered (RIFL).

Rules, for every batch, a retry or not, since a retry may be ordered before the first copy:
1. The session is not open: every request is dropped, "session closed".
2. A request below the mark is dropped: it was answered, nobody waits.
3. A request above the highest seen in the session is new. This is the hot path: one comparison
   for a whole batch.
4. Any other is looked up: its first result again, or, if there is none, it is new.

Results are kept per transaction and session, in the transaction that gave them, at least until the
mark passes them; of a big one only where to find it again (recall.py). Opening a session closes
every earlier one of the same member and slot for ever, the removal of a member all of its; the last
few closed ones are remembered, so that a late copy of their opening opens nothing.
"""

from __future__ import annotations

from typing import Final

from kv.batch import Batch
from kv.errors import SESSION_CLOSED
from kv.store import Kept, KeptResults, Session, Store

CLOSED_KEPT: Final = 8
CLOSED: Final = -SESSION_CLOSED.number


class Sessions:
    """The sessions of a store, and what the open transaction changes of them."""

    __slots__ = ("_changed", "_sessions", "_store")

    def __init__(self, store: Store, sessions: dict[int, Session]) -> None:
        self._store = store
        self._sessions = sessions
        self._changed: dict[int, KeptResults] = {}

    def get(self, session_id: int) -> Session | None:
        """Return an open session."""
        session = self._sessions.get(session_id)
        return None if session is None or session.closed else session

    def open(self, session_id: int, member_id: int, slot: int) -> bool:
        """Open a session, closing those before it; False if it has been closed already."""
        known = self._sessions.get(session_id)
        if known is not None:
            return not known.closed
        earlier = [
            session
            for session in self._sessions.values()
            if session.member_id == member_id and session.slot == slot
        ]
        for session in earlier[: max(0, len(earlier) - CLOSED_KEPT)]:
            self._forget(session.id)
        for session in earlier:
            self._close(session)
        session = self._sessions[session_id] = Session(session_id, member_id, slot)
        self._store.save_session(session)
        return True

    def close_member(self, member_id: int) -> None:
        """Close the sessions of a removed member.

        They are remembered like others: copies of an opening and of what came after it may still be
        under way, or in the log behind the removal.
        """
        for session in self._sessions.values():
            if session.member_id == member_id:
                self._close(session)

    def _close(self, session: Session) -> None:
        if not session.closed:
            session.closed = True
            self._changed[session.id] = []

    def _forget(self, session_id: int) -> None:
        del self._sessions[session_id]
        self._changed.pop(session_id, None)
        self._store.delete_session(session_id)

    def move_mark(self, session: Session, mark: int) -> None:
        """Everything below `mark` has been answered."""
        if mark > session.mark:
            session.mark = mark
            self._changed.setdefault(session.id, [])

    def seen(self, session: Session, batch: Batch) -> dict[int, Kept | None]:
        """Return the answers of the requests that must not be carried out (None: dropped)."""
        first, last = batch.first_id, batch.first_id + len(batch.requests) - 1
        answers: dict[int, Kept | None] = dict(
            self._store.results(session.id, first, min(last, session.highest))
        )
        for run_first, results in self._changed.get(session.id, ()):
            for request_id, result in enumerate(results, run_first):
                if first <= request_id <= last:
                    answers[request_id] = result
        for request_id in range(first, min(last + 1, session.mark)):
            answers[request_id] = None
        return answers

    def keep(self, session: Session, first_id: int, results: list[Kept]) -> None:
        """Keep results of requests just carried out."""
        session.highest = max(session.highest, first_id + len(results) - 1)
        changed = self._changed.get(session.id)
        if changed is None:
            self._changed[session.id] = [(first_id, results)]
        else:
            changed.append((first_id, results))

    def flush(self) -> None:
        """Write what the transaction changed."""
        for session_id, runs in self._changed.items():
            session = self._sessions[session_id]
            runs = [run for run in runs if run[0] + len(run[1]) > session.mark]
            if runs and not session.closed:
                self._store.keep_results(session, runs)
            else:
                self._store.save_session(session)
        self._changed = {}
