"""Links between members over real sockets: delivery, order, lanes, restarts, loss."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from kv.version import VERSION
from tests.transport.peer_world import Proxy, World, free_ports, url
from transport import peer_address
from transport.lanes import Lane
from transport.peer_address import PeerBindError, PeerUrlError
from transport.peer_connection import CHANNELS
from transport.peer_wire import Reason, Standing, pack_version

MIB = 1 << 20


def test_every_member_hears_every_other_and_knows_its_version(tmp_path: Path) -> None:
    with World(tmp_path, 3) as world:
        world.connect()

        for peers in world.peers.values():
            assert [link.version for link in peers.active()] == [pack_version(VERSION)] * 2
            assert peers.lowest_version() == pack_version(VERSION)
            assert all(0 < link.round_trip_seconds < 1 for link in peers.active())


def test_payloads_arrive_once_in_the_order_of_their_lane_and_say_who_sent_them(
    tmp_path: Path,
) -> None:
    with World(tmp_path, 3) as world:
        world.connect()
        lanes = (Lane.CONTROL, Lane.APPEND, Lane.SNAPSHOT, Lane.LEASE)
        for sender in (1, 2):
            for number in range(50):
                payloads = [b"%d %d %d" % (sender, lane, number) for lane in lanes]
                world[sender].send([3] * 4, lanes, payloads)

        received = world.take(3, 400)

        for sender in (1, 2):
            for lane in lanes:
                expected = [b"%d %d %d" % (sender, lane, number) for number in range(50)]
                assert expected == [
                    payload
                    for from_, on, payload in zip(
                        received.senders, received.lanes, received.payloads, strict=True
                    )
                    if (from_, on) == (sender, lane)
                ]
        assert len(received.payloads) == 400


def test_many_payloads_of_a_batch_share_a_frame(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        before = world[1].sent_bytes

        world[1].send([2] * 100, [Lane.APPEND] * 100, [b"x"] * 100)
        world.take(2, 100)

        assert world[1].sent_bytes - before < 100 * 5 + 500  # one header, not a hundred


def test_a_heartbeat_does_not_wait_behind_a_snapshot_of_64_mib(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        outbox = world[1].links[2].connections[Lane.SNAPSHOT].outbox
        chunks = 0
        while chunks < 256 and outbox.waiting_bytes < 15 * MIB:
            world[1].send([2], [Lane.SNAPSHOT], [bytes(256 << 10)])
            chunks += 1

        world[1].send([2], [Lane.CONTROL], [b"heartbeat"])
        payloads = world.take(2, chunks + 1).payloads

        assert world[1].dropped == 0
        assert payloads.index(b"heartbeat") < 40 < chunks


def test_what_waits_for_a_peer_that_is_not_there_is_bounded_and_reported(tmp_path: Path) -> None:
    with World(tmp_path, start=[1]) as world:
        half = bytes(512 << 10)
        held = CHANNELS[Lane.APPEND].outbox_bytes // len(half)
        for _ in range(held + 10):
            world[1].send([2], [Lane.APPEND], [half])

        assert 10 <= world[1].dropped <= 12
        assert world[1].links[2].connections[Lane.APPEND].outbox.waiting_bytes <= 64 * MIB
        assert world[1].take_unreachable() == [2]
        assert world[1].take_unreachable() == []


def test_nothing_waits_longer_than_an_election_timeout(tmp_path: Path) -> None:
    with World(tmp_path, start=[1], election_seconds=0.2) as world:
        world[1].send([2], [Lane.CONTROL], [b"vote"])
        world.run(lambda: world[1].dropped)
        assert world[1].take_unreachable() == [2]

        world.start(2)
        world[1].send([2], [Lane.CONTROL], [b"fresh"])

        assert world.take(2, 1).payloads == [b"fresh"]


def test_a_dropped_snapshot_chunk_is_nothing_raft_is_told_of(tmp_path: Path) -> None:
    with World(tmp_path, start=[1], election_seconds=0.1) as world:
        world[1].send([2], [Lane.SNAPSHOT], [b"chunk"])
        world.run(lambda: world[1].dropped)

        assert world[1].take_unreachable() == []


def test_what_is_too_big_for_a_frame_is_dropped_at_the_sender_and_told(tmp_path: Path) -> None:
    with World(tmp_path, frame_bytes_max=100_000) as world:
        world.connect()
        world[1].send([2] * 3, [Lane.APPEND] * 3, [bytes(100_000), bytes(100_001), b"small"])

        assert world.take(2, 1).payloads == [b"small"]
        assert world[1].dropped == 2
        told = [line for line in world.log_lines() if "longer than a frame" in line]
        assert len(told) == 1
        assert '"bytes":100000' in told[0]
        assert world[1].take_unreachable() == [2]


def test_a_restarted_peer_is_reached_again_within_200_ms(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        world.stop(2)
        world.run_for(0.3)
        world.start(2)

        seconds = world.run(lambda: world.is_whole(world[1]) and world.is_whole(world[2]))
        world[1].send([2], [Lane.APPEND], [b"again"])

        assert world.take(2, 1).payloads == [b"again"]
        assert seconds < 0.2


def test_a_peer_that_closes_its_port_is_lost_once_and_soon(tmp_path: Path) -> None:
    with World(tmp_path, 3) as world:
        world.connect()
        world.stop(2)

        seconds = world.run(lambda: world[1].lost and world[3].lost)
        world.run_for(0.3)

        assert seconds < 0.1
        assert world[1].take_lost() == [2]
        assert world[1].take_unreachable() == [2]
        assert [link.member.id for link in world[1].active()] == [3]
        assert world[1].lowest_version() == 0


def test_a_peer_whose_port_stays_open_while_its_links_restart_is_not_lost(tmp_path: Path) -> None:
    with World(tmp_path, start=[1]) as world, socket.socket() as kept:
        port = int(world.members[1].urls[0].rpartition(":")[2])
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", port))
        kept.listen(128)
        world.start(2, descriptors=(kept.dup().detach(),))
        world.connect()

        world.stop(2)
        world.run_for(0.15)
        world.start(2, descriptors=(kept.dup().detach(),))
        world.connect()

        assert world[1].take_lost() == []
        assert world[1].take_unreachable() == [2]


def test_after_a_blackhole_messages_flow_again_at_once(tmp_path: Path) -> None:
    with World(tmp_path, start=[2]) as world:
        proxy = Proxy(int(world.members[1].urls[0].rpartition(":")[2]))
        try:
            direct = world.members[1]
            world.members[1] = replace(direct, urls=(url(proxy.port),))
            world.start(1)
            world.connect()

            proxy.frozen = True
            world.run(lambda: not world[1].active())
            world.run_for(1.2)
            assert not world[1].links[2].connections[0].up
            assert world[1].take_lost() == []
            proxy.frozen = False
            world[1].send([2], [Lane.APPEND], [b"healed"])
            seconds = world.run(lambda: b"healed" in world[2].received.payloads)

            assert seconds < 0.4
        finally:
            proxy.close()


def test_the_next_url_is_tried_when_one_does_not_answer(tmp_path: Path) -> None:
    with World(tmp_path, start=[2]) as world:
        (dead,) = free_ports(1)
        real = world.members[1]
        world.members[1] = replace(real, urls=(url(dead), *real.urls))

        world.start(1)
        world.connect()

        assert world[1].links[2].connections[0].up


def test_a_peer_tells_whether_it_knows_a_member_as_one_that_has_been_up(tmp_path: Path) -> None:
    with World(tmp_path, 3, start=[]) as world:
        world.members[1] = replace(world.members[1], bootstrapped=True)
        for member_id in (1, 2, 3):
            world.start(member_id)

        world.connect()
        world.run(lambda: all(world[member_id].standing for member_id in (1, 2, 3)))

        assert [world[member_id].standing for member_id in (1, 2, 3)] == [
            Standing.NEW,
            Standing.BOOTSTRAPPED,
            Standing.NEW,
        ]


def test_a_url_that_names_no_place_harms_nobody_else(tmp_path: Path) -> None:
    with World(tmp_path, 3, start=[]) as world:
        world.members[2] = replace(world.members[2], urls=("http://127.0.0.1:238000",))
        for member_id in (1, 2):
            world.start(member_id)
        world.run(lambda: len(world[1].active()) == 1)

        world[1].send([2, 3], [Lane.APPEND] * 2, [b"here", b"nowhere"])

        assert world.take(2, 1).payloads == [b"here"]


def test_every_address_of_a_name_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `localhost` where a member listens on one of its two addresses only."""
    monkeypatch.setattr(peer_address, "look_up", lambda _: ("::1", "127.0.0.1"))
    with World(tmp_path, start=[2]) as world:
        (here,) = world.members[1].urls
        named = replace(world.members[1], urls=(here.replace("127.0.0.1", "both.test"),))
        world.members = [world.members[0], named]
        world.start(1)

        world.connect()

        world[1].send([2], [Lane.CONTROL], [b"hello"])
        assert world.take(2, 1).payloads == [b"hello"]


