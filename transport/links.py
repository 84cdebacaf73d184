"""Streams between actors: numbered, opened by the receiver, never passed over a gap.

ZeroMQ is a fast pipe and not a reliable one: when a receiver dies, what was queued for it is gone
without an error. So an edge is a *stream*, named by a number that its receiver chose:

1. A receiver opens its incoming stream from a neighbour with a Hello datagram (its incarnation, the
   stream's number, what it has already), repeated until answered.
2. The sender answers by closing its old socket, connecting to the incarnation named in the Hello
   and sending Welcome as message 0 of the new stream. Before a Hello it sends nothing.
3. A message of another stream is dropped; a gap in the sequence makes the receiver open a new
   stream from what it has. Nothing is ever passed over, and what a stream that ended did not hand
   over is counted as lost (`Board.lost`).
4. A Hello from an incarnation not met before is answered with a Hello of one's own.
5. Sends never wait. What does not fit is dropped and counted: the receiver sees the gap.

Invariants: at most one incoming and one outgoing stream per neighbour; sequence numbers of a stream
start at 0 and grow by 1; a stream's number is (receiver incarnation << 32) + epoch, never reused.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import zmq

from raft.message import message
from transport.address import mailbox_address
from transport.codec import Codec
from transport.counters import Board, Cell, Edge
from transport.edge_faults import EdgeFaults
from transport.recorder import Kind, Recorder

Received = tuple[str, Any, int, int, int, int]
"""Sender, message, items; then when it was sent, its sequence and its bytes."""
Correlations = Mapping[type, Callable[[Any], int]]
_HEADER: Final = struct.Struct("<BIQQIQ")
"""Sender, its incarnation, stream, sequence, items, CLOCK_MONOTONIC in ns when it was sent."""
_DATAGRAM: Final = 0
_OUT: Final = int(Kind.OUT)
_DROPPED: Final = int(Kind.DROPPED)
_READABLE: Final = int(zmq.POLLIN)
# Plain numbers where every message comes by: an enum's member costs more than what it is for.
_SENT: Final = int(Edge.SENT)
_SENT_BYTES: Final = int(Edge.SENT_BYTES)
_SENT_ITEMS: Final = int(Edge.SENT_ITEMS)
_HANDLED: Final = int(Edge.HANDLED)
_HANDLED_ITEMS: Final = int(Edge.HANDLED_ITEMS)
HELLO_SECONDS_MIN: Final = 0.004
HELLO_SECONDS_MAX: Final = 0.2
HELLO_NEW_STREAM_AFTER: Final = 8
SEND_HWM: Final = 10_000


@message
class Hello:
    """Open a stream to me: the receiver's word. `have` is what the actor already holds."""

    sender: str
    incarnation: int
    stream: int
    have: int


@message
class Welcome:
    """Message 0 of every stream. `sender` lives as `incarnation`; `info` is the actor's own."""

    sender: str
    incarnation: int
    info: list[int]


class _Incoming:
    __slots__ = (
        *("answered", "expected", "incarnation", "next_hello", "pause", "said", "stream"),
        "taken_late",
    )

    def __init__(self) -> None:
        self.stream = 0
        self.incarnation = 0
        self.expected = 0
        self.answered = False
        self.next_hello = 0.0
        self.pause = HELLO_SECONDS_MIN
        self.said = 0
        self.taken_late = 0
        """Messages of streams that ended, accepted and not yet handled."""


class _Outgoing:
    __slots__ = ("dropped", "incarnation", "sequence", "socket", "stream")

    def __init__(self) -> None:
        self.stream = 0
        self.incarnation = 0
        self.sequence = 0
        self.dropped = 0
        self.socket: zmq.Socket[bytes] | None = None


def has_more(socket: zmq.Socket[bytes]) -> bool:
    """Tell whether a frame has come: half the price of being told by an exception."""
    events: int = socket.getsockopt(zmq.EVENTS)  # type: ignore[assignment]
    return bool(events & _READABLE)


