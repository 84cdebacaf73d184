"""Who takes new clients, by the board and given times."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.balance import (
    LIVING_SECONDS,
    PATIENCE_SECONDS,
    SLACK_CONNECTIONS,
    TOGETHER_CONNECTIONS,
    Balance,
)
from actors.metrics import GatewayMetric
from tests.actors.boards import make_board
from transport.counters import Board, Cell, State

OTHER = "gateway-1"
TURNS = Cell.METRICS + GatewayMetric.TURNS
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
                self.board.words[self.board.block(OTHER) + TURNS] += 1
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


class Pair:
    """A member with one gateway and a standby, at its beginning; both are balances."""

    def __init__(self, board: Board, *, shares: bool = False) -> None:
        self.board = board
        self.now = 100.0
        for name in ("gateway-0", OTHER):
            board.set(name, Cell.STATE, State.STARTING)
        self.gateway = Balance(board, "gateway-0", [OTHER], shares=shares)
        self.standby = Balance(board, OTHER, [OTHER], shares=shares)
        self._look("gateway-0", OTHER)

    def _look(self, *living: str) -> None:
        for balance, name in ((self.gateway, "gateway-0"), (self.standby, OTHER)):
            turns = self.board.get(name, TURNS)
            balance.look(self.now)
            self.board.set(name, TURNS, turns + (name in living))

    def pass_time(self, seconds: float, *living: str) -> None:
        for name in living:
            self.board.set(name, Cell.STATE, State.RUNNING)
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            self._look(*living)

    @property
    def clients(self) -> tuple[bool, bool]:
        """Whether the gateway and the standby take clients."""
        return self.gateway.may_accept(1000), self.standby.may_accept(0)

    def arrive(self, clients: int) -> tuple[int, int]:
        """Have clients come one by one; return who took how many, the standby asked first."""
        at_gateway = at_standby = 0
        for _ in range(clients):
            if self.standby.may_accept(at_standby):
                at_standby += 1
            else:
                assert self.gateway.may_accept(at_gateway), "nobody takes a client"
                at_gateway += 1
            self.standby.may_accept(at_standby)
            self.gateway.may_accept(at_gateway)
        return at_gateway, at_standby

    @property
    def pages(self) -> tuple[bool, bool]:
        """Whether they take connections to addresses that serve pages alone."""
        return self.gateway.may_take_pages(), self.standby.may_take_pages()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(make_board(tmp_path))


@pytest.fixture
def sharing(tmp_path: Path) -> Pair:
    """The same where both have a core; all is up."""
    pair = Pair(make_board(tmp_path), shares=True)
    for name in ("gateway-0", OTHER):
        pair.board.set(name, Cell.METRICS + GatewayMetric.READY, 1)
    pair.pass_time(1.0, "gateway-0", OTHER)
    return pair


def test_a_few_clients_stay_together(sharing: Pair) -> None:
    assert sharing.arrive(TOGETHER_CONNECTIONS) == (TOGETHER_CONNECTIONS, 0)


def test_the_standby_takes_its_share_of_many_clients(sharing: Pair) -> None:
    assert sharing.arrive(2 * TOGETHER_CONNECTIONS) == (TOGETHER_CONNECTIONS,) * 2

    at_gateway, at_standby = sharing.arrive(101)

    assert abs(at_gateway - at_standby) <= SLACK_CONNECTIONS + 1


def test_the_gateway_leaves_further_clients_to_a_standby_that_has_fewer(sharing: Pair) -> None:
    assert sharing.gateway.may_accept(TOGETHER_CONNECTIONS - 1)
    assert not sharing.gateway.may_accept(TOGETHER_CONNECTIONS)

    sharing.standby.may_accept(TOGETHER_CONNECTIONS - SLACK_CONNECTIONS)

    assert sharing.gateway.may_accept(TOGETHER_CONNECTIONS)


@pytest.mark.parametrize(
    ("cell", "value"), [(Cell.PID, 0), (Cell.METRICS + GatewayMetric.READY, 0)]
)
def test_nobody_waits_for_a_standby_that_does_not_serve(
    sharing: Pair, cell: int, value: int
) -> None:
    sharing.board.set(OTHER, cell, value)
    sharing.pass_time(STEP, "gateway-0", OTHER)

    assert sharing.gateway.may_accept(1000)


def test_nobody_waits_for_a_frozen_standby(sharing: Pair) -> None:
    sharing.pass_time(2 * LIVING_SECONDS, "gateway-0")

    assert sharing.gateway.may_accept(1000)


def test_on_one_core_the_gateway_has_all_clients(pair: Pair) -> None:
    pair.board.set(OTHER, Cell.METRICS + GatewayMetric.READY, 1)
    pair.pass_time(1.0, "gateway-0", OTHER)

    assert pair.arrive(100) == (100, 0)


def test_clients_are_the_gateways_and_pages_the_standbys(pair: Pair) -> None:
    pair.pass_time(1.0, "gateway-0", OTHER)

    assert pair.clients == (True, False)
    assert pair.pages == (False, True)


def test_a_standby_needs_no_published_member_to_see_that_the_gateway_lives(pair: Pair) -> None:
    pair.board.set("gateway-0", Cell.METRICS + GatewayMetric.READY, 0)
    pair.pass_time(2 * PATIENCE_SECONDS, "gateway-0", OTHER)

    assert pair.clients == (True, False)


def test_the_standby_takes_clients_while_the_gateway_stands_still(pair: Pair) -> None:
    pair.pass_time(1.0, "gateway-0", OTHER)

    pair.pass_time(2 * LIVING_SECONDS, OTHER)
    assert pair.clients == (True, True)
    pair.pass_time(STEP, "gateway-0", OTHER)
    assert pair.clients == (True, False)


def test_the_standby_takes_clients_at_once_when_the_gateway_has_died(pair: Pair) -> None:
    pair.pass_time(1.0, "gateway-0", OTHER)

    pair.board.set("gateway-0", Cell.STATE, State.STARTING)
    pair.pass_time(STEP, OTHER)

    assert pair.clients == (True, True)


def test_the_gateway_takes_pages_while_the_standby_does_not_live(pair: Pair) -> None:
    assert pair.pages == (True, True)
    pair.pass_time(1.0, "gateway-0", OTHER)
    assert pair.pages == (False, True)

    pair.pass_time(2 * LIVING_SECONDS, "gateway-0")

    assert pair.pages == (True, True)


def test_a_standby_that_starts_with_the_member_waits_for_the_gateway(pair: Pair) -> None:
    pair.pass_time(PATIENCE_SECONDS - STEP, OTHER)
    assert pair.clients == (True, False)

    pair.pass_time(2 * STEP, OTHER)

    assert pair.clients == (True, True)


def test_a_standby_that_was_restarted_waits_for_nobody(pair: Pair) -> None:
    pair.board.set(OTHER, Cell.INCARNATION, 2)
    heir = Balance(pair.board, OTHER, [OTHER])
    heir.look(pair.now)

    assert heir.may_accept(0)


def test_the_clients_a_standby_has_do_not_keep_others_from_the_gateway(pair: Pair) -> None:
    pair.pass_time(1.0, "gateway-0", OTHER)
    pair.board.set(OTHER, Cell.METRICS + GatewayMetric.READY, 1)

    pair.pass_time(STEP, "gateway-0", OTHER)

    assert pair.gateway.may_accept(SLACK_CONNECTIONS + 1000)