def test_a_changed_url_is_dialled_and_a_removed_member_is_left(tmp_path: Path) -> None:
    with World(tmp_path, 3) as world:
        world.connect()
        (port,) = free_ports(1)
        world.stop(2)
        world.members[1] = replace(world.members[1], urls=(url(port),))
        world.start(2)
        world[1].set_members(world.members[:2])

        world.run(lambda: world.is_whole(world[1]))

        assert list(world[1].links) == [2]
        world[1].send([3], [Lane.APPEND], [b"to nobody"])
        assert world[1].dropped == 1


def test_host_names_and_ipv6_addresses_are_dialled(tmp_path: Path) -> None:
    with World(tmp_path, start=[]) as world:
        try:
            (port,) = free_ports(1, "::1")
        except OSError:
            pytest.skip("no IPv6 on this machine")
        first, second = world.members
        world.members = [
            replace(first, urls=(first.urls[0].replace("127.0.0.1", "localhost"),)),
            replace(second, urls=(f"http://[::1]:{port}",)),
        ]
        world.start(1)
        world.start(2)

        world.connect()

        assert world[2].links[1].connections[0].target is not None


def test_an_address_in_use_and_a_url_without_port_are_told(tmp_path: Path) -> None:
    with World(tmp_path, start=[1]) as world:
        taken = world.members[0].urls[0]
        with pytest.raises(PeerBindError, match=f"listen {taken}: Address already in use"):
            world.start(2, urls=(taken,))
        with pytest.raises(PeerUrlError, match="is not http://host:port"):
            world.start(2, urls=("http://127.0.0.1",))


