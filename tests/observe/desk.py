"""A member of three on paper: a board, its info file, and links driven by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.observing import CORRELATIONS, MESSAGE_NAMES, Observer
from actors.wire import codec
from control.observe import MemberView
from transport.counters import Board, Cell, State
from transport.links import Links
from transport.log import Logger

NAMES = ("root", "applier", "raft-node", "gateway-0")


class Paper:
    """The run directory of a member whose actors are played by the test."""

    def __init__(self, run_dir: Path, names: tuple[str, ...] = NAMES) -> None:
        self.run_dir = run_dir
        self.board = Board(run_dir / "board", create=names)
        info = {
            "name": "paper",
            "data_dir": str(run_dir),
            "pid": 0,
            "client_urls": [],
            "tags": MESSAGE_NAMES,
            "children": [],
        }
        (run_dir / "info.json").write_text(json.dumps(info))
        self.players: list[Player] = []

    def view(self) -> MemberView:
        return MemberView(self.run_dir)

    def player(self, name: str, *neighbours: str, incarnation: int = 1) -> Player:
        player = Player(self, name, neighbours, incarnation)
        self.players.append(player)
        return player

    def close(self) -> None:
        for player in self.players:
            player.links.close()


class LogFile(Logger):
    """A log that can be read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log"
        self._file = self._path.open("wb")
        super().__init__(self._file.fileno(), "gateway-0")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_bytes().splitlines()]


class Player:
    """One actor: its links and its observer, moved by the test."""

    def __init__(
        self, paper: Paper, name: str, neighbours: tuple[str, ...], incarnation: int
    ) -> None:
        self.name = name
        self.board = paper.board
        self.board.set(name, Cell.INCARNATION, incarnation)
        self.board.set(name, Cell.STATE, State.RUNNING)
        self.links = Links(
            board=paper.board,
            name=name,
            incarnation=incarnation,
            run_dir=paper.run_dir,
            neighbours=neighbours,
            codec=codec,
            have=lambda _: 0,
            welcome=lambda *_: [],
            clock=lambda: 0.0,
            correlations=CORRELATIONS,
        )
        self.observer = Observer(self.links, paper.board, name)
        self.links.start()

    def begin(self, wait_ms: int = 2000) -> tuple[Any, int, int, int]:
        """Take the next message and begin with it; return it and what `end` wants."""
        while True:
            assert self.links.socket.poll(wait_ms), f"nothing comes for {self.name}"
            accepted = self.links.accept(self.links.socket.recv())
            if accepted is not None:
                break
        self.links.handled(accepted[0])
        self.links.taken = accepted
        tag = codec.tag(accepted[1])
        began = accepted[3] + 1000
        return accepted[1], self.observer.begins(accepted[1], tag, began), tag, began

    def handle(self) -> Any:
        """Take and finish the next message."""
        message, slot, tag, began = self.begin()
        self.observer.ends(slot, tag, began)
        return message

    def settle(self) -> None:
        """Answer Hellos and take Welcomes until nothing comes."""
        while self.links.socket.poll(50):
            accepted = self.links.accept(self.links.socket.recv())
            if accepted is not None:
                self.links.handled(accepted[0])


def introduce(*players: Player) -> None:
    """Open all streams between players."""
    for _ in range(3):
        for player in players:
            player.links.tick(1e9)
            player.settle()
