"""Streams between the processes of one member, as transport.links promises them.

In order, without gaps; a stream begins when its receiver has said Hello, with a Welcome. What is
under way when either end is replaced is lost, and so is everything when a gap breaks the stream:
then the receiver opens a new one from what it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from transport.links import Welcome

if TYPE_CHECKING:
    from tests.sim.member import Member

PAIRS: Final = (
    ("raft-node", "applier"),
    ("applier", "raft-node"),
    ("raft-node", "gateway-0"),
    ("gateway-0", "raft-node"),
    ("applier", "gateway-0"),
    ("raft-node", "snapshotter"),
    ("snapshotter", "raft-node"),
    ("raft-node", "transport"),
)


@dataclass(slots=True)
class _Edge:
    epoch: int = 0
    is_open: bool = False
    busy_until: float = 0.0


class Edges:
    """All streams of one member."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._edges = {pair: _Edge() for pair in PAIRS}

    def is_open(self, sender: str, receiver: str) -> bool:
        """Tell whether the receiver has opened a stream from the sender."""
        edge = self._edges.get((sender, receiver))
        return edge is not None and edge.is_open

    def started(self, name: str) -> None:
        """A process begins: all its streams, in and out, begin anew."""
        for sender, receiver in PAIRS:
            if name in (sender, receiver):
                self.open_later(sender, receiver)

    def open_later(self, sender: str, receiver: str) -> None:
        """The receiver says Hello; it is answered in a moment, or later if need be."""
        edge = self._edges[sender, receiver]
        edge.epoch += 1
        edge.is_open = False
        world = self._member.world
        delay = world.chance.uniform(1e-4, 2e-3) if world.often(0.9) else world.chance.random() / 5
        world.after(delay, self._open, sender, receiver, edge.epoch)

    def break_one(self) -> None:
        """Lose what is under way on some stream, as when a queue overflows."""
        sender, receiver = self._member.world.chance.choice(PAIRS)
        if self._edges[sender, receiver].is_open:
            self._member.world.fault("stream broken", f"m{self._member.id} {sender}->{receiver}")
            self.open_later(sender, receiver)

    def _open(self, sender: str, receiver: str, epoch: int) -> None:
        edge = self._edges[sender, receiver]
        one = self._member.processes[sender]
        other = self._member.processes[receiver]
        if edge.epoch != epoch or not one.alive or not other.alive:
            return  # whoever starts next says Hello again
        thaw = max(one.frozen_until, other.frozen_until)
        if thaw > self._member.world.now:
            delay = thaw - self._member.world.now
            self._member.world.after(delay, self._open, sender, receiver, epoch)
            return
        with other.running():
            have = other.actor.have(sender)
        with one.running():
            edge.is_open = True
            info = one.actor.welcome(receiver, have)
            self.send(sender, receiver, Welcome(sender, one.incarnation, info))
        one.poke()

    def send(self, sender: str, receiver: str, message: object) -> bool:
        """Send on a stream; False if there is none."""
        edge = self._edges.get((sender, receiver))
        if edge is None or not edge.is_open:
            return False
        world = self._member.world
        delay = (
            world.chance.uniform(2e-5, 2e-4) if world.often(0.97) else world.chance.random() / 30
        )
        at = edge.busy_until = max(edge.busy_until, world.now + delay)
        world.at(at, self._deliver, sender, receiver, edge.epoch, message)
        return True

    def _deliver(self, sender: str, receiver: str, epoch: int, message: object) -> None:
        if self._edges[sender, receiver].epoch == epoch:
            self._member.processes[receiver].deliver(message)
