"""Known good and known bad histories, and random ones that both methods must judge alike."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

import pytest

from tests.sim.linearizability import Method, check
from tests.sim.model import (
    KV,
    Answer,
    Body,
    Changes,
    Compare,
    Delete,
    Deleted,
    Put,
    Putted,
    Range,
    Ranged,
    Request,
    Txn,
    Txned,
    apply,
)
from tests.sim.verdict import Operation

METHODS: list[Method] = ["revisions", "search"]
both = pytest.mark.parametrize("method", METHODS)


def op(
    client: int,
    times: tuple[float, float | None],
    request: Request,
    revision: int = 0,
    body: Body | None = None,
) -> Operation:
    answer = None if body is None else Answer(revision, body)
    return Operation(client, times[0], request, times[1], answer)


def put(client: int, times: tuple[float, float | None], value: bytes, revision: int) -> Operation:
    return op(client, times, Put(b"k", value), revision, Putted())


def lost(client: int, called: float, value: bytes) -> Operation:
    return op(client, (called, None), Put(b"k", value))


def get(client: int, times: tuple[float, float], revision: int, *kvs: KV) -> Operation:
    return op(client, times, Range(b"k"), revision, Ranged(kvs))


def kv(value: bytes, create: int, mod: int, version: int) -> KV:
    return KV(b"k", value, create, mod, version)


@both
def test_a_read_sees_the_write_before_it(method: Method) -> None:
    history = [put(1, (0, 1), b"a", 2), get(2, (2, 3), 2, kv(b"a", 2, 2, 1))]

    assert check(history, method=method)


@both
def test_a_stale_read_is_refused(method: Method) -> None:
    history = [
        put(1, (0, 1), b"a", 2),
        put(1, (2, 3), b"b", 3),
        get(2, (4, 5), 2, kv(b"a", 2, 2, 1)),
    ]

    verdict = check(history, method=method)

    assert not verdict
    assert "client 2 [4.000000, 5.000000]" in verdict.text


@both
def test_a_read_concurrent_with_a_write_may_see_either_state(method: Method) -> None:
    before = get(2, (1, 4), 1)
    after = get(2, (1, 4), 2, kv(b"a", 2, 2, 1))

    assert check([put(1, (0, 5), b"a", 2), before], method=method)
    assert check([put(1, (0, 5), b"a", 2), after], method=method)


@both
def test_two_reads_must_not_go_back_in_time(method: Method) -> None:
    write = put(1, (0, 9), b"a", 2)
    new, old = get(2, (1, 2), 2, kv(b"a", 2, 2, 1)), get(3, (3, 4), 1)

    assert check([write, new], method=method)
    assert not check([write, new, old], method=method)


@both
def test_a_lost_acknowledged_write_is_refused(method: Method) -> None:
    history = [put(1, (0, 1), b"a", 2), get(2, (2, 3), 1)]

    assert not check(history, method=method)


@both
def test_a_write_of_unknown_outcome_may_have_happened_or_not(method: Method) -> None:
    happened = [lost(1, 0, b"a"), get(2, (2, 3), 2, kv(b"a", 2, 2, 1))]
    never = [lost(1, 0, b"a"), get(2, (2, 3), 1)]
    late = [lost(1, 0, b"a"), get(2, (2, 3), 1), get(2, (4, 5), 2, kv(b"a", 2, 2, 1))]

    assert check(happened, method=method)
    assert check(never, method=method)
    assert check(late, method=method)


@both
def test_a_write_of_unknown_outcome_happens_once(method: Method) -> None:
    history = [lost(1, 0, b"a"), put(2, (1, 2), b"b", 3), get(2, (3, 4), 4, kv(b"a", 2, 4, 3))]

    assert not check(history, method=method)
    assert check([lost(3, 0, b"x"), *history], method=method)


@both
def test_a_write_is_not_seen_before_its_call(method: Method) -> None:
    history = [get(2, (0, 1), 2, kv(b"a", 2, 2, 1)), lost(1, 5, b"a")]

    assert not check(history, method=method)


@both
def test_a_write_applied_twice_is_refused(method: Method) -> None:
    history = [put(1, (0, 1), b"a", 2), get(2, (2, 3), 3, kv(b"a", 2, 3, 2))]

    assert not check(history, method=method)


@both
def test_two_transactions_can_not_both_win(method: Method) -> None:
    free = Compare("version", b"k", "=", 0)
    first = Txn((free,), (Put(b"k", b"1"),))
    second = Txn((free,), (Put(b"k", b"2"),))
    won = Txned(True, (Putted(),))

    good = [op(1, (0, 5), first, 2, won), op(2, (0, 5), second, 2, Txned(False))]
    bad = [op(1, (0, 5), first, 2, won), op(2, (0, 5), second, 3, won)]

    assert check(good, method=method)
    assert not check(bad, method=method)


@both
def test_a_range_is_one_moment_for_all_its_keys(method: Method) -> None:
    one = op(1, (0, 1), Put(b"a", b"1"), 2, Putted())
    two = op(1, (2, 3), Put(b"b", b"1"), 3, Putted())
    torn = op(2, (0, 9), Range(b"a", b"c"), 3, Ranged((KV(b"b", b"1", 3, 3, 1),)))

    assert not check([one, two, torn], method=method)


@both
def test_a_delete_tells_how_many_keys_there_were(method: Method) -> None:
    puts = [put(1, (0, 1), b"a", 2)]
    right = op(1, (2, 3), Delete(b"k", prev=True), 3, Deleted(1, (kv(b"a", 2, 2, 1),)))
    none = op(1, (2, 3), Delete(b"k"), 2, Deleted(0))

    assert check([*puts, right, get(2, (4, 5), 3)], method=method)
    assert not check([*puts, none], method=method)


def test_two_writes_of_one_revision_are_named() -> None:
    verdict = check([put(1, (0, 1), b"a", 2), put(2, (0, 1), b"b", 2)])

    assert "two writes made revision 2" in verdict.text


def test_a_serializable_read_may_be_old_but_not_wrong() -> None:
    history = [put(1, (0, 1), b"a", 2), put(1, (2, 3), b"b", 3)]
    old = replace(get(2, (4, 5), 2, kv(b"a", 2, 2, 1)), serializable=True)
    wrong = replace(get(2, (4, 5), 2, kv(b"b", 2, 2, 1)), serializable=True)
    future = replace(get(2, (0, 1), 3, kv(b"b", 2, 3, 2)), serializable=True)

    assert check([*history, old])
    assert not check([*history, wrong])
    assert not check([*history, future])


def test_a_history_may_begin_with_keys() -> None:
    start = {b"k": kv(b"a", 7, 7, 1)}

    assert check([get(1, (0, 1), 9, start[b"k"])], revision=9, keys=start)
    assert not check([get(1, (0, 1), 9)], revision=9, keys=start)


def test_without_revisions_each_key_is_searched_alone() -> None:
    history = [
        Operation(1, 0, Put(b"a", b"1"), 1, Answer(0, Putted())),
        Operation(1, 2, Put(b"b", b"2"), 3, Answer(0, Putted())),
        Operation(2, 4, Range(b"a"), 5, Answer(0, Ranged((KV(b"a", b"1", 0, 0, 1),)))),
    ]
    stale = Operation(2, 6, Range(b"b"), 7, Answer(0, Ranged()))

    assert check(history)
    assert not check([*history, stale])


def test_a_return_before_the_call_is_no_history() -> None:
    with pytest.raises(ValueError, match="not an operation"):
        check([put(1, (1, 0), b"a", 2)])


# --- random histories -----------------------------------------------------------------------------


def random_request(chance: random.Random, number: int) -> Request:
    key = b"k%d" % chance.randrange(8)
    value = b"%d" % number
    dice = chance.random()
    if dice < 0.35:
        return Put(key, value, prev=chance.random() < 0.3)
    if dice < 0.6:
        return Range(key)
    if dice < 0.7:
        return Range(b"k", b"l")
    if dice < 0.8:
        return Delete(key, prev=chance.random() < 0.5)
    target: Literal["version", "mod"] = chance.choice(["version", "mod"])
    compare = Compare(target, key, chance.choice(["=", ">", "<", "!="]), chance.randrange(4))
    return Txn((compare,), (Put(key, value),), (Range(key),))


def random_history(seed: int, count: int, clients: int, unknown: float) -> list[Operation]:
    """Run requests one after the other, each at a random moment between its call and return."""
    chance = random.Random(seed)
    free = [0.0] * clients
    planned: list[tuple[float, Operation]] = []
    for number in range(count):
        client = min(range(clients), key=free.__getitem__)
        called = free[client] + chance.random()
        happens = called + chance.random()
        returned = happens + chance.random()
        free[client] = returned
        operation = Operation(client, called, random_request(chance, number), returned)
        if chance.random() < unknown:
            operation.returned = None
            free[client] = called + 1
            happens += chance.choice([0, 0, 5, float("inf")])
        planned.append((happens, operation))
    revision, keys = 1, dict[bytes, KV]()
    for happens, operation in sorted(planned, key=lambda item: item[0]):
        if happens == float("inf"):
            continue
        answer, changes = apply(revision, keys, operation.request)
        revision = answer.revision
        update(keys, changes)
        if operation.returned is not None:
            operation.answer = answer
    return [operation for _, operation in planned]


def update(keys: dict[bytes, KV], changes: Changes) -> None:
    for key, found in changes.items():
        if found is None:
            keys.pop(key, None)
        else:
            keys[key] = found


@both
@pytest.mark.parametrize("seed", range(20))
def test_what_happened_in_some_order_is_linearizable(seed: int, method: Method) -> None:
    verdict = check(random_history(seed, 150, 4, 0.08), method=method)

    assert verdict, verdict.text


@pytest.mark.parametrize("seed", range(60))
def test_both_methods_judge_a_damaged_history_alike(seed: int) -> None:
    history = random_history(seed, 40, 4, 0.1)
    chance = random.Random(seed)
    answered = [o for o in history if o.answer is not None]
    damaged = chance.choice(answered)
    other = chance.choice(answered)
    damaged.answer, other.answer = other.answer, damaged.answer
    if type(damaged.request) is not type(other.request):
        damaged.answer, other.answer = other.answer, damaged.answer
        assert damaged.answer is not None
        damaged.answer = Answer(damaged.answer.revision + 1, damaged.answer.body)

    verdicts = [bool(check(history, method=method)) for method in METHODS]

    assert verdicts[0] == verdicts[1]


@both
def test_ten_thousand_operations_of_eight_clients_take_seconds(method: Method) -> None:
    unknown = 0.02 if method == "revisions" else 0.0

    assert check(random_history(1, 10_000, 8, unknown), method=method)
