"""The inbox of an actor: order, batches, Flush on a dry inbox, time, and being woken."""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from pykka._envelope import Envelope

from transport.counters import Board, Cell
from transport.links import has_more
from transport.mailbox import BATCH_MAX, QUEUE_MAX, Flush, Mailbox, Tick

SENDER = "gateway-0"
DATAGRAM = b"hello"


class Links:
    """A socket whose frames are texts; `hello` is a datagram and for nobody."""

    def __init__(self, address: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self.socket.bind(address)
        self.peer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self.peer.setsockopt(zmq.SNDHWM, 0)
        self.peer.connect(address)
        self.handled_count = 0
        self.ticks = 0
        self.tells = True

    def accept(self, frame: bytes) -> tuple[str, Any, int] | None:
        return None if frame == DATAGRAM else (SENDER, frame.decode(), 2)

    def handled(self, sender: str) -> None:
        assert sender == SENDER
        self.handled_count += 1

    def owed(self) -> bool:
        return self.tells and has_more(self.socket)

    def tick(self, now: float) -> None:
        self.ticks += 1

    def next_hello(self) -> float | None:
        return None


class Desk:
    def __init__(self, folder: Path, tick_seconds: float) -> None:
        self.board = Board(folder / "board", create=["root", "applier"])
        self.links = Links(f"inproc://{folder}")
        links: Any = self.links
        self.mailbox = Mailbox(links, self.board, "applier", tick_seconds=tick_seconds)
        assert type(self.take()) is Tick  # the first thing ever handed out
        assert type(self.take()) is Flush

    def post(self, *texts: str) -> None:
        for text in texts:
            self.links.peer.send(text.encode())

    def take(self) -> Any:
        return self.mailbox.get().message

    def take_until(self, kind: type) -> list[Any]:
        found = [self.take()]
        while type(found[-1]) is not kind:
            found.append(self.take())
        return found

    def close(self) -> None:
        self.links.socket.close(linger=0)
        self.links.peer.close(linger=0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A mailbox whose ticks are an hour apart."""
    made = Desk(tmp_path, 3600.0)
    yield made
    made.close()


def test_a_flush_follows_the_last_message_of_a_dry_inbox(desk: Desk) -> None:
    desk.post("a", "b", "c")

    assert desk.take_until(Flush) == ["a", "b", "c", Flush()]


def test_there_is_no_second_flush_before_the_next_message(desk: Desk) -> None:
    desk.post("a")
    desk.take_until(Flush)
    threading.Timer(0.05, desk.post, ["b"]).start()

    assert desk.take() == "b"


def test_a_full_inbox_is_flushed_after_every_batch(desk: Desk) -> None:
    texts = [str(number) for number in range(BATCH_MAX + 10)]
    desk.post(*texts)

    first = desk.take_until(Flush)
    second = desk.take_until(Flush)

    assert [*first[:-1], *second[:-1]] == texts
    assert len(first) == BATCH_MAX + 1


def test_no_more_is_drained_than_the_queue_holds(desk: Desk) -> None:
    desk.post(*["x"] * (QUEUE_MAX + 100))

    desk.take()

    assert len(desk.mailbox.peek()) == QUEUE_MAX - 1


def test_what_the_board_does_not_tell_of_comes_after_the_flush(desk: Desk) -> None:
    desk.links.tells = False
    desk.post("a")
    assert desk.take() == "a"
    desk.post("b", "c")

    assert desk.take_until(Flush) == [Flush()]
    assert desk.take_until(Flush) == ["b", Flush()]
    assert desk.take_until(Flush) == ["c", Flush()]


def test_one_that_lingers_sees_what_comes_and_sleeps_when_nothing_does(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    yields: list[float] = []
    monkeypatch.setattr("transport.mailbox.LINGER_SECONDS", 0.3)
    monkeypatch.setattr("os.sched_yield", lambda: yields.append(time.monotonic()))
    desk.mailbox.lingers = True
    desk.post("a")
    desk.take_until(Flush)
    threading.Timer(0.01, desk.post, ["b"]).start()
    assert desk.take_until(Flush) == ["b", Flush()]
    assert not yields  # nothing had come soon before

    threading.Timer(0.01, desk.post, ["c"]).start()
    assert desk.take_until(Flush) == ["c", Flush()]
    assert yields

    threading.Timer(1.0, desk.post, ["d"]).start()
    began = time.monotonic()
    assert desk.take_until(Flush) == ["d", Flush()]
    assert yields[-1] - began < 0.9

    yields.clear()
    threading.Timer(0.01, desk.post, ["e"]).start()
    assert desk.take_until(Flush) == ["e", Flush()]
    assert not yields


def test_peek_tells_what_waits_without_taking_it(desk: Desk) -> None:
    desk.post("a", "b")
    desk.take()

    assert [received[:2] for received in desk.mailbox.peek()] == [(SENDER, "b")]
    assert desk.take() == "b"


def test_what_is_handed_out_is_counted(desk: Desk) -> None:
    desk.post("a", "b")
    batches = desk.board.get("applier", Cell.BATCHES)

    desk.take_until(Flush)

    assert desk.links.handled_count == 2
    assert desk.board.get("applier", Cell.ITEMS) == 4
    assert desk.board.get("applier", Cell.BATCHES) == batches + 1


def test_a_stream_that_opens_is_followed_by_a_flush(desk: Desk) -> None:
    desk.links.peer.send(DATAGRAM)

    assert desk.take() == Flush()


def test_ticks_come_under_load_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 0.01)
    taken: list[Any] = []

    while sum(type(message) is Tick for message in taken) < 3:
        desk.post("x")
        taken.append(desk.take())

    assert desk.links.ticks >= 3
    assert Flush() in taken
    desk.close()


def test_an_idle_actor_ticks_and_turns_its_loop(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 0.01)
    loops = desk.board.get("applier", Cell.LOOPS)

    taken = [desk.take() for _ in range(4)]

    assert [type(message) for message in taken] == [Tick, Flush, Tick, Flush]
    assert desk.board.get("applier", Cell.LOOPS) >= loops + 2
    desk.close()


def test_a_tick_may_be_asked_for_sooner(desk: Desk) -> None:
    desk.mailbox.wake_at(0.0)

    assert type(desk.take()) is Tick


def test_another_thread_wakes_it_and_goes_before_what_waits(desk: Desk) -> None:
    threading.Timer(0.05, desk.mailbox.put, [Envelope("stop")]).start()
    woken = desk.take()
    desk.post("a")
    desk.mailbox.put(Envelope("stop"))

    assert woken == "stop"
    assert desk.take() == "stop"
    assert desk.mailbox.empty()
    assert desk.take() == "a"


def test_ticks_that_are_always_due_starve_nobody(desk: Desk) -> None:
    desk.post("one")
    select.select([int(desk.links.socket.getsockopt(zmq.FD))], [], [], 1.0)  # asks no socket
    taken: list[Any] = []
    while len(taken) < 6:
        desk.mailbox.wake_at(0.0)  # as an actor does whose Tick takes longer than its interval
        taken.append(desk.take())

    assert [type(message) for message in taken[:1]] == [Tick]
    assert any(type(message) is not Tick and type(message) is not Flush for message in taken)
    assert not any(type(a) is type(b) is Tick for a, b in itertools.pairwise(taken))


def test_a_watched_socket_is_called_back_for_until_it_has_nothing_more(desk: Desk) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    inside, outside = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    inside.bind("inproc://watched")
    outside.connect("inproc://watched")
    found: list[bytes] = []
    desk.mailbox.watch(inside, lambda: found.append(inside.recv(zmq.NOBLOCK)))
    for text in (b"a", b"b", b"c"):
        outside.send(text)

    desk.post("x", "y")
    taken = desk.take_until(Flush)
    while len(found) < 3:
        assert desk.take() == Flush()

    assert taken == ["x", "y", Flush()]
    assert found == [b"a", b"b", b"c"]
    desk.mailbox.unwatch(inside)
    outside.send(b"d")
    desk.post("z")
    assert desk.take_until(Flush) == ["z", Flush()]
    assert len(found) == 3
    inside.close(linger=0)
    outside.close(linger=0)


def test_a_callback_may_unwatch_another_source(desk: Desk) -> None:
    first, second = os.eventfd(1), os.eventfd(1)
    called: list[int] = []

    def only(own: int, other: int) -> None:
        called.append(own)
        desk.mailbox.unwatch(other)
        os.eventfd_read(own)

    desk.mailbox.watch(first, lambda: only(first, second))
    desk.mailbox.watch(second, lambda: only(second, first))

    assert desk.take() == Flush()
    assert len(called) == 1
    for descriptor in (first, second):
        os.close(descriptor)
