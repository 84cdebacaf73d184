"""What waits for a connection: in order, bounded in bytes and in time, the oldest goes first."""

from __future__ import annotations

from transport.peer_outbox import ENTRY_BYTES, Outbox

ROOM_FOR_THREE = 3 * (ENTRY_BYTES + 10)


def outbox(bytes_max: int = ROOM_FOR_THREE) -> Outbox:
    return Outbox(bytes_max, seconds_max=1.0)


def test_the_oldest_is_dropped_when_there_is_no_room() -> None:
    box = outbox()

    dropped = [box.put(0.0, lane, bytes([lane]) * 10) for lane in range(5)]

    assert dropped == [[], [], [], [0], [1]]
    assert box.waiting_bytes == ROOM_FOR_THREE
    assert box.head(1.0, 100)[0] == 2


def test_a_payload_bigger_than_all_room_is_taken_alone() -> None:
    """It is in the leader's log: nothing else gets past it."""
    box = outbox()
    box.put(0.0, 0, b"small")

    assert box.put(0.0, 1, b"x" * ROOM_FOR_THREE) == [0]
    assert len(box) == 1
    assert box.put(0.0, 2, b"next") == [1]
    assert box.waiting_bytes == ENTRY_BYTES + 4


def test_nothing_waits_longer_than_its_time() -> None:
    box = outbox()
    box.put(10.0, 0, b"old")
    box.put(10.5, 1, b"young")

    assert box.expire(11.0) == []
    assert box.expire(11.1) == [0]
    assert box.head(11.1, 100) == (1, [b"young"])
    assert box.waiting_bytes == ENTRY_BYTES + 5


def test_a_frame_holds_neighbours_of_one_lane_and_not_more_bytes_than_it_may() -> None:
    box = outbox(1 << 20)
    for lane, payload in ((0, b"aaa"), (0, b"bbb"), (0, b"ccc"), (3, b"d"), (0, b"e")):
        box.put(0.0, lane, payload)

    frames = []
    while box:
        lane, payloads = box.head(0.0, 6)
        box.remove(payloads)
        frames.append((lane, payloads))

    assert frames == [(0, [b"aaa", b"bbb"]), (0, [b"ccc"]), (3, [b"d"]), (0, [b"e"])]
    assert box.waiting_bytes == 0


def test_a_payload_bigger_than_a_frame_travels_alone() -> None:
    box = outbox(1 << 20)
    box.put(0.0, 1, b"x" * 100)
    box.put(0.0, 1, b"y")

    assert box.head(0.0, 10) == (1, [b"x" * 100])


def test_nothing_leaves_before_it_is_due() -> None:
    box = outbox()
    box.put(1.0, 0, b"now")
    box.put(5.0, 0, b"later")

    assert box.head(2.0, 100) == (0, [b"now"])
    box.remove(box.head(2.0, 100)[1])
    assert box.head(2.0, 100) == (0, [])
    assert box.next_due() == 5.0
