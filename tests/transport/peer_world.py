"""Several members' links in one process: one loop turns them all, over real loopback sockets."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import zmq

from transport.log import Logger
from transport.peer_auth import Keys
from transport.peer_connection import Timing
from transport.peers import PeerMember, Peers, PeerSettings, Received

CLUSTER: Final = 0xC1
PATIENCE_SECONDS: Final = 10.0


class Loop:
    """Does what an actor's mailbox does for links."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._watched: dict[Any, Callable[[], None]] = {}

    def watch(
        self, source: zmq.Socket[Any], callback: Callable[[], None], events: int = zmq.POLLIN
    ) -> None:
        self._watched[source] = callback
        self._poller.register(source, events)

    def unwatch(self, source: zmq.Socket[Any]) -> None:
        if self._watched.pop(source, None) is not None:
            self._poller.unregister(source)

    def wake_at(self, when: float) -> None:
        """`turn` never waits long."""

    def turn(self) -> None:
        ready = dict(self._poller.poll(2))
        for source, callback in list(self._watched.items()):
            if source in ready:
                callback()


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports of the loopback that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = [socket.socket(family) for _ in range(count)]
    try:
        for one in held:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


class World:
    """Members 1 to `count`, named m1, m2 …; `ids` of them run. A context manager."""

    def __init__(
        self,
        folder: Path,
        count: int = 2,
        *,
        start: Sequence[int] | None = None,
        keys: dict[int, Keys] | None = None,
        frame_bytes_max: int = 4 << 20,
        election_seconds: float = 1.0,
    ) -> None:
        self.loop = Loop()
        self.members = [
            PeerMember(member_id, f"m{member_id}", (url(port),))
            for member_id, port in enumerate(free_ports(count), start=1)
        ]
        self.peers: dict[int, Peers] = {}
        self.log_path = folder / "log"
        self._log_fd = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._keys = keys or {}
        self._timing = Timing(0.1, election_seconds)
        self._frame_bytes_max = frame_bytes_max
        for member_id in start if start is not None else range(1, count + 1):
            self.start(member_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for peers in self.peers.values():
            peers.close()
        os.close(self._log_fd)

    def __getitem__(self, member_id: int) -> Peers:
        return self.peers[member_id]

    def start(self, member_id: int, **changes: Any) -> Peers:
        """Start the links of a member; `changes` go into its settings."""
        member = self.members[member_id - 1]
        settings: dict[str, Any] = {
            "member_id": member_id,
            "cluster_id": CLUSTER,
            "urls": member.urls,
            "timing": self._timing,
            "frame_bytes_max": self._frame_bytes_max,
            "keys": self._keys.get(member_id),
        }
        settings |= changes
        peers = Peers(PeerSettings(**settings), self.loop, Logger(self._log_fd, "transport"))
        self.peers[member_id] = peers
        peers.set_members(self.members)
        return peers

    def stop(self, member_id: int) -> None:
        """End the links of a member as when its process dies."""
        self.peers.pop(member_id).close()

    def run(self, until: Callable[[], object]) -> float:
        """Turn until the condition holds; return how long that took, in seconds."""
        began = time.monotonic()
        while not until():
            assert time.monotonic() - began < PATIENCE_SECONDS, "it never happened"
            self.turn()
        return time.monotonic() - began

    def run_for(self, seconds: float) -> None:
        """Turn for a while."""
        until = time.monotonic() + seconds
        self.run(lambda: time.monotonic() >= until)

    def turn(self) -> None:
        self.loop.turn()
        now = time.monotonic()
        for peers in self.peers.values():
            peers.tick(now)

    def connect(self) -> None:
        """Turn until everybody hears everybody, over all connections."""
        self.run(lambda: all(self.is_whole(peers) for peers in self.peers.values()))

    def is_whole(self, peers: Peers) -> bool:
        return all(
            link.active_since is not None and all(connection.up for connection in link.connections)
            for member_id, link in peers.links.items()
            if member_id in self.peers
        )

    def take(self, member_id: int, count: int) -> Received:
        """Turn until a member has received so many payloads; return all of them."""
        self.run(lambda: len(self[member_id].received.payloads) >= count)
        return self[member_id].take()

    def log_lines(self) -> list[str]:
        return self.log_path.read_text().splitlines()


class Proxy:
    """A TCP relay whose traffic can be frozen: bytes stay where they are, as in a blackhole."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.frozen = False
        self._stopped = False
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped = True
        self._thread.join()
        for one in (self._listener, *self._pairs):
            one.close()

    def _serve(self) -> None:
        while not self._stopped:
            sources = [] if self.frozen else [self._listener, *self._pairs]
            ready, _, _ = select.select(sources, [], [], 0.005)
            for source in ready:
                if source is self._listener:
                    self._accept()
                elif source in self._pairs:
                    self._relay(source)

    def _accept(self) -> None:
        inner, _ = self._listener.accept()
        outer = socket.create_connection(("127.0.0.1", self._target))
        self._pairs |= {inner: outer, outer: inner}

    def _relay(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
            if data:
                self._pairs[source].sendall(data)
                return
        except OSError:
            data = b""
        for end in (source, self._pairs[source]):
            self._pairs.pop(end, None)
            end.close()
