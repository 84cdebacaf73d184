"""The configuration in force, each member's progress and the votes of the election under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raft.errors import InvariantError
from raft.message import message
from raft.progress import Progress
from raft.quorum import (
    VoteResult,
    describe_ids,
    joint_committed_index,
    joint_vote_result,
)
from raft.state import ConfState

NOBODY: Final[frozenset[int]] = frozenset()


@message
class TrackerConfig:
    """The configuration as sets.

    Invariants (checked by conf_change.check_invariants):
    - learners, voters and voters_outgoing: a learner is in neither of the others.
    - learners_next is within voters_outgoing: who is still a voter there becomes a learner later.
    - Not joint (voters_outgoing empty): learners_next is empty and auto_leave is False.
    """

    voters: frozenset[int] = NOBODY
    voters_outgoing: frozenset[int] = NOBODY
    learners: frozenset[int] = NOBODY
    learners_next: frozenset[int] = NOBODY
    auto_leave: bool = False

    def all_voters(self) -> frozenset[int]:
        """Return the voters of either half."""
        return self.voters | self.voters_outgoing

    def conf_state(self) -> ConfState:
        """Return the same as stored in snapshots."""
        return ConfState(
            voters=tuple(sorted(self.voters)),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(sorted(self.voters_outgoing)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )

    def __str__(self) -> str:
        text = f"voters={describe_ids(self.voters)}"
        if self.voters_outgoing:
            text += f"&&{describe_ids(self.voters_outgoing)}"
        if self.learners:
            text += f" learners={describe_ids(self.learners)}"
        if self.learners_next:
            text += f" learners_next={describe_ids(self.learners_next)}"
        if self.auto_leave:
            text += " autoleave"
        return text


class Tracker:
    """See the module.

    Invariants:
    - progress has exactly the members of the configuration, ids ascending.
    - singleton is the id of the only voter, 0 if there is not exactly one.
    """

    __slots__ = ("config", "max_inflight", "max_inflight_bytes", "progress", "singleton", "votes")

    def __init__(self, max_inflight: int, max_inflight_bytes: int) -> None:
        self.max_inflight = max_inflight
        self.max_inflight_bytes = max_inflight_bytes
        self.votes: dict[int, bool] = {}
        self.config = TrackerConfig()
        self.progress: dict[int, Progress] = {}
        self.singleton = 0

    def switch(self, config: TrackerConfig, progress: Mapping[int, Progress]) -> None:
        """Put a configuration into force."""
        self.config = config
        self.progress = {id_: progress[id_] for id_ in sorted(progress)}
        only = len(config.voters) == 1 and not config.voters_outgoing
        self.singleton = next(iter(config.voters)) if only else 0
        members = config.all_voters() | config.learners
        if self.progress.keys() != members:
            raise InvariantError(f"progress of {sorted(self.progress)}, members {config}")

    def is_singleton(self) -> bool:
        """Tell whether one voter decides alone."""
        return self.singleton != 0

    def committed(self) -> int:
        """Return the highest index that a quorum has acknowledged."""
        if self.singleton:
            return self.progress[self.singleton].match
        matches = {id_: progress.match for id_, progress in self.progress.items()}
        config = self.config
        return joint_committed_index(config.voters, config.voters_outgoing, matches)

    def quorum_active(self) -> bool:
        """Tell whether a quorum was heard of recently."""
        votes = {i: p.recent_active for i, p in self.progress.items() if not p.is_learner}
        return self.vote_result(votes) is VoteResult.WON

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """Return the outcome of any vote in the present configuration."""
        return joint_vote_result(self.config.voters, self.config.voters_outgoing, votes)

    def reset_votes(self) -> None:
        """Begin a new election."""
        self.votes = {}

    def record_vote(self, id_: int, granted: bool) -> None:
        """Count a vote; a second one of the same member is ignored."""
        self.votes.setdefault(id_, granted)

    def tally_votes(self) -> tuple[int, int, VoteResult]:
        """Return votes granted, votes rejected (of voters only) and the outcome."""
        voters = [i for i, p in self.progress.items() if not p.is_learner and i in self.votes]
        granted = sum(self.votes[i] for i in voters)
        return granted, len(voters) - granted, self.vote_result(self.votes)
