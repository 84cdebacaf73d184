"""Recipes: work in several steps for one call, by the KV, Watch and Lease services of this gateway.

A recipe is a generator. It yields one step after the other and is sent what came of it:

  Write   an (operation, request) for the log        -> (revision, body)
  Range   a RangeRequest, linearizable               -> RangeResponse with header
  Wait    for an event of a range from a revision on -> the first one that is wanted
  ROOM    until the caller has read enough           -> None

Rules:
1. An error of a step is raised in the recipe. What leaves the recipe ends the call: etcd runs its
   recipes through a client of its own, so every error reaches the caller as UNKNOWN, with its text.
2. When the caller has gone, CallEndedError is raised in the recipe at its next step that is no
   write, so that it can tidy up by further steps. A write under way is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from api.backend import Backend
from api.grpc import Call
from api.validate import check_txn_request
from api.watch import Hub
from etcdpb.kv_pb2 import Event, KeyValue
from etcdpb.rpc_pb2 import (
    Compare,
    LeaseGrantRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
    WatchResponse,
)
from kv.batch import Op
from kv.errors import Code, EtcdError, Status
from kv.watch import Watcher, watched_range

SESSION_SECONDS: Final = 60  # etcd's TTL of a session whose caller brings no lease
OPS_MAX: Final = 2  # of a branch, more than any recipe has


class CallEndedError(Exception):
    """The caller has gone; raised in a recipe."""


class RecipeError(Exception):
    """A recipe comes to nothing; the text is the answer."""


@dataclass(frozen=True, slots=True)
class Write:
    """Put a request into the log."""

    op: int
    request: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for an event that `wanted` takes; comes to None if the start is compacted."""

    key: bytes
    range_end: bytes
    start: int
    wanted: Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class Room:
    """Wait until the caller has room for more of a stream."""


ROOM: Final = Room()
Step: TypeAlias = Write | RangeRequest | Wait | Room
Recipe: TypeAlias = Generator[Step, Any, None]


class Cook:
    """Carries a recipe out for a call."""

    def __init__(self, backend: Backend, hub: Hub, call: Call, recipe: Recipe) -> None:
        self._backend = backend
        self._hub = hub
        self._call = call
        self._recipe = recipe
        self._under_way: _Answer | _Waiting | None = None
        self._ended = False  # the recipe has been told that the call is over
        call.on_close = self._on_close
        self._advance(lambda: recipe.send(None))

    def _on_close(self) -> None:
        step = self._under_way
        if isinstance(step, _Answer) and step.is_write:
            return
        if step is not None:
            step.drop()
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._advance(lambda: self._recipe.throw(CallEndedError()))

    def _advance(self, go: Callable[[], Step]) -> None:
        self._under_way = None
        try:
            step = go()
        except StopIteration:
            return
        except CallEndedError:
            return
        except EtcdError as error:
            self._call.finish(Code.UNKNOWN, error.status.text)
            return
        except RecipeError as error:
            self._call.finish(Code.UNKNOWN, str(error))
            return
        self._begin(step)

    def _begin(self, step: Step) -> None:
        if self._call.closed and not self._ended and not isinstance(step, Write):
            self._end()
            return
        if isinstance(step, Room):
            self._call.on_drain = self._make_room
            self._make_room()
            return
        if isinstance(step, Wait):
            self._under_way = _Waiting(self, self._hub, step)
            return
        answer = self._under_way = _Answer(self, is_write=isinstance(step, Write))
        if isinstance(step, Write):
            self._backend.propose(step.op, step.request, answer)
        else:
            reader: Any = answer
            self._backend.scan(reader, step, serializable=False, stream=False)

    def came(self, value: Any) -> None:
        """Go on with what a step came to."""
        self._advance(lambda: self._recipe.send(value))

    def _make_room(self) -> None:
        if self._call.writable:
            self._call.on_drain = None
            self.came(None)

    def failed(self, status: Status) -> None:
        """Go on with what a step failed for."""
        self._advance(lambda: self._recipe.throw(EtcdError(status)))


