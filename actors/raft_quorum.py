"""Whom a leader asks first: as many members as make a quorum with it.

Nothing waits for the others, so what is theirs may leave a little later, together with what comes
next. Who did not answer in time is asked first no more.
"""

from __future__ import annotations

from raft.progress import REPLICATE
from raft.raw_node import RawNode


class Quorum:
    """See the module docstring. Knows no clock."""

    def __init__(self, node: RawNode, member_id: int) -> None:
        self._node = node
        self._id = member_id
        self._voters: tuple[int, ...] = ()
        self._order: list[int] = []
        self._needed = 0

    @property
    def committed(self) -> int:
        """The commit index."""
        return self._node.raft.log.committed

    @property
    def confirmed(self) -> int:
        """How many rounds of reads a quorum has confirmed, in this term."""
        return self._node.raft.read_only.confirmed

    def follows(self, member: int) -> bool:
        """Whether a member is known to have all that is sent next, so that nothing is a probe."""
        progress = self._node.raft.tracker.progress.get(member)
        return self._node.is_leader and progress is not None and progress.state is REPLICATE

    def is_spare(self, member: int) -> bool:
        """Whether a quorum should come together without this member."""
        config = self._node.raft.tracker.config
        if config.voters_outgoing:
            return False
        voters = tuple(sorted(config.voters))
        if voters != self._voters:
            self._voters = voters
            known = [each for each in self._order if each in config.voters]
            self._order = known + [each for each in voters if each not in (*known, self._id)]
            self._needed = len(voters) // 2 + (self._id not in config.voters)
        return member not in self._order[: self._needed]

    def missed(self, member: int) -> None:
        """A spare member was needed: it is asked first from now on."""
        if member in self._order:
            self._order.remove(member)
            self._order.insert(0, member)
