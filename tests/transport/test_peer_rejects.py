"""Bad peers: whatever comes in at the port is rejected, counted, and harms nobody."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from tests.transport.peer_world import CLUSTER, World
from transport.lanes import Lane
from transport.peer_link import GAP_MAX, SESSIONS_MAX, Incoming
from transport.peer_wire import HEADER, MAGIC, Reason, encode_frame

SESSION = 99


@contextmanager
def stranger(world: World, member_id: int = 1) -> Iterator[zmq.Socket[bytes]]:
    """Speak ZeroMQ to a member's port as anybody may."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dialler = context.socket(zmq.PUSH)
    dialler.setsockopt(zmq.LINGER, 0)
    dialler.connect(world.members[member_id - 1].urls[0].replace("http", "tcp"))
    try:
        yield dialler
    finally:
        dialler.close()
        context.term()


def port_of(world: World, member_id: int = 1) -> int:
    return int(world.members[member_id - 1].urls[0].rpartition(":")[2])


def frame(
    cluster: int = CLUSTER, from_: int = 2, to: int = 1, lane: int = 0, counter: int = 1
) -> bytes:
    return encode_frame(lane, (cluster, from_, to, SESSION), counter, [b"evil"])


def with_version(version: int) -> bytes:
    good = frame()
    return good[: len(MAGIC)] + bytes([version]) + good[len(MAGIC) + 1 :]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"GET /version HTTP/1.1\r\n\r\n" * 10, Reason.MALFORMED),
        (frame()[: HEADER.size + 2], Reason.MALFORMED),
        (frame() + b"more", Reason.MALFORMED),
        (with_version(2), Reason.VERSION),
        (frame(lane=77), Reason.VERSION),
        (frame(cluster=CLUSTER + 1), Reason.CLUSTER),
        (frame(to=3), Reason.RECEIVER),
        (frame(from_=3), Reason.SENDER),
        (frame(from_=1), Reason.SENDER),
    ],
)
def test_a_frame_that_does_not_fit_is_counted_by_its_reason_and_goes_no_further(
    tmp_path: Path, bad: bytes, reason: Reason
) -> None:
    with World(tmp_path) as world:
        world.connect()
        with stranger(world) as dialler:
            dialler.send(bad)
            world.run(lambda: sum(world[1].rejected))

        assert world[1].rejected[reason] == sum(world[1].rejected) == 1
        assert not world[1].received.payloads
        world[2].send([1], [Lane.APPEND], [b"good"])
        assert world.take(1, 1).payloads == [b"good"]


def test_a_removed_member_is_not_listened_to_any_more(tmp_path: Path) -> None:
    with World(tmp_path, 3) as world:
        world.connect()
        world[1].set_members(world.members[:2])
        world[3].send([1], [Lane.CONTROL], [b"elect me"])

        world.run(lambda: world[1].rejected[Reason.SENDER])

        assert not world[1].received.payloads


def test_frames_are_not_taken_twice_nor_out_of_order(tmp_path: Path) -> None:
    with World(tmp_path, start=[1]) as world, stranger(world) as dialler:
        for counter in (1, 3, 3, 2, 4):
            dialler.send(frame(counter=counter))

        world.take(1, 3)
        world.run(lambda: world[1].rejected[Reason.STALE] == 2)

        assert world[1].lost_frames == 1


def test_frames_of_a_process_that_has_been_replaced_are_not_taken_twice(tmp_path: Path) -> None:
    with World(tmp_path, start=[1]) as world, stranger(world) as dialler:
        for session in (1, 2, 1):
            dialler.send(encode_frame(0, (CLUSTER, 2, 1, session), 10, [b"%d" % session]))

        world.run(lambda: world[1].rejected[Reason.STALE])

        assert world[1].take().payloads == [b"1", b"2"]


@pytest.mark.parametrize("lane", [Lane.CONTROL, Lane.APPEND, Lane.SNAPSHOT])
def test_a_frame_of_an_older_process_played_back_does_not_cut_off_its_sender(
    tmp_path: Path, lane: Lane
) -> None:
    with World(tmp_path) as world:
        world.connect()
        world[2].send([1], [lane], [b"before"])
        world.take(1, 1)
        with stranger(world) as dialler:
            dialler.send(frame(lane=lane))
            assert world.take(1, 1).payloads == [b"evil"]

            world[2].send([1], [lane], [b"after"])
            assert world.take(1, 1).payloads == [b"after"]
            dialler.send(frame(lane=lane))
            world.run(lambda: world[1].rejected[Reason.STALE])

        assert not world[1].received.payloads
        assert len(world[1].active()) == 1


def test_what_is_remembered_of_sessions_is_bounded() -> None:
    incoming = Incoming()
    for session in range(10 * SESSIONS_MAX):
        assert incoming.accept(session, 5)
        assert incoming.accept(-1, session + 1)  # the one that is heard is not forgotten

    assert len(incoming._counters) == SESSIONS_MAX
    assert not incoming.accept(-1, 10 * SESSIONS_MAX)


def test_a_gap_that_cannot_be_overflows_no_counter() -> None:
    incoming = Incoming()
    assert incoming.accept(1, 1)

    assert incoming.accept(1, 2**64 - 1)

    assert incoming.lost == GAP_MAX


def test_raw_garbage_on_the_port_disturbs_nobody(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        chance = random.Random(5)
        greetings = [b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f\x03", b"\x00" * 100]
        for greeting in greetings + [chance.randbytes(1000) for _ in range(20)]:
            with socket.create_connection(("127.0.0.1", port_of(world))) as bad:
                bad.sendall(greeting)
                world.run_for(0.005)

        world[2].send([1], [Lane.APPEND], [b"good"])

        assert world.take(1, 1).payloads == [b"good"]
        assert world[1].rejected[Reason.HANDSHAKE] > 0
        assert len(world[1].active()) == 1


def test_a_peer_that_announces_too_much_is_hung_up_on_before_it_is_believed(
    tmp_path: Path,
) -> None:
    with World(tmp_path, frame_bytes_max=100_000) as world:
        world.connect()
        with socket.create_connection(("127.0.0.1", port_of(world))) as bad:
            # ZMTP 3.0 greeting, NULL mechanism, READY as a PUSH socket, then a huge frame.
            bad.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31))
            ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
            bad.sendall(b"\x04" + bytes([len(ready)]) + ready)
            bad.sendall(b"\x02" + struct.pack(">Q", 3 << 30) + bytes(1000))
            world.run(lambda: world[1].inbound_closed)

        world[2].send([1], [Lane.APPEND], [b"good"])
        assert world.take(1, 1).payloads == [b"good"]


def test_a_flood_of_bad_frames_is_one_line_a_second(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.connect()
        with stranger(world) as dialler:
            dialler.setsockopt(zmq.SNDHWM, 0)
            for _ in range(5000):
                dialler.send(frame(cluster=7))
            seconds = world.run(lambda: world[1].rejected[Reason.CLUSTER] == 5000)

        lines = [line for line in world.log_lines() if "rejected" in line]
        assert 1 <= len(lines) <= 2 + seconds