class _Answer:
    """What a write or a read is answered to."""

    def __init__(self, cook: Cook, *, is_write: bool) -> None:
        self._cook = cook
        self.is_write = is_write
        self.closed = False

    def drop(self) -> None:
        """Want no answer any more."""
        self.closed = True

    def take_room(self, size: int) -> bool:
        """See Call: what a recipe reads waits for no client."""
        return True

    def answered(self, revision: int, body: bytes) -> None:
        """Take a write's result."""
        if not self.closed:
            self.closed = True
            self._cook.came((revision, body))

    def reply(self, message: bytes) -> None:
        """Take a read's response."""
        if not self.closed:
            self.closed = True
            self._cook.came(RangeResponse.FromString(message))

    def fail(self, status: Status) -> None:
        """Take a refusal."""
        if not self.closed:
            self.closed = True
            self._cook.failed(status)


class _Waiting:
    """A watcher of the gateway's own; a kv.watch.Sink."""

    def __init__(self, cook: Cook, hub: Hub, wait: Wait) -> None:
        self._cook = cook
        self._hub = hub
        self._wanted = wait.wanted
        self._found: Event | None = None
        interval = watched_range(wait.key, wait.range_end)
        self._watcher = Watcher(self, 0, interval, start=wait.start)
        hub.add(self._watcher)

    def drop(self) -> None:
        """Wait no longer."""
        self._hub.remove(self._watcher)

    def take(self, watcher: Watcher, revision: int, events: list[bytes], size: int) -> bool:
        """See Sink."""
        if self._found is None:
            told = WatchResponse.FromString(b"".join(events)).events
            self._found = next((event for event in told if self._wanted(event)), None)
        return True

    def flush(self) -> None:
        """See Sink."""
        if self._found is not None:
            self.drop()
            self._cook.came(self._found)

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """See Sink."""
        self._cook.came(None)


# --- parts of recipes ---------------------------------------------------------------------------


def prefix_end(prefix: bytes) -> bytes:
    r"""Return the end of the range of all keys with a prefix; b"\0" if it has none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0"


def first_created(prefix: bytes) -> RangeRequest:
    """Return the request for the key with a prefix that was created first."""
    return RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_target=RangeRequest.CREATE,
        sort_order=RangeRequest.ASCEND,
    )


def session(lease: int, new_id: Callable[[], int]) -> Generator[Step, Any, int]:
    """Return the caller's lease, or one of our own."""
    if lease:
        return lease
    request = LeaseGrantRequest(ID=new_id(), TTL=SESSION_SECONDS)
    yield Write(Op.LEASE_GRANT, request.SerializeToString())
    return request.ID


def if_created(
    key: bytes, revision: int, then: list[RequestOp], otherwise: list[RequestOp]
) -> Generator[Step, Any, tuple[int, TxnResponse]]:
    """Do `then` if the key was created at a revision (0: does not exist), else the other.

    Raises EtcdError: a caller's own key may be none.
    """
    request = TxnRequest(success=then, failure=otherwise)
    request.compare.add(
        key=key, target=Compare.CREATE, result=Compare.EQUAL, create_revision=revision
    )
    check_txn_request(request, max_ops=OPS_MAX)
    after, body = yield Write(Op.TXN, request.SerializeToString())
    return after, TxnResponse.FromString(body)


def is_delete(event: Event) -> bool:
    """Whether a key was deleted."""
    return event.type == Event.DELETE


def wait_for_turn(prefix: bytes, revision: int) -> Generator[Step, Any, None]:
    """Wait until no key with the prefix is left that was created before a revision."""
    while True:
        response = yield RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            limit=1,
            sort_target=RangeRequest.CREATE,
            sort_order=RangeRequest.DESCEND,
            max_create_revision=revision - 1,
        )
        if not response.kvs:
            return
        yield Wait(response.kvs[0].key, b"", response.header.revision, is_delete)


def own_key(key: bytes) -> Generator[Step, Any, tuple[int, KeyValue | None]]:
    """Return the store's revision and the pair of a key, None if it is lost."""
    response = yield RangeRequest(key=key)
    return response.header.revision, response.kvs[0] if response.kvs else None
