"""Taps: what they let through, what they hide, and that they never cost more than they may."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors import tap as taps_module
from actors.messages import Applied, Apply, Propose, ReadIndex
from actors.tap import TAP_BYTES, TAP_MESSAGES, TAPS_MAX, Taps, described
from etcdpb import rpc_pb2 as pb
from kv.batch import Op, encode_batch

PUT = pb.PutRequest(key=b"colour", value=b"pa55word").SerializeToString()


class Hook:
    """What a tap hangs on."""

    on_sent: Any = None


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
def taps(hook: Hook) -> Taps:
    return Taps(hook, 1)


def offer(taps: Taps, body: Any, peer: str = "gateway-0", size: int = 10) -> None:
    if taps.open:
        taps.received(peer, body, 1, 5, 6, size, 7)


def test_a_tap_sees_both_directions_in_order(taps: Taps, hook: Hook) -> None:
    number = taps.start({})["tap"]

    offer(taps, ReadIndex("gateway-0", 4))
    hook.on_sent("applier", Apply(1, 2, [3], [0], [b"x"]), 1, 9, 8, 20)
    seen = taps.read({"tap": number})["messages"]

    assert [(one["direction"], one["peer"], one["type"]) for one in seen] == [
        ("in", "gateway-0", "ReadIndex"),
        ("out", "applier", "Apply"),
    ]
    assert seen[0]["fields"] == {"gateway": "gateway-0", "id": 4, "operations": 0}
    assert taps.read({"tap": number})["messages"] == []


def test_without_a_tap_nothing_hangs_on_the_links(taps: Taps, hook: Hook) -> None:
    assert (taps.open, hook.on_sent) == (False, None)
    number = taps.start({})["tap"]
    assert taps.open
    assert hook.on_sent is not None

    taps.stop({"tap": number})

    assert (taps.open, hook.on_sent) == (False, None)


def test_types_and_peers_are_let_through_by_name(taps: Taps) -> None:
    typed = taps.start({"types": ["Propose"]})["tap"]
    one = taps.start({"from": ["gateway-1"]})["tap"]

    offer(taps, ReadIndex("gateway-0", 4))
    offer(taps, Propose(1, 2, 3, b""), "gateway-1")

    assert [m["type"] for m in taps.read({"tap": typed})["messages"]] == ["Propose"]
    assert [m["peer"] for m in taps.read({"tap": one})["messages"]] == ["gateway-1"]


def test_a_tap_nobody_reads_ends_by_itself(
    taps: Taps, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = taps.start({})["tap"]
    monkeypatch.setattr(taps_module, "UNREAD_SECONDS", -1.0)

    offer(taps, ReadIndex("gateway-0", 4))

    assert (taps.open, hook.on_sent) == (False, None)
    assert "error" in taps.read({"tap": number})


def test_what_does_not_fit_is_counted(taps: Taps) -> None:
    number = taps.start({})["tap"]

    for _ in range(TAP_MESSAGES + 3):
        offer(taps, ReadIndex("gateway-0", 4))

    assert taps.read({"tap": number})["dropped"] == 3


def test_a_tap_holds_a_bounded_number_of_bytes(taps: Taps) -> None:
    number = taps.start({})["tap"]

    for _ in range(3):
        offer(taps, Propose(1, 2, 3, b""), size=TAP_BYTES // 2)
    first = taps.read({"tap": number})
    offer(taps, Propose(1, 2, 3, b""), size=TAP_BYTES // 2)

    assert (len(first["messages"]), first["dropped"]) == (2, 1)
    assert len(taps.read({"tap": number})["messages"]) == 1


def test_there_are_only_so_many_taps(taps: Taps) -> None:
    for _ in range(TAPS_MAX):
        assert "tap" in taps.start({})

    assert "error" in taps.start({})


@pytest.mark.parametrize(
    "body",
    [
        Propose(1, 2, 1, encode_batch(1, 1, 2, bytes([Op.PUT]), [PUT])),
        Apply(1, 2, [3], [0], [PUT]),
        Applied(1, 2, [[1, 2, [[3, b"pa55word"]]]]),
        ReadIndex("x" * 3, 4),
    ],
)
def test_values_are_told_by_their_length(body: Any) -> None:
    assert "pa55word" not in json.dumps(described(body))


def test_values_are_shown_to_who_asks_for_them() -> None:
    batch = encode_batch(1, 1, 2, bytes([Op.PUT]), [PUT])

    found = described(Propose(1, 2, 1, batch), values=True)

    assert found["batch"]["requests"] == ['put key: "colour" value: "pa55word"']


def test_requests_that_may_hold_secrets_are_never_shown() -> None:
    secret = bytes([max(Op) + 1, Op.MEMBER_ATTRIBUTES])
    batch = encode_batch(1, 1, 2, secret, [b"pa55word", b"token"])

    shown = json.dumps(described(Apply(1, 2, [3], [0], [batch]), values=True))

    assert "pa55word" not in shown
    assert "token" not in shown
    assert "<8 bytes>" in shown


def test_answers_are_not_shown_even_to_who_asks() -> None:
    body = Applied(1, 2, [[1, 2, [[3, b"token"]]]])

    assert "token" not in json.dumps(described(body, values=True))
