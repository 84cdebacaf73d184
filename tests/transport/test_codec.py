"""Messages as bytes, and who may send to whom."""

from __future__ import annotations

import pytest

from actors.messages import Applied, Apply, Propose
from actors.wire import NEIGHBOURS, WIRE, codec, neighbours
from raft.message import message
from transport.codec import Codec, UnknownTagError


@message
class Old:
    a: int


@message
class New:
    a: int
    b: int = 7


def test_every_message_of_the_table_comes_back_as_it_was() -> None:
    for sent in (
        Propose(2**63, 1, 2, b"batch"),
        Apply(4, 5, [1, 1], [0, 2], [b"a", b""]),
        Applied(9, 4, [[1, 2, [3, [4, b"x"], -5, None]]]),
    ):
        assert codec.decode(codec.encode(sent)) == sent


def test_an_older_reader_ignores_what_it_does_not_know() -> None:
    assert Codec({1: Old}).decode(Codec({1: New}).encode(New(1, 2))) == Old(1)


def test_a_newer_reader_fills_in_what_is_missing() -> None:
    assert Codec({1: New}).decode(Codec({1: Old}).encode(Old(1))) == New(1, 7)


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(UnknownTagError):
        Codec({1: Old}).decode(Codec({2: Old}).encode(Old(1)))


def test_links_are_symmetric() -> None:
    for kind, others in NEIGHBOURS.items():
        for other in others:
            assert kind in NEIGHBOURS[other], (kind, other)


def test_a_gateway_is_a_neighbour_by_its_kind() -> None:
    names = ("root", "transport", "applier", "raft-node", "lessor", "gateway-0", "gateway-1")

    assert neighbours("gateway-1", names) == ["applier", "raft-node", "lessor"]
    assert neighbours("applier", names) == ["raft-node", "lessor", "gateway-0", "gateway-1"]


def test_tags_leave_room_for_local_messages() -> None:
    assert max(WIRE) < 250
