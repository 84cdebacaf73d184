"""A database filled through the state machine, for the tests of what reads it."""

from __future__ import annotations

from pathlib import Path

from etcdpb.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest
from tests.kv.driver import SqliteDriver


class Filled(SqliteDriver):
    """Short words for writes; each is a transaction of its own unless it takes many keys."""

    def put(self, *names: str, value: bytes = b"v") -> None:
        """Put keys, one revision each, in one transaction."""
        self.propose(*(PutRequest(key=name.encode(), value=value) for name in names))

    def delete(self, name: str, end: str = "") -> None:
        """Delete a key or a range."""
        self.propose(DeleteRangeRequest(key=name.encode(), range_end=end.encode()))

    def compact(self, revision: int) -> None:
        """Compact, without pruning."""
        self.propose(CompactionRequest(revision=revision))

    def rows(self) -> list[tuple[int, int, str, int]]:
        """Return what is left of the history: revision, place, key, version."""
        return [
            (row >> 24, row & 0xFFFFFF, key.decode(), version)
            for row, key, version in self.store.execute(
                "SELECT id, key, version FROM history ORDER BY id"
            ).fetchall()
        ]


def filled(folder: Path) -> Filled:
    """Return a driver over a new database."""
    return Filled(folder / "db")
