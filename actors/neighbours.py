"""All neighbours of one actor, played by one thread: for running an actor alone.

They speak the real links (transport.links): the actor finds their mailboxes on the board and can't
tell them from processes. What it says is kept in order; what is said to it is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zmq

from actors.observing import CORRELATIONS
from actors.wire import codec, kind, neighbours
from transport.counters import Board, Cell, State
from transport.links import Links, Welcome

ANY: Final = "any"


@dataclass(frozen=True, slots=True)
class Heard:
    """One message of the actor: to which neighbour, what, and when (CLOCK_MONOTONIC, seconds)."""

    to: str
    message: Any
    at: float


@dataclass(slots=True)
class _Neighbour:
    links: Links
    have: int = 0
    info: list[int] = field(default_factory=list)


class Neighbours:
    """The scripted neighbours of the actor `name`. One thread uses it.

    `have` (what a neighbour says it holds in its Hello) and `info` (what it says in its Welcome)
    are by neighbour; a gateway's `have` is its session, for an applier.
    """

    def __init__(
        self,
        run_dir: Path,
        board: Board,
        name: str,
        *,
        have: Mapping[str, int] | None = None,
        info: Mapping[str, list[int]] | None = None,
    ) -> None:
        self._name = name
        self._board = board
        self._poller = zmq.Poller()
        self._sockets: dict[Any, str] = {}
        self._players: dict[str, _Neighbour] = {}
        self.welcomes: dict[str, list[int]] = {}
        """Info of the actor's last Welcome to each neighbour."""
        for peer in neighbours(name, board.names):
            board.set(peer, Cell.INCARNATION, 1)
            board.set(peer, Cell.STATE, State.RUNNING)
            self._players[peer] = self._player(run_dir, peer)
        for peer, value in (have or {}).items():
            self.player(peer).have = value
        for peer, words in (info or {}).items():
            self.player(peer).info = list(words)

    def _player(self, run_dir: Path, peer: str) -> _Neighbour:
        links = Links(
            board=self._board,
            name=peer,
            incarnation=1,
            run_dir=run_dir,
            neighbours=[self._name],
            codec=codec,
            have=lambda _: self._players[peer].have,
            welcome=lambda *_: self._players[peer].info,
            clock=time.monotonic,
            correlations=CORRELATIONS,
        )
        self._poller.register(links.socket, zmq.POLLIN)
        self._sockets[links.socket] = peer
        return _Neighbour(links)

    @property
    def names(self) -> tuple[str, ...]:
        """The neighbours' names, in start order."""
        return tuple(self._players)

    def player(self, name: str) -> _Neighbour:
        """Return one neighbour. Raises LookupError if the actor has none of that name."""
        if name not in self._players:
            raise LookupError(f"{self._name} has no neighbour {name!r}: {', '.join(self.names)}")
        return self._players[name]

    def says(self, name: str, *, have: int | None = None, info: list[int] | None = None) -> None:
        """Change what a neighbour says of itself; a new `have` opens its stream anew."""
        player = self.player(name)
        if info is not None:
            player.info = info
        if have is not None:
            player.have = have
            player.links.reopen(self._name)

    def begin(self) -> None:
        """Say Hello, from every neighbour to the actor's incarnation on the board."""
        self.welcomes.clear()
        for player in self._players.values():
            player.links.start()

    def is_open(self, sender: str) -> bool:
        """Whether the actor listens to a neighbour already."""
        return self.player(sender).links.is_open(self._name)

    @property
    def introduced(self) -> bool:
        """Whether every stream is open, in both directions."""
        return all(map(self.is_open, self.names)) and len(self.welcomes) == len(self.names)

    def send(self, sender: str, message: Any, items: int = 1) -> bool:
        """Send to the actor; False if its stream is not open or full."""
        return self.player(sender).links.send(self._name, message, items)

    def hear(self, seconds: float, descriptors: Iterable[int] = ()) -> list[Heard]:
        """Return what the actor has said, waiting for it up to `seconds`.

        Comes back earlier when one of the `descriptors` can be read.
        """
        now = time.monotonic()
        until = now + seconds
        extra = list(descriptors)
        for descriptor in extra:
            self._poller.register(descriptor, zmq.POLLIN)
        try:
            while True:
                hello = self._tick(now)
                pause = max(0.0, min(until, hello) - now)
                ready = dict(self._poller.poll(int(pause * 1000) + bool(pause)))
                heard = [one for socket in ready for one in self._take(socket)]
                now = time.monotonic()
                if heard or now >= until or any(descriptor in ready for descriptor in extra):
                    return heard
        finally:
            for descriptor in extra:
                self._poller.unregister(descriptor)

    def _tick(self, now: float) -> float:
        """Repeat Hellos that are due; return when the next is."""
        times = [now + 60.0]
        for player in self._players.values():
            player.links.tick(now)
            due = player.links.next_hello()
            if due is not None:
                times.append(due)
        return min(times)

    def _take(self, socket: Any) -> list[Heard]:
        peer = self._sockets.get(socket)
        if peer is None:
            return []
        links = self._players[peer].links
        found: list[Heard] = []
        while True:
            try:
                frame = links.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return found
            received = links.accept(frame)
            if received is None:
                continue
            links.handled(received[0])
            if isinstance(received[1], Welcome):
                self.welcomes[peer] = received[1].info
            else:
                found.append(Heard(peer, received[1], time.monotonic()))

    def close(self) -> None:
        """Close every socket."""
        for player in self._players.values():
            player.links.close()


def senders(cls: type[Any]) -> tuple[str, ...]:
    """Return the kinds of actors that send a message class, as its docstring declares.

    The first line of every message in actors.messages is `sender, sender -> receiver: what`.
    """
    route = (cls.__doc__ or "").strip().partition("->")
    names = tuple(name.strip() for name in route[0].split(",")) if route[1] else ()
    return tuple(name for name in names if name)


def sender_of(message: Any, among: Iterable[str]) -> str:
    """Return the neighbour a message comes from. Raises LookupError unless one is the first."""
    kinds = senders(type(message))
    found = [name for name in among if kind(name) in kinds]
    if found:
        return found[0]
    said = ", ".join(kinds) or "nobody"
    raise LookupError(f"{type(message).__name__} is sent by {said}, none of which is a neighbour")
