"""Whether a member has clients, by the board and by what gateways ask."""

from __future__ import annotations

from pathlib import Path

from actors.raft_clients import ASK_SECONDS, PRESENT_SECONDS, Clients
from tests.actors.boards import make_board
from transport.counters import Cell


def test_a_member_nobody_asks_has_no_clients(tmp_path: Path) -> None:
    clients = Clients(make_board(tmp_path))
    clients.look(10.0)

    assert not clients.present(10.0)
    assert not clients.ask_due(10.0)


def test_a_connection_is_a_client_for_as_long_as_it_is_open(tmp_path: Path) -> None:
    board = make_board(tmp_path)
    clients = Clients(board)
    board.set("gateway-1", Cell.CONNECTIONS, 1)
    clients.look(10.0)
    assert clients.present(10.0)

    board.set("gateway-1", Cell.CONNECTIONS, 0)
    clients.look(10.0 + PRESENT_SECONDS)

    assert not clients.present(10.0 + PRESENT_SECONDS)


def test_the_leader_is_told_of_clients_now_and_then(tmp_path: Path) -> None:
    clients = Clients(make_board(tmp_path))
    clients.note(10.0)

    assert [clients.ask_due(10.0 + pause) for pause in (0.0, 0.1, ASK_SECONDS)] == [
        True,
        False,
        True,
    ]
