"""Peers that lie: whoever reaches an unprotected peer port can say anything in anybody's name."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import zmq

from actors.snapshot_transfer import Chunk, TransferError, decode, encode
from tests.cluster import ClusterMember
from transport.lanes import Lane
from transport.peer_wire import HEADER, Header, decode_payloads, encode_frame

SESSION: Final = 1  # a transport draws 64 bits
_GREETING_BYTES: Final = 64
_LONG: Final = 2
_COMMAND: Final = 4


class Forger:
    """Says to one member what others never said.

    `route` is (cluster id, from, to).
    """

    def __init__(self, member: ClusterMember, route: tuple[int, int, int]) -> None:
        self._route = (*route, SESSION)
        self._counter = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://{member.host}:{member.peer_port}")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self._context.term()

    def say(self, lane: Lane, payload: bytes) -> None:
        """Send one payload."""
        self._counter += 1
        self._socket.send(encode_frame(lane, self._route, self._counter, [payload]))


@dataclass
class Forged:
    """How often a relay has lied, by kind."""

    replayed_frames: int = 0
    truncated_frames: int = 0
    replayed_chunks: int = 0
    truncated_chunks: int = 0
    damaged_chunks: int = 0


@dataclass
class _Stream:
    """One connection of a peer through the relay; what is sent on is in order."""

    inner: socket.socket
    outer: socket.socket
    held: bytearray = field(default_factory=bytearray)
    greeting_left: int = _GREETING_BYTES
    added: int = 0


class ChunkForger:
    """A relay in front of a member's peer port that forges snapshot chunks on their way.

    Behind each of the first `times` chunks it sends the frame once more and a cut one; the chunk
    once more, cut, and with data that lacks its end, as new frames: those that follow get other
    numbers, so that nothing is lost. What else passes is left alone.
    """

    def __init__(self, target: int, times: int) -> None:
        self.forged = Forged()
        self._target = target
        self._times = times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ending = False
        self._ends: dict[socket.socket, Callable[[], None]] = {self._listener: self._take}
        self._thread = threading.Thread(target=self._serve, name="chunk-forger")
        self._thread.start()

    def close(self) -> None:
        """Stop, and cut what goes through it."""
        self._ending = True
        self._thread.join()
        for end in self._ends:
            end.close()

    def _serve(self) -> None:
        while not self._ending:
            ready, _, _ = select.select(list(self._ends), [], [], 0.05)
            for end in ready:
                if end in self._ends:
                    self._ends[end]()

    def _take(self) -> None:
        inner, _ = self._listener.accept()
        try:
            outer = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # the member is down
            inner.close()
            return
        stream = _Stream(inner, outer)
        self._ends[inner] = lambda: self._pass(stream, inner, outer)
        self._ends[outer] = lambda: self._pass(stream, outer, inner)

    def _pass(self, stream: _Stream, source: socket.socket, target: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(1 << 20)
        if data and source is stream.inner:
            data = self._look(stream, data)
        elif not data:
            for end in (source, target):
                del self._ends[end]
                end.close()
            return
        with contextlib.suppress(OSError):  # its other end is read, and tells
            target.sendall(data)

    def _look(self, stream: _Stream, data: bytes) -> bytes:
        """Return what goes on to the member for what has come from a peer (ZMTP 3.1)."""
        held, onward = stream.held, bytearray()
        greeting, rest = data[: stream.greeting_left], data[stream.greeting_left :]
        stream.greeting_left -= len(greeting)  # it comes in parts: each side waits for the other's
        onward += greeting
        held += rest
        while len(held) >= 2:
            flags = held[0]
            start = 9 if flags & _LONG else 2
            if len(held) < start:
                break
            end = start + int.from_bytes(held[1:start], "big")
            if len(held) < end:
                break
            body = bytes(held[start:end])
            if flags & _COMMAND or len(body) < HEADER.size:
                onward += held[:end]
            else:
                onward += b"".join(map(_zmtp, self._forge(stream, body)))
            del held[:end]
        return bytes(onward)

    def _forge(self, stream: _Stream, body: bytes) -> list[bytes]:
        header = Header(*HEADER.unpack_from(body))
        if header.lane != Lane.SNAPSHOT:
            return [body]
        payloads = decode_payloads(body, header.payload_count)
        assert payloads is not None
        frames = [_frame(stream, header, payloads)]
        for payload in payloads:
            chunk = _chunk(payload)
            if chunk is None or self.forged.replayed_chunks == self._times:
                continue
            shorter = encode(Chunk(chunk.id, chunk.offset, chunk.crc, chunk.data[:-7]))
            frames += [frames[-1], frames[-1][:-5]]
            for forged in (payload, payload[: len(payload) // 2], shorter):
                stream.added += 1
                frames.append(_frame(stream, header, [forged]))
            self.forged.replayed_frames += 1
            self.forged.truncated_frames += 1
            self.forged.replayed_chunks += 1
            self.forged.truncated_chunks += 1
            self.forged.damaged_chunks += 1
        return frames


def _frame(stream: _Stream, header: Header, payloads: Sequence[bytes]) -> bytes:
    route = (header.cluster_id, header.sender, header.receiver, header.session)
    return encode_frame(header.lane, route, header.counter + stream.added, payloads)


def _chunk(payload: bytes) -> Chunk | None:
    with contextlib.suppress(TransferError):
        body = decode(payload)
        if isinstance(body, Chunk):
            return body
    return None


def _zmtp(body: bytes) -> bytes:
    if len(body) < 256:
        return bytes([0, len(body)]) + body
    return struct.pack(">BQ", _LONG, len(body)) + body
