"""What clients saw of a cluster, and the check that it is a linearizable history of one store.

etcd names a revision in every answer, so no search is needed. The check reads the whole store back
as it was at each revision: that is the one true order of all writes, those of unknown fate among
them. Then

1. every revision is the effect of exactly one operation, and every acknowledged write is there, at
   its revision, once;
2. every answer is what the store said at the answer's revision;
3. no operation is ordered before one that had returned when it was called.

Together they are linearizability, and exactly-once, and "no acknowledged write lost". Values are
unique, so that a value names its operation. An operation that failed for certain must have no
effect; one of unknown fate may have one, at any time after its call, at most once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from etcdpb import rpc_pb2 as pb
from tests.client import Answer, Client

EVERYTHING: Final = b"\0"
IN_FLIGHT: Final = 64


class HistoryError(AssertionError):
    """A history no single store can have; the text holds the operation and what contradicts it."""


class Kind(Enum):
    """What an operation does."""

    PUT = "put"
    DELETE = "delete"
    GET = "get"  # linearizable, of one key
    SCAN = "scan"  # linearizable, of all keys
    SWAP = "swap"  # a transaction: put if the key has the mod_revision `compare`, else get


class Outcome(Enum):
    """What the client knows of its operation."""

    OK = "ok"
    FAILED = "failed"  # certainly without effect
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Operation:
    """One attempt of one client at one endpoint; its times are CLOCK_MONOTONIC.

    `revision` is the answer's, `found` the keys it showed, `count` how many a delete deleted,
    `succeeded` whether the comparison of a swap held.
    """

    kind: Kind
    key: bytes
    value: bytes = b""
    compare: int = 0
    endpoint: str = ""
    called: float = 0.0
    returned: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN
    error: str = ""
    revision: int = 0
    count: int = 0
    succeeded: bool = False
    found: dict[bytes, KeyState] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether an answered operation made a revision."""
        return (
            self.kind is Kind.PUT
            or (self.kind is Kind.DELETE and self.count > 0)
            or (self.kind is Kind.SWAP and self.succeeded)
        )

    def request(self) -> pb.PutRequest | pb.DeleteRangeRequest | pb.RangeRequest | pb.TxnRequest:
        """Build the message that carries it out."""
        if self.kind is Kind.PUT:
            return pb.PutRequest(key=self.key, value=self.value)
        if self.kind is Kind.DELETE:
            return pb.DeleteRangeRequest(key=self.key)
        if self.kind is Kind.GET:
            return pb.RangeRequest(key=self.key)
        if self.kind is Kind.SCAN:
            return pb.RangeRequest(key=EVERYTHING, range_end=EVERYTHING)
        return pb.TxnRequest(
            compare=[
                pb.Compare(
                    key=self.key,
                    target=pb.Compare.MOD,
                    result=pb.Compare.EQUAL,
                    mod_revision=self.compare,
                )
            ],
            success=[pb.RequestOp(request_put=pb.PutRequest(key=self.key, value=self.value))],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=self.key))],
        )

    def finish(self, answer: Answer, now: float) -> None:
        """Take the answer in."""
        self.returned = now
        message: Any = answer.message
        if message is None:
            self.outcome = Outcome.FAILED if certainly_failed(answer) else Outcome.UNKNOWN
            self.error = f"{answer.code} {answer.text[:70]}"
            return
        self.outcome, self.revision = Outcome.OK, message.header.revision
        if self.kind is Kind.DELETE:
            self.count = message.deleted
        elif self.kind in (Kind.GET, Kind.SCAN):
            self.found = states(message.kvs)
        elif self.kind is Kind.SWAP:
            self.succeeded = message.succeeded
            if not message.succeeded:
                self.found = states(message.responses[0].response_range.kvs)

    def __str__(self) -> str:
        what = f"{self.kind.value} {self.key.decode()}"
        if self.value:
            what += f"={self.value.decode()}"
        if self.kind is Kind.SWAP:
            what += f" if mod_revision={self.compare} ({'then' if self.succeeded else 'else'})"
        return (
            f"{what} at {self.endpoint} [{self.called:.4f}, {self.returned:.4f}] "
            f"{self.outcome.value} {self.error or f'revision {self.revision}'}"
        )


