"""Faults put between members on purpose: they do what their names say, and end."""

from __future__ import annotations

import time
from pathlib import Path

from tests.transport.peer_world import World
from transport.lanes import Lane
from transport.peer_faults import Faults


def change(world: World, member_id: int, peer: int, **fields: object) -> None:
    world[member_id].faults.change(peer, time.monotonic(), **fields)


def test_a_cut_stops_everything_both_ways_until_it_is_mended(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        change(world, 1, 2, cut_in=True, cut_out=True)
        world[1].send([2], [Lane.CONTROL], [b"cut"])
        world[2].send([1], [Lane.CONTROL], [b"cut"])
        world.run(lambda: not world[1].active() and not world[2].active())
        assert not world[1].received.payloads
        assert not world[2].received.payloads
        assert world[1].take_lost() == world[2].take_lost() == []

        world[1].faults.mend(2)
        world.run(lambda: world[1].active() and world[2].active())
        world[1].send([2], [Lane.CONTROL], [b"mended"])

        assert world.take(2, 1).payloads == [b"mended"]
        assert world[1].faults.table == {}


def test_a_one_way_cut_lets_the_other_way_through(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        change(world, 1, 2, cut_out=True)
        world[1].send([2], [Lane.APPEND], [b"cut"])
        world[2].send([1], [Lane.APPEND], [b"through"])
        assert world.take(1, 1).payloads == [b"through"]

        change(world, 1, 2, cut_out=False, cut_in=True)
        world[2].send([1], [Lane.APPEND], [b"cut"])
        world[1].send([2], [Lane.APPEND], [b"through"])

        assert world.take(2, 1).payloads == [b"through"]
        world.run_for(0.05)
        assert not world[1].received.payloads


def test_a_cut_to_one_peer_leaves_the_other_alone(tmp_path: Path) -> None:
    with World(tmp_path, 3) as world:
        world.connect()
        change(world, 1, 2, cut_in=True, cut_out=True)

        world[1].send([2, 3], [Lane.APPEND] * 2, [b"cut", b"through"])

        assert world.take(3, 1).payloads == [b"through"]
        assert not world[2].received.payloads


def test_paused_payloads_leave_in_their_order_when_sending_goes_on(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        change(world, 1, 2, paused=True)
        for payload in (b"a", b"b"):
            world[1].send([2], [Lane.APPEND], [payload])
        world.run_for(0.05)
        assert not world[2].received.payloads

        change(world, 1, 2, paused=False)
        world[1].send([2], [Lane.APPEND], [b"c"])

        assert world.take(2, 3).payloads == [b"a", b"b", b"c"]


def test_what_is_paused_for_too_long_is_dropped_and_reported(tmp_path: Path) -> None:
    with World(tmp_path, election_seconds=0.2) as world:
        world.connect()
        change(world, 1, 2, paused=True)
        world[1].send([2], [Lane.APPEND], [b"late"])

        world.run(lambda: world[1].dropped)

        assert world[1].take_unreachable() == [2]


def test_a_delay_delays(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        change(world, 1, 2, delay_seconds=0.15)
        began = time.monotonic()
        world[1].send([2], [Lane.APPEND], [b"late"])

        world.take(2, 1)

        assert 0.15 <= time.monotonic() - began < 1.0


def test_half_of_the_payloads_are_dropped_or_sent_twice(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        change(world, 1, 2, drop_ratio=0.5)
        world[1].send([2] * 1000, [Lane.APPEND] * 1000, [b"x"] * 1000)
        change(world, 1, 2, drop_ratio=0.0, duplicate_ratio=0.5)
        world[1].send([2] * 1000, [Lane.APPEND] * 1000, [b"y"] * 1000)
        world[1].send([2], [Lane.APPEND], [b"end"])

        world.run(lambda: b"end" in world[2].received.payloads)

        payloads = world[2].take().payloads
        assert 400 < payloads.count(b"x") < 600
        assert 1400 < payloads.count(b"y") < 1600


def test_a_fault_ends_at_its_time_and_the_next_begins_afresh() -> None:
    faults = Faults()
    faults.change(2, now=10.0, cut_in=True, until=15.0)

    assert faults.of(2, 14.9) is not None
    assert faults.of(2, 15.0) is None
    assert faults.of(3, 14.9) is None
    faults.change(2, now=16.0, paused=True)
    fault = faults.of(2, 1e9)
    assert fault is not None
    assert (fault.paused, fault.cut_in) == (True, False)
