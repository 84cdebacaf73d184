"""The leader's first gateway and the version of the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from actors.cluster_version import LOOK_SECONDS, SILENCE_SECONDS, ClusterVersion
from actors.proposals import Proposals
from kv.batch import Op, decode_batch
from kv.cluster import Member
from kv.errors import TIMEOUT
from kv.version import CLUSTER_VERSION, MIN_CLUSTER_VERSION, VERSION, packed


class Stage:
    """A database, a log, a board and a monitor over them."""

    def __init__(self) -> None:
        self.decided: str | None = None
        self.members_known = 3
        self.lowest = 0
        self.logged: list[str] = []
        self.sent: list[Any] = []
        self.proposals = Proposals(
            1, self._send, lambda answer, r, b: answer.answered(r, b), timeout=7.0
        )
        self.proposals.open = True
        self.monitor = ClusterVersion(self.proposals, self, lambda: self.lowest, self)  # type: ignore[arg-type]

    @contextmanager
    def view(self) -> Iterator[Stage]:
        yield self

    def cluster_version(self) -> str | None:
        return self.decided

    def members(self) -> list[Member]:
        return [Member(number) for number in range(1, self.members_known + 1)]

    def info(self, msg: str, **fields: Any) -> None:
        self.logged.append(msg)

    warning = info

    def _send(self, message: Any) -> bool:
        self.sent.append(decode_batch(message.batch))
        return True

    def look(self, now: float, *, leads: bool = True) -> list[str]:
        """Look at a moment; return what was proposed."""
        before = len(self.sent)
        self.monitor.look(now, leads=leads)
        self.proposals.flush(now)
        batches = self.sent[before:]
        assert all(set(batch.ops) == {Op.CLUSTER_VERSION} for batch in batches)
        return [request.decode() for batch in batches for request in batch.requests]

    def apply(self) -> None:
        batch = self.sent[-1]
        self.decided = batch.requests[0].decode()
        self.proposals.applied(batch.first_id, [5])


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_member_alone_decides_its_own_version_at_once(stage: Stage) -> None:
    stage.members_known = 1

    assert stage.look(0.0) == [CLUSTER_VERSION]


def test_only_a_leader_proposes(stage: Stage) -> None:
    stage.lowest = packed(VERSION)

    assert stage.look(0.0, leads=False) == []
    assert stage.look(0.1) == [CLUSTER_VERSION]


def test_a_silent_member_is_waited_for_and_then_the_oldest_version_is_set_and_raised_later(
    stage: Stage,
) -> None:
    early = [stage.look(tenth / 10) for tenth in range(int(SILENCE_SECONDS * 10))]

    late = stage.look(SILENCE_SECONDS)
    stage.apply()
    still_silent = stage.look(SILENCE_SECONDS + LOOK_SECONDS)
    stage.lowest = packed("3.7.1")
    raised = stage.look(SILENCE_SECONDS + 3 * LOOK_SECONDS)

    assert not any(early)
    assert late == [MIN_CLUSTER_VERSION]
    assert still_silent == []
    assert raised == ["3.7.0"]


def test_nothing_is_proposed_twice_while_the_first_is_under_way(stage: Stage) -> None:
    stage.lowest = packed("3.7.1")
    stage.look(0.0)

    assert stage.look(0.1) == []


def test_a_refused_version_is_proposed_again(stage: Stage) -> None:
    stage.lowest = packed("3.7.1")
    stage.look(0.0)

    stage.proposals.applied(1, [-TIMEOUT.number])

    assert stage.look(0.1) == ["3.7.0"]
    assert "failed to update cluster version" in stage.logged


def test_a_decided_version_is_left_alone(stage: Stage) -> None:
    stage.decided, stage.lowest = "3.7.0", packed("3.7.1")

    assert not any(stage.look(second) for second in range(10))


def test_a_later_leader_raises_what_an_earlier_one_had_to_leave(stage: Stage) -> None:
    stage.decided, stage.lowest = MIN_CLUSTER_VERSION, packed("3.7.1")

    assert stage.look(0.0, leads=False) == []
    assert stage.look(0.1) == ["3.7.0"]