@dataclass(frozen=True, slots=True)
class KeyState:
    """What the store holds of a key."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int


State = Mapping[bytes, KeyState]  # the whole store at one revision
Judge = Callable[[int, State, list[Operation]], object]  # true if the history is linearizable


def states(kvs: Iterable[Any]) -> dict[bytes, KeyState]:
    """Return KeyValues by key."""
    return {
        kv.key: KeyState(kv.value, kv.create_revision, kv.mod_revision, kv.version) for kv in kvs
    }


def certainly_failed(answer: Answer) -> bool:
    """Whether an error says that the request was never proposed.

    A lost connection, a timeout or a change of leader says nothing about it.
    """
    return answer.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")


class History:
    """The operations of all clients, and the check of those since the last one.

    Operations of unknown fate stay open for ever: a later round may show their effect.
    """

    def __init__(self, judge: Judge | None = None) -> None:
        """Take another checker to ask as well."""
        self._judge = judge
        self.open: list[Operation] = []  # unknown, and not seen in the store so far
        self.checked = 0
        self.found_unknown = 0  # operations of unknown fate that turned out to have an effect
        self._fresh: list[Operation] = []
        self._lock = threading.Lock()
        self._revision = 0  # of the state the last check ended with
        self._state: State = {}
        self._floor = 0  # the greatest revision answered before the operations to check

    def add(self, operation: Operation) -> None:
        """Take a finished operation (an OK, failed or unknown one); any thread may."""
        with self._lock:
            self._fresh.append(operation)

    def begin(self, client: Client) -> None:
        """Take the store's present state as the first one; nobody writes meanwhile."""
        self._revision, self._state = read_state(client, 0)
        self._floor = self._revision

    def check(self, client: Client) -> int:
        """Check everything since the last check against the store; no client is at work.

        Returns the store's revision. Raises HistoryError.
        """
        with self._lock:
            fresh, self._fresh = self._fresh, []
        last, _ = read_state(client, 0)
        answered = max((each.revision for each in fresh), default=0)
        if last < answered:
            raise HistoryError(f"the store is at revision {last}, an answer said {answered}")
        timeline = [self._state, *read_states(client, self._revision + 1, last)]
        first, state = self._revision, self._state
        made = self.check_against(timeline, fresh)
        if self._judge is not None:
            late = [each for each in made if each.outcome is Outcome.UNKNOWN]
            known = [each for each in fresh if each.outcome is Outcome.OK]
            verdict = self._judge(first, state, known + late)
            if not verdict:
                raise HistoryError(f"the other checker: {verdict}")
        return last

    def check_against(self, timeline: list[State], fresh: list[Operation]) -> list[Operation]:
        """Check operations against the states from the last checked revision on.

        Returns the operations that had an effect, in their order. Raises HistoryError.
        """
        first = self._revision
        candidates = self.open + fresh
        at_revision = explain(first, timeline, candidates)
        check_answers(first, timeline, fresh)
        self._floor = check_order(self._floor, fresh, at_revision)
        effective = {id(each) for each in at_revision.values()}
        self.found_unknown += sum(each.outcome is Outcome.UNKNOWN for each in at_revision.values())
        self.open = [
            each
            for each in candidates
            if each.outcome is Outcome.UNKNOWN
            and id(each) not in effective
            and each.kind not in (Kind.GET, Kind.SCAN)
        ]
        self.checked += len(fresh)
        self._revision, self._state = first + len(timeline) - 1, timeline[-1]
        return list(at_revision.values())


def read_state(client: Client, revision: int) -> tuple[int, State]:
    """Return the store's revision and its keys at a revision (0: now)."""
    request = pb.RangeRequest(key=EVERYTHING, range_end=EVERYTHING, revision=revision)
    response = client.range(request, 30.0)
    return response.header.revision, states(response.kvs)


def read_states(client: Client, first: int, last: int) -> list[State]:
    """Return the store's states at every revision from first to last."""
    found: list[State] = []
    for batch in range(first, last + 1, IN_FLIGHT):
        waiting: list[Callable[[], Answer]] = [
            client.begin(
                pb.RangeRequest(
                    key=EVERYTHING, range_end=EVERYTHING, revision=revision, serializable=True
                ),
                30.0,
            )
            for revision in range(batch, min(batch + IN_FLIGHT, last + 1))
        ]
        for wait in waiting:
            answer = wait()
            message: Any = answer.message
            if message is None:
                raise HistoryError(f"history not readable: {answer}")
            found.append(states(message.kvs))
    return found


def explain(
    first: int, timeline: list[State], operations: Iterable[Operation]
) -> dict[int, Operation]:
    """Return revision -> the operation that made it. Raises HistoryError.

    `timeline[0]` is the state at revision `first`.
    """
    by_value, deletes, acknowledged = _index(operations)
    made: dict[int, Operation] = {}
    for revision, (before, after) in enumerate(itertools.pairwise(timeline), first + 1):
        changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        if len(changed) != 1:
            raise HistoryError(f"revision {revision} changed {changed}")
        key = changed[0]
        operation = acknowledged.pop(revision, None)
        if key in after:
            _check_put(revision, key, before.get(key), after[key])
            author = by_value.pop((key, after[key].value), None)
            if author is None:
                raise HistoryError(f"revision {revision}, {after[key]} of {key!r}: put by nobody")
            if operation is not None and operation is not author:
                raise HistoryError(f"revision {revision} is {author}, answered was {operation}")
            if author.outcome is Outcome.OK and operation is None:
                raise HistoryError(f"revision {revision} is the effect of {author}")
            if author.kind is Kind.SWAP and _mod(before, key) != author.compare:
                raise HistoryError(f"{author} succeeded over {before.get(key)}")
        elif operation is not None:
            if operation.kind is not Kind.DELETE or operation.key != key:
                raise HistoryError(f"revision {revision} deleted {key!r}, but is {operation}")
            author = operation
        else:
            left = deletes.get(key)
            if not left:
                raise HistoryError(f"revision {revision} deleted {key!r}, which nobody asked for")
            author = left.pop(0)
        made[revision] = author
    for revision, operation in acknowledged.items():
        raise HistoryError(f"acknowledged at revision {revision} and lost: {operation}")
    return made


