"""Configuration changes carried out: simple, or through a joint configuration (raft paper, 6).

Rules:
1. A simple change touches at most one voter: any majority before and any after then overlap.
2. More goes through a joint configuration, in which both majorities must agree.
3. A voter that is demoted while joint stays a voter of the outgoing half; it is a "learner next"
   until the joint configuration is left.
4. A refused change leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from raft.change import (
    Change,
    ConfChange,
    ConfChangeDecodeError,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    as_v2,
    decode,
    encode,
    enters_joint,
    leaves_joint,
)
from raft.errors import ConfChangeError, InvariantError
from raft.inflights import Inflights
from raft.messages import NONE
from raft.progress import Progress
from raft.size import NO_LIMIT
from raft.state import ConfState
from raft.tracker import TrackerConfig

__all__ = [
    "Change",
    "Changer",
    "ConfChange",
    "ConfChangeDecodeError",
    "ConfChangeError",
    "ConfChangeSingle",
    "ConfChangeTransition",
    "ConfChangeType",
    "ConfChangeV2",
    "as_v2",
    "check_invariants",
    "decode",
    "encode",
    "enters_joint",
    "leaves_joint",
    "next_conf_state",
    "restore",
]

ProgressMap = dict[int, Progress]
Configured = tuple[TrackerConfig, ProgressMap]


class Changer:
    """Derives the next configuration from one; never changes what it is given."""

    __slots__ = ("_config", "_last_index", "_max_inflight", "_max_inflight_bytes", "_progress")

    def __init__(
        self,
        config: TrackerConfig,
        progress: Mapping[int, Progress],
        *,
        last_index: int = 0,
        max_inflight: int = 1,
        max_inflight_bytes: int = NO_LIMIT,
    ) -> None:
        self._config = config
        self._progress = progress
        self._last_index = last_index
        self._max_inflight = max_inflight
        self._max_inflight_bytes = max_inflight_bytes

    def apply(self, change: ConfChangeV2) -> Configured:
        """Carry out any change, however it asks to be. Raises ConfChangeError."""
        if leaves_joint(change):
            return self.leave_joint()
        joint, auto_leave = enters_joint(change)
        if joint:
            return self.enter_joint(change.changes, auto_leave=auto_leave)
        return self.simple(change.changes)

    def simple(self, changes: Sequence[ConfChangeSingle]) -> Configured:
        """Change at most one voter. Raises ConfChangeError."""
        draft = self._draft()
        if draft.voters_outgoing:
            raise ConfChangeError("can't apply simple config change in joint config")
        draft.change(changes)
        if len(self._config.voters ^ draft.voters) > 1:
            raise ConfChangeError("more than one voter changed without entering joint config")
        return draft.finish(auto_leave=False)

    def enter_joint(
        self, changes: Sequence[ConfChangeSingle], *, auto_leave: bool = False
    ) -> Configured:
        """Enter the joint configuration of now and of what `changes` lead to.

        Raises ConfChangeError.
        """
        draft = self._draft()
        if draft.voters_outgoing:
            raise ConfChangeError("config is already joint")
        if not draft.voters:
            raise ConfChangeError("can't make a zero-voter config joint")
        draft.voters_outgoing = set(draft.voters)
        draft.change(changes)
        return draft.finish(auto_leave=auto_leave)

    def leave_joint(self) -> Configured:
        """Drop the outgoing half. Raises ConfChangeError."""
        draft = self._draft()
        if not draft.voters_outgoing:
            raise ConfChangeError("can't leave a non-joint config")
        for id_ in draft.learners_next:
            draft.learners.add(id_)
            draft.progress[id_].is_learner = True
        draft.learners_next = set()
        for id_ in draft.voters_outgoing - draft.voters - draft.learners:
            del draft.progress[id_]
        draft.voters_outgoing = set()
        return draft.finish(auto_leave=False)

    def _draft(self) -> _Draft:
        check_invariants(self._config, self._progress)
        return _Draft(
            self._config,
            self._progress,
            # A new member is probed from the end of the log: it will say where to begin.
            next_=max(self._last_index, 1),
            inflights=(self._max_inflight, self._max_inflight_bytes),
        )


class _Draft:
    """A configuration being changed."""

    def __init__(
        self,
        config: TrackerConfig,
        progress: Mapping[int, Progress],
        next_: int,
        inflights: tuple[int, int],
    ) -> None:
        self.voters = set(config.voters)
        self.voters_outgoing = set(config.voters_outgoing)
        self.learners = set(config.learners)
        self.learners_next = set(config.learners_next)
        self.progress = {id_: each.clone() for id_, each in progress.items()}
        self._next = next_
        self._inflights = inflights

    def change(self, changes: Iterable[ConfChangeSingle]) -> None:
        """Carry out each operation on the incoming half."""
        for each in changes:
            if each.node_id == NONE or each.type is ConfChangeType.UPDATE_NODE:
                continue
            if each.type is ConfChangeType.ADD_NODE:
                self._make_voter(each.node_id)
            elif each.type is ConfChangeType.ADD_LEARNER_NODE:
                self._make_learner(each.node_id)
            else:
                self._remove(each.node_id)
        if not self.voters:
            raise ConfChangeError("removed all voters")

    def _init_progress(self, id_: int, *, is_learner: bool) -> None:
        # Counts as active, so that the next check of the quorum does not depose a leader that
        # had no time yet to hear of a new member.
        window = Inflights(*self._inflights)
        self.progress[id_] = Progress(
            0, self._next, window, is_learner=is_learner, recent_active=True
        )

    def _make_voter(self, id_: int) -> None:
        if id_ not in self.progress:
            self._init_progress(id_, is_learner=False)
        self.progress[id_].is_learner = False
        self.learners.discard(id_)
        self.learners_next.discard(id_)
        self.voters.add(id_)

    def _make_learner(self, id_: int) -> None:
        known = self.progress.get(id_)
        if known is None:
            self._init_progress(id_, is_learner=True)
            self.learners.add(id_)
            return
        if known.is_learner:
            return
        self._remove(id_)
        self.progress[id_] = known
        if id_ in self.voters_outgoing:
            self.learners_next.add(id_)
        else:
            known.is_learner = True
            self.learners.add(id_)

    def _remove(self, id_: int) -> None:
        self.voters.discard(id_)
        self.learners.discard(id_)
        self.learners_next.discard(id_)
        if id_ not in self.voters_outgoing:
            self.progress.pop(id_, None)

    def finish(self, *, auto_leave: bool) -> Configured:
        """Return the result, checked."""
        config = TrackerConfig(
            frozenset(self.voters),
            frozenset(self.voters_outgoing),
            frozenset(self.learners),
            frozenset(self.learners_next),
            auto_leave,
        )
        check_invariants(config, self.progress)
        return config, self.progress


def check_invariants(config: TrackerConfig, progress: Mapping[int, Progress]) -> None:
    """Assert what TrackerConfig promises, and that progress agrees. Raises InvariantError."""
    for id_ in config.all_voters() | config.learners | config.learners_next:
        if id_ not in progress:
            raise InvariantError(f"no progress for {id_}")
    for id_ in config.learners_next:
        if id_ not in config.voters_outgoing:
            raise InvariantError(f"{id_} is in LearnersNext, but not Voters[1]")
        if progress[id_].is_learner:
            raise InvariantError(f"{id_} is in LearnersNext, but is already marked as learner")
    for id_ in config.learners:
        if id_ in config.voters_outgoing:
            raise InvariantError(f"{id_} is in Learners and Voters[1]")
        if id_ in config.voters:
            raise InvariantError(f"{id_} is in Learners and Voters[0]")
        if not progress[id_].is_learner:
            raise InvariantError(f"{id_} is in Learners, but is not marked as learner")
    if not config.voters_outgoing:
        if config.learners_next:
            raise InvariantError("cfg.LearnersNext must be nil when not joint")
        if config.auto_leave:
            raise InvariantError("AutoLeave must be false when not joint")


def restore(
    conf_state: ConfState,
    *,
    last_index: int = 0,
    max_inflight: int = 1,
    max_inflight_bytes: int = NO_LIMIT,
) -> Configured:
    """Return the configuration that `conf_state` describes. Raises ConfChangeError.

    It is reached by the changes that lead there from nothing, so that whatever can be restored
    could also have come about: first the outgoing voters one by one, then one joint change.
    """

    def changer(configured: Configured) -> Changer:
        return Changer(
            *configured,
            last_index=last_index,
            max_inflight=max_inflight,
            max_inflight_bytes=max_inflight_bytes,
        )

    def singles(kind: ConfChangeType, ids: Iterable[int]) -> list[ConfChangeSingle]:
        return [ConfChangeSingle(kind, id_) for id_ in ids]

    before = singles(ConfChangeType.ADD_NODE, conf_state.voters_outgoing)
    after = singles(ConfChangeType.REMOVE_NODE, conf_state.voters_outgoing)
    after += singles(ConfChangeType.ADD_NODE, conf_state.voters)
    after += singles(ConfChangeType.ADD_LEARNER_NODE, conf_state.learners)
    after += singles(ConfChangeType.ADD_LEARNER_NODE, conf_state.learners_next)
    configured: Configured = (TrackerConfig(), {})
    for single in before or after:
        configured = changer(configured).simple((single,))
    if before:
        joint = changer(configured)
        configured = joint.enter_joint(after, auto_leave=conf_state.auto_leave)
    if configured[0].conf_state() != _sorted(conf_state):
        raise ConfChangeError(f"{conf_state} restores to {configured[0].conf_state()}")
    return configured


def next_conf_state(conf_state: ConfState, change: Change) -> ConfState:
    """Return the configuration after `change`. Raises ConfChangeError."""
    config, _ = Changer(*restore(conf_state)).apply(as_v2(change))
    return config.conf_state()


def _sorted(conf_state: ConfState) -> ConfState:
    return ConfState(
        voters=tuple(sorted(conf_state.voters)),
        learners=tuple(sorted(conf_state.learners)),
        voters_outgoing=tuple(sorted(conf_state.voters_outgoing)),
        learners_next=tuple(sorted(conf_state.learners_next)),
        auto_leave=conf_state.auto_leave,
    )
