"""What the services of the client API ask of the gateway they run in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from api.grpc import Call
from api.header import HeaderWriter
from etcdpb.rpc_pb2 import RangeRequest, TxnRequest
from kv.cluster import Member
from kv.store import Lease


class View(Protocol):
    """One read transaction: everything asked of it is of the same moment."""

    applied_index: int
    revision: int
    compact_revision: int

    def range(self, request: RangeRequest) -> bytes:
        """Return a RangeResponse without header; raises EtcdError."""

    def txn(self, request: TxnRequest) -> bytes:
        """Return the TxnResponse of a read-only txn, without header; raises EtcdError."""

    def members(self) -> list[Member]:
        """Return the members of the cluster, by id."""

    def cluster_version(self) -> str | None:
        """Return the decided cluster version; None while undecided."""

    def alarms(self) -> list[tuple[int, int]]:
        """Return (member id, alarm type) of every raised alarm."""

    def lease(self, lease_id: int) -> Lease | None:
        """Return a lease, or None."""

    def lease_keys(self, lease_id: int) -> list[bytes]:
        """Return the keys attached to a lease, in their order."""

    def lease_ids(self) -> list[int]:
        """Return the ids of all leases in the order they were granted."""


class Scan(Protocol):
    """A range too big for one turn of the event loop; its own read transaction."""

    revision: int

    def step(self) -> bool:
        """Work about a millisecond; True when done. Raises EtcdError."""

    def body(self) -> list[bytes]:
        """Return the pieces of the RangeResponse, without header."""

    def chunks(self) -> Iterator[bytes]:
        """Return serialised RangeResponse pieces for a stream, ready so far."""

    def close(self) -> None:
        """End the read transaction."""


Serve = Callable[[Any, Call], None]


class Backend(Protocol):
    """The gateway, as its services see it."""

    header: HeaderWriter

    def propose(self, op: int, request: bytes, answer: Any) -> None:
        """Put a request into the log; `answer` is a Call or has `answered`, `fail`, `closed`."""

    def read(self, call: Call, serve: Serve, *, serializable: bool) -> None:
        """Call `serve(view, call)` once a view is fresh enough; EtcdError answers the call."""

    def scan(self, call: Call, request: RangeRequest, *, serializable: bool, stream: bool) -> None:
        """Answer a big range in slices of the event loop."""

    def scan_txn(self, call: Call, request: TxnRequest, *, serializable: bool) -> None:
        """Answer a read-only txn over ranges in slices of the event loop."""

    def hash_kv(
        self, call: Call, revision: int, finished: Callable[[int, int, int, int], None]
    ) -> None:
        """Hash the history; `finished(revision, hash, compact_revision, hash_revision)`."""

    def when_pruned(self, revision: int, call: Call, done: Callable[[], None]) -> None:
        """Call `done` once history up to `revision` is gone from disk, unless the call is over."""

    def lease_expiries(self) -> Mapping[int, int]:
        """Return when leases expire, in ns, by id; empty on a member that does not lead."""

    def ask_lessor(self, kind: int, lease: int, answer: Any, token: Any = None) -> None:
        """Renew a lease (kind 1) or ask what is left of it (2), without the log.

        `answer` has `closed`, `told(token, seconds)` (-1: there is no such lease),
        `refused(token, status)` and `settle()`, called after all that came together.
        """

    def move_leader(self, call: Call, target: int) -> None:
        """Hand leadership to the voter `target`; the call is answered when it has it."""

    def status(self) -> MemberStatus:
        """Return what this member knows of itself, without asking anyone."""


class MemberStatus(Protocol):
    """The member, as its shared counters tell."""

    @property
    def member_id(self) -> int:
        """The member's own id."""

    @property
    def leader(self) -> int:
        """The leader's id; 0 when there is none."""

    @property
    def term(self) -> int:
        """The raft term."""

    @property
    def committed_index(self) -> int:
        """The committed index."""

    @property
    def applied_index(self) -> int:
        """The applied index, as a hint."""

    @property
    def revision(self) -> int:
        """The store's revision, as a hint."""

    @property
    def db_bytes(self) -> int:
        """Size of the database."""

    @property
    def db_in_use_bytes(self) -> int:
        """Size of the database that holds data."""

    @property
    def quota_bytes(self) -> int:
        """The space quota."""

    @property
    def is_learner(self) -> bool:
        """Whether the member is a learner."""

    @property
    def is_leader(self) -> bool:
        """Whether the member leads."""