def _index(
    operations: Iterable[Operation],
) -> tuple[
    dict[tuple[bytes, bytes], Operation], dict[bytes, list[Operation]], dict[int, Operation]
]:
    """Return puts by (key, value), unknown deletes by key, acknowledged writes by revision."""
    by_value: dict[tuple[bytes, bytes], Operation] = {}
    deletes: dict[bytes, list[Operation]] = {}
    acknowledged: dict[int, Operation] = {}
    for each in operations:
        if each.outcome is Outcome.FAILED:
            continue
        if each.kind in (Kind.PUT, Kind.SWAP) and (each.outcome is not Outcome.OK or each.writes):
            if (each.key, each.value) in by_value:
                raise AssertionError(f"not a unique value: {each}")
            by_value[each.key, each.value] = each
        if each.kind is Kind.DELETE and each.outcome is Outcome.UNKNOWN:
            deletes.setdefault(each.key, []).append(each)
        if each.outcome is Outcome.OK and each.writes:
            if each.revision in acknowledged:
                raise HistoryError(f"one revision for {each} and {acknowledged[each.revision]}")
            acknowledged[each.revision] = each
    for waiting in deletes.values():
        waiting.sort(key=lambda each: each.called)
    return by_value, deletes, acknowledged


def _mod(state: State, key: bytes) -> int:
    return state[key].mod_revision if key in state else 0


def _check_put(revision: int, key: bytes, before: KeyState | None, after: KeyState) -> None:
    created = before.create_revision if before else revision
    version = before.version + 1 if before else 1
    if after != KeyState(after.value, created, revision, version):
        raise HistoryError(f"revision {revision} made {after} of {before} at {key!r}")


def check_answers(first: int, timeline: list[State], operations: Iterable[Operation]) -> None:
    """Check that answers show the store as it was at their revision. Raises HistoryError."""
    for each in operations:
        if each.outcome is not Outcome.OK:
            continue
        place = each.revision - first
        if not 0 <= place < len(timeline):
            raise HistoryError(f"outside revisions {first}..{first + len(timeline) - 1}: {each}")
        state = timeline[place]
        expected: State | None = None
        if each.kind is Kind.SCAN:
            expected = state
        elif each.kind is Kind.GET or (each.kind is Kind.SWAP and not each.succeeded):
            expected = {each.key: state[each.key]} if each.key in state else {}
        if expected is not None and each.found != expected:
            raise HistoryError(f"{each}\nfound    {each.found}\nexpected {expected}")
        if each.kind is Kind.SWAP and not each.succeeded and _mod(state, each.key) == each.compare:
            raise HistoryError(f"{each} failed over {state.get(each.key)}")
        if each.kind is Kind.DELETE and not each.count and each.key in state:
            raise HistoryError(f"{each} deleted nothing of {state[each.key]}")


def check_order(
    floor: int, operations: Iterable[Operation], at_revision: Mapping[int, Operation]
) -> int:
    """Check that nothing is ordered before what had returned when it was called.

    `floor` is a revision that had been answered before the first of them was called. Returns the
    greatest revision answered. Raises HistoryError.
    """
    answered = [each for each in operations if each.outcome is Outcome.OK]
    late = [
        (each.called, revision, each)
        for revision, each in at_revision.items()
        if each.outcome is Outcome.UNKNOWN
    ]
    calls = sorted(
        [(each.called, each.revision, each) for each in answered] + late, key=lambda row: row[0]
    )
    returns = sorted(answered, key=lambda each: each.returned)
    newest: Operation | str = "what the last check had seen"
    place = 0
    for called, revision, each in calls:
        while place < len(returns) and returns[place].returned < called:
            if returns[place].revision >= floor:
                floor, newest = returns[place].revision, returns[place]
            place += 1
        writes = each.outcome is Outcome.UNKNOWN or each.writes
        if revision <= floor if writes else revision < floor:
            raise HistoryError(f"ordered before revision {floor}:\n{each}\nalthough\n{newest}")
    return max([floor, *(each.revision for each in answered)])
