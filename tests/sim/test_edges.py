"""The simulation's streams keep their promise: what they reorder, no real member would see."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from tests.sim.edges import Edges
from tests.sim.world import World


def end(name: str, received: list[object]) -> Any:
    """Return one end of a stream, which always lives."""
    return SimpleNamespace(
        name=name,
        alive=True,
        frozen_until=0.0,
        incarnation=1,
        actor=SimpleNamespace(have=lambda _: 0, welcome=lambda *_: []),
        running=nullcontext,
        poke=lambda: None,
        deliver=received.append,
    )


@pytest.mark.parametrize("seed", range(20))
def test_messages_come_in_the_order_they_were_sent_however_moments_are_rounded(seed: int) -> None:
    # At the very beginning, where the time that passes is longer than the time that has passed.
    world = World(seed)
    received: list[object] = []
    sent: list[int] = []
    processes = {name: end(name, received) for name in ("raft-node", "applier")}
    edges = Edges(SimpleNamespace(world=world, processes=processes))  # type: ignore[arg-type]
    edges.open_later("raft-node", "applier")

    def send() -> None:
        if edges.send("raft-node", "applier", len(sent)):
            sent.append(len(sent))

    for _ in range(1000):
        world.after(world.chance.random() ** 4 / 4, send)
    world.run(1.0)

    assert sent
    assert received[1:] == sent  # the first is the Welcome
