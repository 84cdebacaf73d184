"""Who takes new clients, by the board and given times."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.balance import LIVING_SECONDS, SLACK_CONNECTIONS, Balance
from actors.metrics import GatewayMetric
from tests.actors.boards import make_board
from transport.counters import Board, Cell, State

OTHER = "gateway-1"
STEP = LIVING_SECONDS / 5


class Desk:
    """Gateway 0's balance; gateway 1 is words of the board."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.now = 100.0
        board.set(OTHER, Cell.METRICS + GatewayMetric.READY, 1)
        self.balance = Balance(board, "gateway-0")

    def pass_time(self, turns: int, *, lives: bool = True) -> None:
        for _ in range(turns):
            self.now += STEP
            if lives:
                self.board.words[self.board.block(OTHER) + Cell.LOOPS] += 1
            self.balance.look(self.now)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(make_board(tmp_path))


def test_a_gateway_with_clearly_more_clients_leaves_new_ones_to_the_other(desk: Desk) -> None:
    desk.pass_time(3)

    assert desk.balance.may_accept(SLACK_CONNECTIONS)
    assert not desk.balance.may_accept(SLACK_CONNECTIONS + 1)


def test_the_least_loaded_gateway_always_accepts(desk: Desk) -> None:
    desk.board.set(OTHER, Cell.CONNECTIONS, 1000)
    desk.pass_time(3)

    assert desk.balance.may_accept(1000)
    assert desk.balance.may_accept(0)


def test_slack_grows_with_the_number_of_clients(desk: Desk) -> None:
    desk.board.set(OTHER, Cell.CONNECTIONS, 800)
    desk.pass_time(3)

    assert desk.balance.may_accept(900)
    assert not desk.balance.may_accept(901)


def test_the_others_are_told_how_many_clients_there_are(desk: Desk) -> None:
    desk.balance.may_accept(17)

    assert desk.board.get("gateway-0", Cell.CONNECTIONS) == 17


def test_nobody_waits_for_a_frozen_gateway(desk: Desk) -> None:
    desk.pass_time(3)

    desk.pass_time(6, lives=False)

    assert desk.balance.may_accept(1000)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (Cell.PID, 0),
        (Cell.STATE, State.STARTING),
        (Cell.STATE, State.STOPPING),
        (Cell.METRICS + GatewayMetric.READY, 0),
    ],
)
def test_nobody_waits_for_a_gateway_that_does_not_serve(desk: Desk, cell: int, value: int) -> None:
    desk.pass_time(3)

    desk.board.set(OTHER, cell, value)
    desk.pass_time(1)

    assert desk.balance.may_accept(1000)


def test_a_successor_starts_with_no_clients(desk: Desk) -> None:
    desk.balance.may_accept(17)

    Balance(desk.board, "gateway-0")

    assert desk.board.get("gateway-0", Cell.CONNECTIONS) == 0