class Links:
    """All streams of one actor to and from its neighbours. One thread uses it: the actor's."""

    def __init__(
        self,
        *,
        board: Board,
        name: str,
        incarnation: int,
        run_dir: Path,
        neighbours: Iterable[str],
        codec: Codec,
        have: Callable[[str], int],
        welcome: Callable[[str, int], list[int]],
        clock: Callable[[], float],
        correlations: Correlations | None = None,
    ) -> None:
        """`have(sender)` fills a Hello; `welcome(receiver, have)` is told that a stream opens.

        `correlations` tell by a message's class what ties it to others, for the recorder.
        """
        self.recorder = Recorder(board, name, incarnation)
        self.taken: Received | None = None
        """What the actor was handed last and has not begun with: of a stream, not local."""
        self.on_sent: Callable[[str, Any, int, int, int, int], None] | None = None
        """Told (receiver, message, items, time, sequence, bytes) of what is sent: a tap's."""
        self.correlations: Correlations = correlations or {}
        self.faults: EdgeFaults | None = None
        self._board = board
        self._words = board.words
        self._name = name
        self._incarnation = incarnation
        self._run_dir = run_dir
        self._codec = codec
        self._have = have
        self._welcome = welcome
        self._clock = clock
        self._epoch = 0
        self._position = board.position(name)
        self._incoming = {neighbour: _Incoming() for neighbour in neighbours}
        self._outgoing = {neighbour: _Outgoing() for neighbour in self._incoming}
        self._positions = {peer: board.position(peer) for peer in self._incoming}
        self._edges_out = {peer: board.edge(name, peer) for peer in self._incoming}
        self._edges_in = {peer: board.edge(peer, name) for peer in self._incoming}
        self._senders = [
            (edge + _SENT, self._incoming[peer]) for peer, edge in self._edges_in.items()
        ]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._waiting = True
        self.socket = self._context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, SEND_HWM)
        self.socket.bind(mailbox_address(run_dir, name, incarnation))

    def start(self) -> None:
        """Say Hello to every neighbour."""
        for peer in self._incoming:
            self._open_incoming(peer)

    def next_hello(self) -> float | None:
        """When `tick` wants to be called because a Hello is unanswered; None if none is."""
        if self.faults is not None and (due := self.faults.next_due) is not None:
            return due
        if not self._waiting:
            return None
        times = [state.next_hello for state in self._incoming.values() if not state.answered]
        self._waiting = bool(times)
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Repeat every Hello that is due."""
        if self.faults is not None:
            self.faults.release(now, {peer: out.stream for peer, out in self._outgoing.items()})
            if self.faults.idle:
                self.faults = None
        for peer, state in self._incoming.items():
            if not state.answered and state.next_hello <= now:
                if state.said >= HELLO_NEW_STREAM_AFTER:
                    self._open_incoming(peer)
                else:
                    self._say_hello(peer, state, now)

    def has(self, name: str) -> bool:
        """Tell whether an actor is a neighbour."""
        return name in self._outgoing

    def is_open(self, receiver: str) -> bool:
        """Tell whether the receiver has opened a stream from here."""
        return self._outgoing[receiver].stream != 0

    def send(self, receiver: str, body: object, items: int = 1) -> bool:
        """Send on the stream, never waiting; False if it was dropped (counted)."""
        out = self._outgoing[receiver]
        edge = self._edges_out[receiver]
        if out.socket is None or not out.stream:
            self._words[edge + Edge.DROPPED] += 1
            return False
        data = self._codec.encode(body)
        now, sequence = time.monotonic_ns(), out.sequence
        header = _HEADER.pack(self._position, self._incarnation, out.stream, sequence, items, now)
        out.sequence = sequence + 1
        words = self._words
        try:
            if self.faults is None:
                out.socket.send(header + data, zmq.NOBLOCK)
            else:
                self._send_faulty(self.faults, receiver, body, out, header + data)
        except zmq.Again:
            out.dropped += 1
            words[edge + Edge.DROPPED] += 1
            self._record(_DROPPED, receiver, body, items, now, sequence, len(data))
            return False
        if self.recorder.enabled:
            self._record(_OUT, receiver, body, items, now, sequence, len(data))
        words[edge + _SENT] = out.sequence
        words[edge + _SENT_BYTES] += len(data)
        words[edge + _SENT_ITEMS] += items
        return True

    def _send_faulty(
        self, faults: EdgeFaults, receiver: str, body: Any, out: _Outgoing, frame: bytes
    ) -> None:
        socket = out.socket
        assert socket is not None
        faults.send(
            receiver,
            self._codec.tag(body),
            out.stream,
            frame,
            lambda held: None if socket.closed else socket.send(held, zmq.NOBLOCK),
        )

    def _record(
        self, kind: int, receiver: str, body: Any, items: int, now: int, sequence: int, size: int
    ) -> None:
        correlate = self.correlations.get(type(body))
        correlation = operations = 0
        if correlate is not None:
            correlation, operations = correlate(body), getattr(body, "operations", 0)
        self.recorder.note(
            kind,
            self._codec.tags[type(body)],
            self._positions[receiver],
            sequence,
            items,
            size,
            correlation,
            now,
            0,
            0,
            operations,
        )
        if self.on_sent is not None and kind == _OUT:
            self.on_sent(receiver, body, items, now, sequence, size)

    def accept(self, frame: bytes) -> Received | None:
        """Check one received frame; return what it holds if it is for the actor."""
        position, incarnation, stream, sequence, items, sent_ns = _HEADER.unpack_from(frame)
        sender = self._board.names[position]
        payload = memoryview(frame)[_HEADER.size :]
        if stream == _DATAGRAM:
            self._on_hello(self._codec.decode(payload))
            return None
        state = self._incoming[sender]
        edge = self._edges_in[sender]
        if stream != state.stream:
            return None
        if sequence != state.expected:
            self._words[edge + Edge.GAPS] += 1
            self._open_incoming(sender)
            return None
        state.expected += 1
        body = self._codec.decode(payload)
        if sequence == 0:
            state.answered = True
            state.incarnation = incarnation
        self._words[edge + _HANDLED_ITEMS] += items
        return sender, body, items, sent_ns, sequence, len(payload)

    def handled(self, sender: str) -> None:
        """Count one message of `sender` as handled: what is not counted is the depth."""
        state = self._incoming[sender]
        if state.taken_late:  # of a stream that ended meanwhile, where it is counted already
            state.taken_late -= 1
        else:
            self._words[self._edges_in[sender] + _HANDLED] += 1

    def owed(self) -> bool:
        """Tell whether a neighbour has sent what was not received yet, as the board has it.

        A hint: at a twentieth of what asking the socket costs.
        """
        words, owed = self._words, False
        for edge, state in self._senders:
            owed = owed or words[edge] > state.expected
        return owed

    def reopen(self, sender: str) -> None:
        """Ask a neighbour for its stream anew, from what the actor has now."""
        self._open_incoming(sender)

    def close(self) -> None:
        """Close every socket without waiting."""
        for out in self._outgoing.values():
            if out.socket is not None:
                out.socket.close(linger=0)
        self.socket.close(linger=0)

    def _open_incoming(self, peer: str) -> None:
        state = self._incoming[peer]
        words, edge = self._words, self._edges_in[peer]
        handled = words[edge + Edge.HANDLED]
        if state.stream:
            state.taken_late += state.expected - handled
            handled = state.expected
        self._epoch += 1
        state.stream = (self._incarnation << 32) + self._epoch
        state.expected = 0
        state.answered = False
        state.pause = HELLO_SECONDS_MIN
        state.said = 0
        self._waiting = True
        words[edge + Edge.HANDLED_ENDED] += handled
        words[edge + Edge.HANDLED_STREAM] = state.stream
        words[edge + Edge.HANDLED] = 0
        self._say_hello(peer, state, self._clock())

    def _say_hello(self, peer: str, state: _Incoming, now: float) -> None:
        state.next_hello = now + state.pause
        state.pause = min(HELLO_SECONDS_MAX, 2 * state.pause)
        state.said += 1
        living = self._board.get(peer, Cell.INCARNATION)
        if not living:
            state.pause = HELLO_SECONDS_MIN
            return
        out = self._outgoing[peer]
        if out.socket is None or out.incarnation != living:
            self._connect(peer, living)
        hello = Hello(self._name, self._incarnation, state.stream, self._have(peer))
        header = _HEADER.pack(self._position, self._incarnation, _DATAGRAM, 0, 0, 0)
        assert out.socket is not None
        try:
            out.socket.send(header + self._codec.encode(hello), zmq.NOBLOCK)
        except zmq.Again:
            self._words[self._edges_out[peer] + Edge.DROPPED] += 1

    def _connect(self, peer: str, incarnation: int) -> None:
        out = self._outgoing[peer]
        if out.socket is not None:
            out.socket.close(linger=0)
        out.socket = self._context.socket(zmq.PUSH)
        out.socket.setsockopt(zmq.LINGER, 0)
        out.socket.setsockopt(zmq.SNDHWM, SEND_HWM)
        out.socket.setsockopt(zmq.RECONNECT_IVL, 1)
        out.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 10)
        out.socket.connect(mailbox_address(self._run_dir, peer, incarnation))
        out.incarnation = incarnation
        out.stream = 0

    def _on_hello(self, hello: Hello) -> None:
        peer = hello.sender
        out = self._outgoing[peer]
        if out.stream == hello.stream and out.incarnation == hello.incarnation:
            return  # a repeat that crossed our Welcome
        if hello.incarnation < out.incarnation:
            return  # the word of a dead incarnation
        if out.socket is None or out.incarnation != hello.incarnation:
            self._connect(peer, hello.incarnation)
        words, edge = self._words, self._edges_out[peer]
        # The stream before was an earlier incarnation's if nothing was sent from here.
        sent = out.sequence - out.dropped if out.sequence else words[edge + Edge.SENT]
        out.stream = hello.stream
        out.sequence = out.dropped = 0
        words[edge + Edge.SENT_ENDED] += sent
        words[edge + Edge.SENT] = 0
        words[edge + Edge.SENT_STREAM] = hello.stream
        info = self._welcome(peer, hello.have)
        self.send(peer, Welcome(self._name, self._incarnation, info), 0)
        state = self._incoming[peer]
        if state.answered and state.incarnation != hello.incarnation:
            self._open_incoming(peer)
