"""etcd-io/raft's way of writing things down, where the scripts don't show it."""

from __future__ import annotations

import pytest

from raft.change import ConfChange, ConfChangeType, ConfChangeV2, encode, parse_changes
from raft.describe import (
    describe_conf_change,
    describe_entry,
    describe_message,
    describe_ready,
    quote,
)
from raft.messages import (
    LOCAL_APPLY_THREAD,
    PEER_MESSAGES,
    MsgApp,
    MsgReadIndexResp,
    MsgStorageApplyResp,
)
from raft.ready import Ready
from raft.roles import ReadState
from raft.state import Entry, EntryType


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", '"plain"'),
        (b'a"b\\', r'"a\"b\\"'),
        (b"\n\x00\xff", r'"\n\x00\xff"'),
        ("é".encode(), '"é"'),
    ],
)
def test_data_is_quoted(data: bytes, text: str) -> None:
    assert quote(data) == text


def test_entries_are_told_by_term_index_and_kind() -> None:
    kind, data = encode(ConfChangeV2(parse_changes("v1 r2")))

    assert describe_entry(Entry(1, 2, b"x")) == '1/2 EntryNormal "x"'
    assert describe_entry(Entry(1, 2, b"x"), lambda data: "") == "1/2 EntryNormal"
    assert describe_entry(Entry(3, 4, data, kind)) == "3/4 EntryConfChangeV2 v1 r2"
    damaged = describe_entry(Entry(3, 4, b"\xff", EntryType.CONF_CHANGE))
    assert damaged.startswith("3/4 EntryConfChange not a configuration change")


def test_a_change_is_told_in_full() -> None:
    change = ConfChange(ConfChangeType.ADD_LEARNER_NODE, 7, b"why")

    assert describe_conf_change(change) == (
        "transition:ConfChangeTransitionAuto "
        'changes:{type:ConfChangeAddLearnerNode node_id:7} context:"why"'
    )


def test_messages_are_told_in_one_line_if_they_carry_little() -> None:
    two = (Entry(1, 6, b"a"), Entry(1, 7, b"b"))

    assert describe_message(MsgReadIndexResp(10, 255, 3, 9, b"c")) == (
        'ff->a MsgReadIndexResp Term:3 Log:0/9 Entries:[0/0 EntryNormal "c"]'
    )
    assert describe_message(MsgApp(2, 1, 1, 1, 5, two, 4)) == (
        '1->2 MsgApp Term:1 Log:1/5 Commit:4 Entries:[\n  1/6 EntryNormal "a"\n'
        '  1/7 EntryNormal "b"\n]'
    )
    assert describe_message(MsgStorageApplyResp(1, LOCAL_APPLY_THREAD, 0)) == (
        "ApplyThread->1 MsgStorageApplyResp Term:0 Log:0/0"
    )


@pytest.mark.parametrize("kind", PEER_MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_can_be_told(kind: type) -> None:
    assert describe_message(kind(0, 1, 2)).startswith(f"1->None {kind.__name__} Term:2 Log:0/0")


def test_an_empty_ready_says_so() -> None:
    assert describe_ready(Ready()) == "<empty Ready>"
    assert describe_ready(Ready(read_states=(ReadState(5, b"ab"),))) == (
        "Ready MustSync=false:\nReadStates [{5 [97 98]}]\n"
    )
