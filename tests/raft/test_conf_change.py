"""Configuration changes: golden scripts, properties of the changer, and the bytes of changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.change import describe_changes, parse_changes
from raft.conf_change import (
    Change,
    Changer,
    ConfChange,
    ConfChangeDecodeError,
    ConfChangeError,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    Configured,
    as_v2,
    decode,
    encode,
    next_conf_state,
    restore,
)
from raft.state import ConfState, EntryType
from raft.tracker import TrackerConfig
from tests import datadriven
from tests.raft.testdata import ours, upstream

ADD, REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE
LEARN = ConfChangeType.ADD_LEARNER_NODE
singles = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(0, 5))


class World:
    """A configuration under change, as the scripts see it."""

    def __init__(self) -> None:
        self.configured: Configured = (TrackerConfig(), {})
        self.last_index = 0

    def handle(self, command: datadriven.Command) -> str:
        """Run `simple`, `enter-joint [autoleave=true]` or `leave-joint`."""
        changer = Changer(*self.configured, last_index=self.last_index, max_inflight=10)
        self.last_index += 1
        changes = parse_changes(command.input)
        try:
            if command.name == "simple":
                self.configured = changer.simple(changes)
            elif command.name == "enter-joint":
                auto_leave = command.option("autoleave") == "true"
                self.configured = changer.enter_joint(changes, auto_leave=auto_leave)
            else:
                assert command.name == "leave-joint"
                assert not changes
                self.configured = changer.leave_joint()
        except ConfChangeError as error:
            return str(error)
        config, progress = self.configured
        return f"{config}\n" + "\n".join(f"{i}: {progress[i]}" for i in sorted(progress))


@pytest.mark.parametrize("path", upstream("confchange"))
def test_changes_agree_with_etcd_raft(path: Path) -> None:
    datadriven.run(path, World().handle)


@pytest.mark.parametrize("path", ours("confchange"))
def test_change_scripts(path: Path, rewrite: bool) -> None:
    datadriven.run(path, World().handle, rewrite=rewrite)


@given(st.lists(st.integers(1, 5), min_size=1, unique=True), st.lists(singles, max_size=6))
def test_leaving_a_joint_configuration_ends_where_the_changes_lead(
    voters: list[int], changes: list[ConfChangeSingle]
) -> None:
    start = restore(ConfState(voters=tuple(voters)))
    try:
        joint = Changer(*start).enter_joint(changes)
    except ConfChangeError:
        joint = None

    if joint is None:
        # Refused for one reason only.
        left_over = set(voters)
        for change in changes:
            if change.type is ADD and change.node_id:
                left_over.add(change.node_id)
            elif change.type in (REMOVE, LEARN):
                left_over.discard(change.node_id)
        assert not left_over
        return
    left = Changer(*joint).leave_joint()
    assert left[0].voters == joint[0].voters
    assert left[0].learners == joint[0].learners | joint[0].learners_next
    assert set(left[1]) == left[0].voters | left[0].learners


@given(st.lists(st.integers(1, 5), min_size=1, unique=True), st.lists(singles, max_size=6))
def test_any_configuration_that_comes_about_can_be_restored(
    voters: list[int], changes: list[ConfChangeSingle]
) -> None:
    try:
        config, _ = Changer(*restore(ConfState(voters=tuple(voters)))).enter_joint(changes)
    except ConfChangeError:
        return

    assert restore(config.conf_state())[0] == config


def test_a_refused_change_changes_nothing() -> None:
    config, progress = restore(ConfState(voters=(1, 2, 3)))
    before = {i: str(p) for i, p in progress.items()}

    with pytest.raises(ConfChangeError, match="more than one voter changed"):
        Changer(config, progress).simple(parse_changes("r1 r2"))

    assert config.voters == {1, 2, 3}
    assert {i: str(p) for i, p in progress.items()} == before


def test_the_next_configuration_follows_the_change() -> None:
    state = ConfState(voters=(1, 2, 3))

    assert next_conf_state(state, ConfChange(ADD, 4)).voters == (1, 2, 3, 4)
    assert next_conf_state(state, ConfChange(LEARN, 4)).learners == (4,)
    assert next_conf_state(state, ConfChange(REMOVE, 0)) == state
    joint = next_conf_state(state, ConfChangeV2(parse_changes("r1 r2 v4")))
    assert joint == ConfState(voters=(3, 4), voters_outgoing=(1, 2, 3), auto_leave=True)
    assert next_conf_state(joint, ConfChangeV2()) == ConfState(voters=(3, 4))


def test_the_last_voter_can_not_be_removed() -> None:
    with pytest.raises(ConfChangeError, match="removed all voters"):
        next_conf_state(ConfState(voters=(1,)), ConfChange(REMOVE, 1))


def test_a_stored_configuration_that_can_not_be_is_refused() -> None:
    with pytest.raises(ConfChangeError):
        restore(ConfState(voters=(1, 2), learners=(2,)))


ids = st.integers(0, (1 << 64) - 1)
contexts = st.binary(max_size=300)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(ConfChange, st.sampled_from(ConfChangeType), ids, contexts, ids),
    st.builds(
        ConfChangeV2,
        st.lists(st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), ids)).map(tuple),
        st.sampled_from(ConfChangeTransition),
        contexts,
    ),
)


@given(changes)
def test_a_change_survives_its_bytes(change: Change) -> None:
    assert decode(*encode(change)) == change


def test_the_bytes_are_those_of_raftpb() -> None:
    v1 = ConfChange(LEARN, 300, b"ctx", id=7)
    v2 = ConfChangeV2(parse_changes("v1 r2"), ConfChangeTransition.JOINT_EXPLICIT, b"c")

    assert encode(v1) == (EntryType.CONF_CHANGE, bytes.fromhex("0807 1003 18ac02 2203637478"))
    assert encode(v2)[1] == bytes.fromhex("0802 1204 08001001 1204 08011002 1a0163")
    assert encode(None) == (EntryType.CONF_CHANGE_V2, b"")
    assert decode(EntryType.CONF_CHANGE_V2, b"") == ConfChangeV2()
    assert as_v2(v1) == ConfChangeV2((ConfChangeSingle(LEARN, 300),), context=b"ctx")


@given(st.binary(max_size=40))
def test_other_bytes_are_refused_in_one_way_only(data: bytes) -> None:
    try:
        change = decode(EntryType.CONF_CHANGE_V2, data)
    except ConfChangeDecodeError:
        return
    assert decode(*encode(change)) == change


def test_a_normal_entry_is_no_change() -> None:
    with pytest.raises(ConfChangeDecodeError):
        decode(EntryType.NORMAL, b"")
    with pytest.raises(ConfChangeDecodeError):
        decode(EntryType.CONF_CHANGE, b"\x22\x7f")


def test_the_short_form_reads_what_it_writes() -> None:
    assert describe_changes(parse_changes("v1 l2 r3 u4")) == "v1 l2 r3 u4"
    with pytest.raises(ValueError, match="unknown input: x1"):
        parse_changes("x1")
