"""Plays one workload against two servers and stops at the first answer that differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from etcdpb import rpc_pb2 as pb
from tests.client import Answer
from tests.differential.ties import settle_ties
from tests.differential.workload import Workload

PROGRESS_EVERY: Final = 5000
HISTORY: Final = 5  # requests shown before the one that differed


class Server(Protocol):
    """What answers: a client of a real member, or a fake."""

    def begin(self, request: Message) -> Callable[[], Answer]: ...

    def range_stream(self, request: pb.RangeRequest) -> Answer: ...


@dataclass(frozen=True)
class Allowed:
    """A difference that is no fault, and why."""

    why: str
    holds: Callable[[Message, Answer, Answer], bool]


@dataclass
class Outcome:
    """What a run did: counts by request type and status, and what was allowed."""

    requests: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    allowed: dict[str, int] = field(default_factory=dict)
    streams: int = 0

    def count(self, request: Message, answer: Answer) -> None:
        self.requests += 1
        status = "OK" if answer.ok else answer.text.partition(":")[2][:40].strip() or answer.code
        kind = f"{type(request).__name__.removesuffix('Request')}: {status}"
        self.kinds[kind] = self.kinds.get(kind, 0) + 1


class DifferenceError(AssertionError):
    """Two servers answered the same request differently."""


def _without_identity(answer: Answer) -> Answer:
    """Take out of the header what differs between clusters; nested headers hold none of it."""
    if answer.message is None:
        return answer
    message = type(answer.message)()
    message.CopyFrom(answer.message)
    header: Any = message.header  # type: ignore[attr-defined]
    header.ClearField("cluster_id")
    header.ClearField("member_id")
    header.ClearField("raft_term")
    return Answer(answer.code, answer.text, message)


def same(a: Answer, b: Answer) -> bool:
    """Whether two answers are equal but for the identity of the cluster, unknown fields too."""
    a, b = _without_identity(a), _without_identity(b)
    if a.message is None or b.message is None:
        return (a.code, a.text, a.message) == (b.code, b.text, b.message)
    return a.message.SerializeToString(deterministic=True) == b.message.SerializeToString(
        deterministic=True
    )


def revision_of(answer: Answer) -> int:
    """Return the revision of an answer's header, 0 for an error."""
    return answer.message.header.revision if answer.message is not None else 0  # type: ignore[attr-defined]


def same_but_for_ties(request: Message, a: Answer, b: Answer) -> bool:
    """Whether two answers differ only in the order of keys that sort alike."""
    return same(settle_ties(request, a), settle_ties(request, b))


def refuses_sort_order(request: Message, a: Answer, b: Answer) -> bool:
    """Whether A refuses a sort order that does not exist, as etcd does from 3.6 on."""
    return (
        isinstance(request, pb.RangeRequest)
        and request.sort_order not in pb.RangeRequest.SortOrder.values()
        and (a.code, a.text) == ("INVALID_ARGUMENT", "etcdserver: invalid sort option")
    )


def same_but_for_lease_order(request: Message, a: Answer, b: Answer) -> bool:
    """Whether two answers about leases differ only in what their clocks say and in order.

    etcd gives the keys of a lease in no order, and leases in the order of their expiry.
    """
    if not isinstance(request, pb.LeaseTimeToLiveRequest | pb.LeaseLeasesRequest):
        return False
    return same(_without_clocks(a), _without_clocks(b))


def _without_clocks(answer: Answer) -> Answer:
    answer = _without_identity(answer)
    message: Any = answer.message
    if isinstance(message, pb.LeaseTimeToLiveResponse):
        message.TTL = min(message.TTL, 0)
        keys = sorted(message.keys)
        del message.keys[:]
        message.keys.extend(keys)
    elif isinstance(message, pb.LeaseLeasesResponse):
        ids = sorted(status.ID for status in message.leases)
        del message.leases[:]
        for lease_id in ids:
            message.leases.add(ID=lease_id)
    return answer


ALLOWED: Final[tuple[Allowed, ...]] = (
    Allowed("3.5.1 takes sort orders that do not exist, later ones refuse", refuses_sort_order),
    Allowed("the order of keys that sort alike is open", same_but_for_ties),
    Allowed("two clocks, and the order of a lease's keys is open", same_but_for_lease_order),
)


def _stream_applies(request: Message) -> bool:
    """Whether RangeStream takes the request: no sorting, no filters."""
    return isinstance(request, pb.RangeRequest) and not (
        request.sort_order
        or request.sort_target
        or request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def check_stream(server: Server, request: pb.RangeRequest, unary: Answer) -> bool:
    """Compare RangeStream with Range of the same member; False if it has none.

    Raises DifferenceError. The header's revision is the one the stream was pinned to.
    """
    streamed = server.range_stream(request)
    if streamed.code == "UNIMPLEMENTED":
        return False
    expected = _without_identity(unary)
    response: Any = streamed.message
    if isinstance(expected.message, pb.RangeResponse) and response is not None:
        response.header.CopyFrom(expected.message.header)
    if not same(streamed, expected):
        raise DifferenceError(f"RangeStream differs from Range\n{_show(request, streamed, unary)}")
    return True


def _show(request: Message, a: Answer, b: Answer) -> str:
    return (
        f"--- request\n{type(request).__name__} {_short(request)}\n"
        f"--- A\n{_short(a)}\n--- B\n{_short(b)}"
    )


def _short(thing: object) -> str:
    text = str(thing)
    return text if len(text) < 4000 else f"{text[:4000]}... ({len(text)} characters)"


def compare(
    a: Server,
    b: Server,
    *,
    seed: int,
    requests: int,
    allowed: Sequence[Allowed] = ALLOWED,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Send the same requests to both, one after the other. Raises DifferenceError."""
    workload = Workload(seed)
    outcome = Outcome()
    recent: list[str] = []
    for step in range(requests):
        request = workload.next()
        pending_a, pending_b = a.begin(request), b.begin(request)
        answer_a, answer_b = pending_a(), pending_b()
        if not same(answer_a, answer_b):
            reason = next((x.why for x in allowed if x.holds(request, answer_a, answer_b)), None)
            if reason is None:
                raise DifferenceError(
                    f"step {step} of seed {seed} differs\n--- before (oldest first)\n"
                    + "\n".join(recent)
                    + f"\n{_show(request, answer_a, answer_b)}"
                )
            outcome.allowed[reason] = outcome.allowed.get(reason, 0) + 1
        elif step % 10 == 0 and isinstance(request, pb.RangeRequest) and _stream_applies(request):
            outcome.streams += check_stream(a, request, answer_a)
        outcome.count(request, answer_b)
        workload.observe(revision_of(answer_b))
        recent = [*recent[-HISTORY + 1 :], f"{type(request).__name__} {_short(request)}"]
        if progress and step % PROGRESS_EVERY == PROGRESS_EVERY - 1:
            progress(step + 1)
    return outcome
