"""What a member knows of one peer: three connections to it, what comes from it, its health."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from transport.peer_address import PeerUrlError, Resolver, endpoint, split_url
from transport.peer_auth import Keys
from transport.peer_connection import CHANNELS, Connection, Target, next_target
from transport.peer_wire import unpack_version

SESSIONS_MAX: Final = 64
SMOOTHING: Final = 0.2
GAP_MAX: Final = 1 << 20
"""Frames that one gap counts for at most: what a stranger says must not overflow a counter."""


@dataclass(frozen=True, slots=True)
class PeerMember:
    """A member as links need it. Its name is empty until it has told it.

    `bootstrapped`: it has been up, and told where clients find it.
    """

    id: int
    name: str
    urls: tuple[str, ...]
    bootstrapped: bool = False


class Incoming:
    """Frames of one connection from a peer: of each session only ever newer ones are taken.

    A session never ends another: on a link without keys anybody can play back a frame of an older
    one that was never seen here, and what its sender says now must be heard all the same.
    """

    __slots__ = ("_counters", "lost")

    def __init__(self) -> None:
        self.lost = 0
        self._counters: dict[int, int] = {}  # by session; the one heard last stands last

    def accept(self, session: int, counter: int) -> bool:
        """Tell whether a frame is newer than all before of its session."""
        before = self._counters.get(session)
        if before is None:
            if len(self._counters) == SESSIONS_MAX:
                del self._counters[next(iter(self._counters))]
        elif counter <= before:
            return False
        else:
            self.lost += min(counter - before - 1, GAP_MAX)
            del self._counters[session]
        self._counters[session] = counter
        return True


class Link:
    """The state of the link to one peer. Times are CLOCK_MONOTONIC in seconds.

    `active_since` is None while no answer to a ping has come lately; `heard` is when the last
    frame came; `closed_at` is when the peer closed the connection of heartbeats, until it takes it
    again or is reported as lost.
    """

    def __init__(self, member: PeerMember, connections: list[Connection]) -> None:
        assert len(connections) == len(CHANNELS)
        self.member = member
        self.connections = connections
        self.incoming = [Incoming() for _ in CHANNELS]
        self.heard = 0.0
        self.answered = 0.0
        self.active_since: float | None = None
        self.closed_at: float | None = None
        self.unreachable = False
        self.round_trip_seconds = 0.0
        self.version = 0
        self.cluster_version = 0
        self.received_bytes = 0
        self.dropped = 0
        self.failures = 0

    @property
    def sent_bytes(self) -> int:
        """Bytes of frames handed to connections."""
        return sum(connection.sent_bytes for connection in self.connections)

    def answer(self, now: float, seconds: float) -> None:
        """A ping came back after `seconds`."""
        before = self.round_trip_seconds
        self.round_trip_seconds = before + SMOOTHING * (seconds - before) if before else seconds
        self.answered = now
        if self.active_since is None:
            self.active_since = now

    @property
    def trouble(self) -> str:
        """What keeps a peer from answering, as far as can be told; runs on any thread."""
        connection = self.connections[0]
        if connection.target is None:
            return f"nobody can be dialled at {', '.join(self.member.urls)}"
        if connection.up:
            return f"{connection.target.endpoint} does not answer pings"
        return f"no connection to {connection.target.endpoint}"

    def forget(self) -> None:
        """The peer is not heard of any more: what was known of its process may be wrong."""
        self.active_since = None
        self.version = self.cluster_version = 0

    def places(self) -> list[tuple[str, int]]:
        """Return host and port of each URL that has them; a mistake in it is of whoever gave it."""
        found = []
        for url in self.member.urls:
            with suppress(PeerUrlError):
                found.append(split_url(url))
        return found

    def targets(
        self, resolver: Resolver, keys: Keys | None, names: Collection[str], now: float
    ) -> list[Target]:
        """Return where the peer may be dialled, as far as its host names are known."""
        found = []
        held = [b""] if keys is None else keys.of(self.member.name, names)
        for host, port in self.places():
            for address in resolver.find(host, now):
                place = endpoint(address, port)
                found += [Target(host, port, place, key) for key in held]
        return found

    def dial(
        self,
        resolver: Resolver,
        keys: Keys | None,
        names: Collection[str],
        now: float,
        *,
        afresh: bool = False,
    ) -> None:
        """Let every connection that is not up dial where the peer should be now.

        One to the holder of a key that is no longer the peer's ends.
        """
        targets = self.targets(resolver, keys, names, now)
        held = None if keys is None else keys.of(self.member.name, names)
        for connection in self.connections:
            if connection.target and held is not None and connection.target.server_key not in held:
                connection.hang_up()
            target = next_target(targets, connection)
            if target is None:
                continue
            if target != connection.target or (afresh and not connection.up):
                connection.dial(target)
                connection.tries = 0

    def close(self) -> None:
        """Close all connections."""
        for connection in self.connections:
            connection.close()

    def table(self, now: float) -> dict[str, Any]:
        """Return a row for people; runs on any thread."""
        active = self.active_since
        return {
            "id": f"{self.member.id:x}",
            "name": self.member.name,
            "urls": list(self.member.urls),
            "active": active is not None,
            "active_seconds": round(now - active, 3) if active is not None else 0.0,
            "last_seen_seconds": round(now - self.heard, 3) if self.heard else None,
            "round_trip_us": round(self.round_trip_seconds * 1e6),
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "dropped": self.dropped,
            "failures": self.failures,
            "lost_frames": sum(incoming.lost for incoming in self.incoming),
            "server_version": unpack_version(self.version),
            "cluster_version": unpack_version(self.cluster_version),
            "connections": {
                connection.channel.name: {
                    "up": connection.up,
                    "endpoint": connection.target.endpoint if connection.target else "",
                    "waiting_bytes": connection.outbox.waiting_bytes,
                }
                for connection in self.connections
            },
        }