def test_the_table_for_people_names_peers_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    with World(tmp_path, 3, start=[1, 2]) as world:
        world.connect()
        world.run(lambda: world[1].links[3].failures > 0)

        there, gone = world[1].stats()["peers"]

        assert (there["id"], there["name"], there["active"]) == ("2", "m2", True)
        assert there["server_version"] == VERSION
        assert there["sent_bytes"] > 0
        assert there["received_bytes"] > 0
        assert (gone["id"], gone["active"], gone["server_version"]) == ("3", False, "")
        assert world[1].find("m2") == world[1].find("2") == world[1].find(2) == [2]
        with pytest.raises(LookupError):
            world[1].find("m9")


def test_a_peer_that_does_not_answer_is_looked_up_again_though_its_link_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may have its address now, as after two containers were restarted."""
    asked: list[str] = []

    def look_up(host: str) -> tuple[str, ...]:
        asked.append(host)
        return ("127.0.0.1",)

    monkeypatch.setattr(peer_address, "look_up", look_up)
    with World(tmp_path, count=3, start=[1, 3]) as world:
        first, second, third = world.members
        wrong = tuple(one.replace("127.0.0.1", "m2.test") for one in third.urls)
        world[1].set_members([first, replace(second, urls=wrong), third])
        world.run(lambda: world[3].rejected[Reason.RECEIVER])
        asked.clear()

        world.run(lambda: "m2.test" in asked)
