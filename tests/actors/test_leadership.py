"""MoveLeader: who is told when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.gateway_status import MemberWords
from actors.leadership import Transfers
from actors.messages import TransferLeader
from actors.metrics import RaftMetric
from kv.errors import NOT_LEADER, TIMEOUT_LEADER_TRANSFER
from tests.actors.boards import make_board
from tests.api.backend import Caller
from transport.counters import Cell

OWN, OTHER = 7, 8
TIMEOUT = 7.0


class Stage:
    """A leader's board, and what its raft node is ordered."""

    def __init__(self, folder: Path) -> None:
        self._board = make_board(folder)
        self._set(RaftMetric.MEMBER_ID, OWN)
        self.leads(OWN)
        self.ordered: list[TransferLeader] = []
        self.logged: list[str] = []
        self.transfers = Transfers(
            MemberWords(self._board, -1),
            self.ordered.append,
            lambda revision: b"",
            self,  # type: ignore[arg-type]
            TIMEOUT,
        )

    def info(self, msg: str, **fields: Any) -> None:
        self.logged.append(msg)

    def _set(self, word: RaftMetric, value: int) -> None:
        self._board.set("raft-node", Cell.METRICS + word, value)

    def leads(self, member: int) -> None:
        self._set(RaftMetric.LEADER, member)
        self._set(RaftMetric.IS_LEADER, int(member == OWN))

    def move(self, target: int) -> Caller:
        caller: Any = Caller()
        self.transfers.begin(caller, target, 100.0)
        return caller  # type: ignore[no-any-return]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_caller_is_answered_when_the_target_leads(stage: Stage) -> None:
    caller = stage.move(OTHER)
    stage.leads(0)
    stage.transfers.look(100.1)
    early = list(caller.outcomes)

    stage.leads(OTHER)
    stage.transfers.look(100.2)

    assert stage.ordered == [TransferLeader(OTHER)]
    assert early == []
    assert caller.outcomes == [b""]
    assert len(stage.transfers) == 0
    assert stage.logged == ["leadership transfer starting", "leadership transfer finished"]


def test_a_transfer_that_takes_too_long_is_given_up(stage: Stage) -> None:
    caller = stage.move(OTHER)

    stage.transfers.look(100.0 + TIMEOUT)

    assert caller.outcomes == [(TIMEOUT_LEADER_TRANSFER.code, TIMEOUT_LEADER_TRANSFER.text)]
    assert len(stage.transfers) == 0


def test_who_has_gone_is_not_waited_for(stage: Stage) -> None:
    caller = stage.move(OTHER)
    caller.closed = True

    stage.transfers.look(100.1)

    assert len(stage.transfers) == 0


def test_the_leader_itself_has_leadership_already(stage: Stage) -> None:
    caller = stage.move(OWN)

    assert caller.outcomes == [b""]
    assert stage.ordered == []


def test_leadership_lost_between_question_and_order_is_said(stage: Stage) -> None:
    stage.leads(OTHER)

    caller = stage.move(OTHER)

    assert caller.outcomes == [(NOT_LEADER.code, NOT_LEADER.text)]
