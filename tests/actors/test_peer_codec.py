"""raft's messages survive the way to another member."""

from __future__ import annotations

import msgpack
import pytest

from actors.peer_codec import PeerMessageError, decode_peer, encode_peer, lane_of, read_peer
from raft.change import ConfChange, ConfChangeType, encode
from raft.messages import (
    PEER_MESSAGES,
    MsgApp,
    MsgAppResp,
    MsgHeartbeat,
    MsgProp,
    MsgReadIndex,
    MsgReadIndexResp,
    MsgSnap,
    MsgTransferLeader,
    MsgVote,
    PeerMessage,
)
from raft.state import ConfState, Entry, EntryType, Snapshot, SnapshotMetadata
from transport.lanes import Lane

ID = (1 << 64) - 17
ENTRIES = (
    Entry(3, 8, b"a" * 100),
    Entry(3, 9, b"", EntryType.CONF_CHANGE_V2),
)
JOINT = ConfState((1, 2, ID), (4,), (1, 2), (5,), auto_leave=True)
FULL: list[PeerMessage] = [
    MsgApp(ID, 2, 3, 2, 7, ENTRIES, 6),
    MsgApp(ID, 2, 3, 2, 7, (), 7),
    MsgProp(ID, 2, 0, (Entry(0, 0, b"x"), Entry(0, 0, b"y", EntryType.CONF_CHANGE))),
    MsgSnap(1, 2, 3, Snapshot(b"name", SnapshotMetadata(900, 3, JOINT))),
    MsgVote(1, 2, 3, 4, 5, b"CampaignTransfer"),
    MsgHeartbeat(1, 2, 3, 4, b"context"),
    MsgReadIndexResp(1, 2, 3, 4, b"context"),
]


@pytest.mark.parametrize("message", FULL, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_was(message: PeerMessage) -> None:
    assert decode_peer(encode_peer(message)) == message


@pytest.mark.parametrize("kind", PEER_MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_between_members_can_travel(kind: type[PeerMessage]) -> None:
    message = kind(1, 2, 3)
    assert decode_peer(encode_peer(message)) == message


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x93\x63\x01\x02", b"\x92\x02\x01", b"\x01", b"\x80"]
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(PeerMessageError):
        decode_peer(data)


CONF = [[1, 2], [], [], [], False]


@pytest.mark.parametrize(
    "fields",
    [
        (10, 1, 2, 3, "x"),
        (13, 1, 2, 0, b"c", 3, 7),
        (3, 1, 2, "3"),
        (3, 1, 2, 3, -1),
        (2, 1, 2, 3, 2, "7", 6, [3], [0], [b"x"]),
        (2, 1, 2, 3, 2, 7, -6, [3], [0], [b"x"]),
        (2, 1, 2, 3, 2, 7, 6, ["3"], [0], [b"x"]),
        (2, 1, 2, 3, 2, 7, 6, [3], [9], [b"x"]),
        (2, 1, 2, 3, 2, 7, 6, [3], [[0]], [b"x"]),
        (2, 1, 2, 3, 2, 7, 6, [3], [0.0], [b"x"]),
        (2, 1, 2, 3, 2, 7, 6, [3], [0], ["x"]),
        (2, 1, 2, 3, 2, 7, 6, [3, 3], [0], [b"x"]),
        (1, 1, 2, None, [0], [0], [b"x"]),
        (1, 1, 2, 0, [0], [0], [None]),
    ],
)
def test_a_field_of_another_type_is_refused(fields: tuple[object, ...]) -> None:
    assert read_peer(2, 1, msgpack.packb(fields)) is None


@pytest.mark.parametrize(
    "fields",
    [
        ("name", 900, 3, CONF),
        (b"name", "900", 3, CONF),
        (b"name", -900, 3, CONF),
        (b"name", 900, 3, [[1, "2"], *CONF[1:]]),
        (b"name", 900, 3, [b"12", *CONF[1:]]),
        (b"name", 900, 3, [*CONF[:4], 1]),
        (b"name", 900, 3, 5),
    ],
)
def test_a_snapshot_of_another_shape_is_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(PeerMessageError):
        decode_peer(msgpack.packb((8, 1, 2, 3, *fields)))


def test_heartbeats_and_votes_go_beside_entries() -> None:
    assert lane_of(MsgApp(1, 2, 3)) == Lane.APPEND
    assert lane_of(MsgProp(1, 2, 3)) == Lane.APPEND
    assert lane_of(MsgHeartbeat(1, 2, 3)) == Lane.CONTROL
    assert lane_of(MsgVote(1, 2, 3)) == Lane.CONTROL


def test_what_was_passed_on_keeps_the_name_of_who_asked() -> None:
    """Member 2 led a moment ago: what 3 has sent it goes on to the leader, 1."""
    for passed_on in (
        MsgProp(1, 3, 0, (Entry(0, 0, b"x"),)),
        MsgReadIndex(1, 3, 0, b"context"),
        MsgTransferLeader(1, 3, 7),
    ):
        assert read_peer(2, 1, encode_peer(passed_on)) == passed_on
    for own in (MsgAppResp(1, 3, 7), MsgVote(1, 3, 7), MsgHeartbeat(1, 3, 7)):
        assert read_peer(2, 1, encode_peer(own)) is None


def test_without_entries_or_a_term_a_message_is_none_of_raft_s() -> None:
    assert read_peer(2, 1, encode_peer(MsgProp(1, 2, 0))) is None
    for message in (MsgApp(1, 2, 0), MsgHeartbeat(1, 2, 0), MsgVote(1, 2, 0), MsgAppResp(1, 2, 0)):
        assert read_peer(2, 1, encode_peer(message)) is None


def test_a_proposal_that_is_no_change_of_the_configuration_is_refused() -> None:
    change = encode(ConfChange(ConfChangeType.ADD_NODE, 4))[1]
    good, bad = (
        MsgProp(1, 2, 0, (Entry(0, 0, data, EntryType.CONF_CHANGE),))
        for data in (change, b"rubbish")
    )

    assert read_peer(2, 1, encode_peer(good)) == good
    assert read_peer(2, 1, encode_peer(bad)) is None
