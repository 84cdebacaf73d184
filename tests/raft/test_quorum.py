"""Quorums: golden scripts, and properties that hold for any configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.quorum import (
    INFINITY,
    VoteResult,
    describe,
    joint_committed_index,
    joint_vote_result,
    majority_committed_index,
    majority_vote_result,
)
from tests import datadriven
from tests.raft.testdata import ours, upstream

ids = st.frozensets(st.integers(1, 9), max_size=7)
acks = st.dictionaries(st.integers(1, 9), st.integers(1, 50), max_size=9)


def handle(command: datadriven.Command) -> str:
    """`committed` or `vote` of cfg=(...) [cfgj=(...)] with idx=(...) or votes=(...)."""
    incoming = [int(v) for v in command.options.get("cfg", [])]
    joint = command.options.get("cfgj")
    outgoing = [int(v) for v in joint or [] if v != "zero"]
    order = list(dict.fromkeys(incoming + outgoing))
    if command.name == "vote":
        given_votes = command.options.get("votes", [])
        assert len(given_votes) == len(order)
        votes = {i: v == "y" for i, v in zip(order, given_votes, strict=True) if v != "_"}
        assert joint_vote_result(outgoing, incoming, votes) is joint_vote_result(
            incoming, outgoing, votes
        )
        if joint is None:
            return str(majority_vote_result(incoming, votes))
        return str(joint_vote_result(incoming, outgoing, votes))
    assert command.name == "committed"
    indexes = command.options.get("idx", [])
    if len(indexes) != len(order):
        shown = f"map[{' '.join(f'{i}:{{}}' for i in sorted(order))}]"
        return f"error: mismatched input (explicit or _) for voters {shown}: {indexes}"
    acked = {i: int(v) for i, v in zip(order, indexes, strict=True) if v != "_"}
    index = joint_committed_index(incoming, outgoing, acked)
    assert index == joint_committed_index(outgoing, incoming, acked)
    if joint is None:
        assert index == majority_committed_index(incoming, acked)
    return describe(set(order), acked) + ("∞" if index == INFINITY else str(index))


@pytest.mark.parametrize("path", upstream("quorum"))
def test_quorums_agree_with_etcd_raft(path: Path) -> None:
    datadriven.run(path, handle)


@pytest.mark.parametrize("path", ours("quorum"))
def test_quorum_scripts(path: Path, rewrite: bool) -> None:
    datadriven.run(path, handle, rewrite=rewrite)


@given(ids, acks)
def test_a_majority_holds_what_is_committed_and_none_holds_more(
    voters: frozenset[int], acked: dict[int, int]
) -> None:
    committed = majority_committed_index(voters, acked)

    if not voters:
        assert committed == INFINITY
        return
    quorum = len(voters) // 2 + 1
    assert sum(acked.get(v, 0) >= committed for v in voters) >= quorum
    assert sum(acked.get(v, 0) > committed for v in voters) < quorum


@given(ids, ids, acks)
def test_a_joint_quorum_commits_what_both_halves_commit(
    one: frozenset[int], other: frozenset[int], acked: dict[int, int]
) -> None:
    expected = min(majority_committed_index(one, acked), majority_committed_index(other, acked))

    assert joint_committed_index(one, other, acked) == expected
    assert joint_committed_index(one, one, acked) == majority_committed_index(one, acked)
    assert joint_committed_index(one, (), acked) == majority_committed_index(one, acked)


@given(ids, st.dictionaries(st.integers(1, 9), st.booleans()))
def test_a_vote_is_decided_as_soon_as_nothing_can_change_it(
    voters: frozenset[int], votes: dict[int, bool]
) -> None:
    result = majority_vote_result(voters, votes)

    all_granted = majority_vote_result(voters, {v: votes.get(v, True) for v in voters})
    all_rejected = majority_vote_result(voters, {v: votes.get(v, False) for v in voters})
    assert (result is VoteResult.PENDING) == (all_granted is not all_rejected)
    if result is not VoteResult.PENDING:
        assert result is all_granted
