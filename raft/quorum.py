"""What a majority has agreed on, also in a joint configuration (raft paper, 6).

A majority configuration is a set of voter ids; a joint one is two of them, and agrees on what
both agree on. An empty one agrees on everything, which makes half a joint configuration neutral.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Final

INFINITY: Final = (1 << 64) - 1
"""The index committed by an empty configuration."""


class VoteResult(IntEnum):
    """The outcome of a vote so far."""

    PENDING = 1
    LOST = 2
    WON = 3

    def __str__(self) -> str:
        return f"Vote{self.name.capitalize()}"


def majority_committed_index(voters: Collection[int], acked: Mapping[int, int]) -> int:
    """Return the highest index that a majority of `voters` has acked; absent means 0."""
    count = len(voters)
    if count == 0:
        return INFINITY
    indexes = sorted([acked.get(voter, 0) for voter in voters])
    return indexes[count - (count // 2 + 1)]


def majority_vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Return the state of a vote; absent means not voted yet."""
    if not voters:
        return VoteResult.WON
    quorum = len(voters) // 2 + 1
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    if granted >= quorum:
        return VoteResult.WON
    if granted + missing >= quorum:
        return VoteResult.PENDING
    return VoteResult.LOST


def joint_committed_index(
    incoming: Collection[int], outgoing: Collection[int], acked: Mapping[int, int]
) -> int:
    """Return the highest index committed in both halves."""
    return min(majority_committed_index(incoming, acked), majority_committed_index(outgoing, acked))


def joint_vote_result(
    incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]
) -> VoteResult:
    """Return the state of a vote that must be won in both halves and is lost in either."""
    one = majority_vote_result(incoming, votes)
    other = majority_vote_result(outgoing, votes)
    if one == other:
        return one
    if VoteResult.LOST in (one, other):
        return VoteResult.LOST
    return VoteResult.PENDING


def describe_ids(voters: Collection[int]) -> str:
    """Return `(1 2 a)`: ids ascending, in hexadecimal."""
    return "(" + " ".join(f"{voter:x}" for voter in sorted(voters)) + ")"


def describe(voters: Collection[int], acked: Mapping[int, int]) -> str:
    """Draw for each voter how many others are behind it."""
    count = len(voters)
    if count == 0:
        return "<empty majority quorum>"
    ranked = sorted((acked.get(voter, 0), voter) for voter in voters)
    bars: dict[int, int] = {}
    for place, (index, voter) in enumerate(ranked):
        before = ranked[place - 1]
        tied = place == 0 or before[0] == index
        bars[voter] = (bars[before[1]] if place else 0) if tied else place
    lines = [" " * count + "    idx"]
    for voter in sorted(voters):
        bar = bars[voter]
        drawn = "x" * bar + ">" + " " * (count - bar) if voter in acked else "?" + " " * count
        lines.append(f"{drawn} {acked.get(voter, 0):5d}    (id={voter:x})")
    return "\n".join(lines) + "\n"
