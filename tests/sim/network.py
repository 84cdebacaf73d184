"""The network between members: late, out of order, twice, or never."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from actors.messages import PeerLinks, PeerReceived
from actors.peer_codec import decode_peer
from raft.messages import MsgProp

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.member import Member

HELD_SECONDS_MAX = 12.0
"""A message may lie in a cut connection for longer than ten seconds, and then be delivered."""


class Network:
    """Carries PeerReceived from transport to transport."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._cuts: set[tuple[int, int]] = set()
        self._epochs: dict[int, int] = {}
        self.loss = 0.0
        self.repeats = 0.0
        self.slowness = 0.0
        """Seconds added to messages at most."""
        self.holding = 0.0
        """Probability that a cut link keeps a message until it is mended."""
        self.echoing: set[int] = set()
        """Members whose proposals come again, much later."""
        self._held: list[tuple[int, int, int, int, float, PeerReceived]] = []

    # --- faults -----------------------------------------------------------------------------------

    def cut(self, sender: int, receiver: int) -> None:
        """Cut one direction."""
        self._cuts.add((sender, receiver))

    def partition(self, side: Iterable[int]) -> None:
        """Cut a set of members off from all others, both ways."""
        inside = set(side)
        for one in inside:
            for other in self._cluster.members.keys() - inside:
                self.cut(one, other)
                self.cut(other, one)

    def mend(self) -> None:
        """Mend all links; what was kept is on its way again."""
        self._cuts.clear()
        held, self._held = self._held, []
        for sender, receiver, from_epoch, to_epoch, since, message in held:
            if self._world.now - since < HELD_SECONDS_MAX:
                self._world.point("message held in a cut link delivered")
                self._travel(sender, receiver, from_epoch, to_epoch, message)

    def calm(self) -> None:
        """Lose, repeat and delay nothing any more."""
        self.loss = self.repeats = self.slowness = self.holding = 0.0
        self.echoing.clear()
        self.mend()

    def forget(self, member: int) -> None:
        """A transport has died, and with it what was under way from it and to it."""
        self._epochs[member] = self._epochs.get(member, 0) + 1

    def passes(self, sender: int, receiver: int) -> bool:
        """Whether a message would get through now."""
        world = self._world
        return (sender, receiver) not in self._cuts and not world.often(self.loss)

    # --- messages ---------------------------------------------------------------------------------

    def send(self, sender: Member, receiver: int, message: PeerReceived) -> None:
        """Send one message, whatever becomes of it."""
        world = self._world
        if receiver not in self._cluster.members:
            return
        from_epoch = self._epochs.get(sender.id, 0)
        to_epoch = self._epochs.get(receiver, 0)
        if (sender.id, receiver) in self._cuts:
            if world.often(self.holding):
                self._held.append((sender.id, receiver, from_epoch, to_epoch, world.now, message))
            else:
                self._unreachable(sender, receiver)
            return
        if world.often(self.loss):
            world.faults["message lost"] += 1
            self._unreachable(sender, receiver)
            return
        self._travel(sender.id, receiver, from_epoch, to_epoch, message)
        if sender.id in self.echoing and isinstance(decode_peer(message.payloads[0]), MsgProp):
            world.faults["proposal repeated late"] += 1
            delay = world.chance.uniform(0.4, 2.0)
            world.after(delay, self._travel, sender.id, receiver, from_epoch, to_epoch, message)
        elif world.often(self.repeats):
            world.faults["message repeated"] += 1
            delay = world.chance.choice((0.0, 0.0, 0.3, 3.0)) * world.chance.random()
            world.after(delay, self._travel, sender.id, receiver, from_epoch, to_epoch, message)

    def _unreachable(self, sender: Member, receiver: int) -> None:
        if self._world.often(0.2):
            sender.processes["raft-node"].deliver(PeerLinks([receiver], []))

    def _travel(
        self, sender: int, receiver: int, from_epoch: int, to_epoch: int, message: PeerReceived
    ) -> None:
        chance = self._world.chance
        delay = chance.uniform(2e-4, 2e-3) + self.slowness * chance.random()
        self._world.after(delay, self._arrive, sender, receiver, from_epoch, to_epoch, message)

    def _arrive(
        self, sender: int, receiver: int, from_epoch: int, to_epoch: int, message: PeerReceived
    ) -> None:
        if self._epochs.get(receiver, 0) != to_epoch or self._epochs.get(sender, 0) != from_epoch:
            return
        member = self._cluster.members[receiver]
        if member.processes["transport"].alive:
            member.processes["raft-node"].deliver(message)
