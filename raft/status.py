"""A snapshot of a node's state, for operators."""

from __future__ import annotations

from dataclasses import dataclass, field

from raft.node import Raft
from raft.progress import Progress
from raft.roles import LEADER, StateType
from raft.state import HardState
from raft.tracker import TrackerConfig


@dataclass(slots=True)
class Status:
    """What etcd-io/raft's Status tells."""

    id: int
    hard_state: HardState
    lead: int
    raft_state: StateType
    applied: int
    lead_transferee: int
    config: TrackerConfig
    last_index: int
    progress: dict[int, Progress] = field(default_factory=dict)
    """Empty unless this node leads. Copies: changing them changes nothing."""

    @property
    def term(self) -> int:
        """Return the term."""
        return self.hard_state.term

    @property
    def vote(self) -> int:
        """Return whom this node voted for in its term."""
        return self.hard_state.vote

    @property
    def commit(self) -> int:
        """Return the commit index."""
        return self.hard_state.commit

    def __str__(self) -> str:
        """Return the JSON that etcd-io/raft makes of it."""
        progress = ",".join(
            f'"{id_:x}":{{"match":{p.match},"next":{p.next},"state":"{p.state}"}}'
            for id_, p in self.progress.items()
        )
        return (
            f'{{"id":"{self.id:x}","term":{self.term},"vote":"{self.vote:x}",'
            f'"commit":{self.commit},"lead":"{self.lead:x}","raftState":"{self.raft_state}",'
            f'"applied":{self.applied},"progress":{{{progress}}},'
            f'"leadtransferee":"{self.lead_transferee:x}"}}'
        )


def status(r: Raft) -> Status:
    """Return the state of `r` now."""
    progress = {}
    if r.state is LEADER:
        progress = {i: p.clone(inflights=True) for i, p in r.tracker.progress.items()}
    return Status(
        id=r.id,
        hard_state=r.hard_state(),
        lead=r.lead,
        raft_state=r.state,
        applied=r.log.applied,
        lead_transferee=r.lead_transferee,
        config=r.tracker.config,
        last_index=r.log.last_index(),
        progress=progress,
    )
