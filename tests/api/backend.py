"""A gateway that is lists: what services asked of it, and calls that keep their outcome."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from api.header import HeaderWriter
from kv.errors import Status

CLUSTER_ID, MEMBER_ID, TERM = 0xCAFE, 0xBEEF, 3


class Caller:
    """A call; `outcomes` holds messages and (code, text) in the order they came."""

    def __init__(self) -> None:
        self.closed = False
        self.reads = True
        self.outcomes: list[Any] = []
        self.on_close: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None

    def take_room(self, size: int) -> bool:
        return self.reads

    def reply(self, message: bytes) -> None:
        if not self.closed:
            self.closed = True
            self.outcomes.append(message)

    def send(self, message: bytes) -> None:
        self.outcomes.append(message)

    def finish(self, code: int = 0, text: str = "") -> None:
        if not self.closed:
            self.closed = True
            self.outcomes.append((code, text))

    def fail(self, status: Status) -> None:
        self.finish(status.code, status.text)


class Backend:
    """Implements api.backend.Backend; reads are served by `view` when `serve` is called."""

    def __init__(self, view: Any = None, status: Any = None) -> None:
        self.header = HeaderWriter(CLUSTER_ID, MEMBER_ID)
        self.header.term = TERM
        self.view = view
        self.member_status = status or SimpleNamespace(is_learner=False)
        self.proposed: list[tuple[int, bytes, Any]] = []
        self.reads: list[tuple[Any, Any, bool]] = []
        self.scans: list[tuple[Any, bool, bool]] = []
        self.hashes: list[tuple[int, Any]] = []
        self.pruning: list[tuple[int, Any, Callable[[], None]]] = []
        self.moves: list[tuple[Any, int]] = []
        self.asked: list[tuple[int, int, Any, Any]] = []
        self.expiries: dict[int, int] = {}

    def propose(self, op: int, request: bytes, answer: Any) -> None:
        self.proposed.append((op, request, answer))

    def read(self, call: Any, serve: Any, *, serializable: bool) -> None:
        self.reads.append((call, serve, serializable))

    def serve(self) -> None:
        """Serve every read asked for whose call is open."""
        for call, serve, _ in self.reads:
            if not call.closed:
                serve(self.view, call)

    def scan(self, call: Any, request: Any, *, serializable: bool, stream: bool) -> None:
        self.scans.append((request, serializable, stream))

    def scan_txn(self, call: Any, request: Any, *, serializable: bool) -> None:
        self.scans.append((request, serializable, False))

    def hash_kv(self, call: Any, revision: int, finished: Any) -> None:
        self.hashes.append((revision, finished))

    def when_pruned(self, revision: int, call: Any, done: Callable[[], None]) -> None:
        self.pruning.append((revision, call, done))

    def lease_expiries(self) -> dict[int, int]:
        return self.expiries

    def ask_lessor(self, kind: int, lease: int, answer: Any, token: Any = None) -> None:
        self.asked.append((kind, lease, answer, token))

    def move_leader(self, call: Any, target: int) -> None:
        self.moves.append((call, target))

    def status(self) -> Any:
        return self.member_status
