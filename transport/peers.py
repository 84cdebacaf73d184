"""All links of one member, over ZeroMQ TCP.

Every member listens with one PULL socket and dials each peer with three PUSH sockets: heartbeats,
votes and small answers never queue behind appends, nor those behind a snapshot. PULL takes one
frame from each connection in turn, so this holds at the receiver too. A frame names its cluster,
sender, receiver, protocol and place (peer_wire); what does not fit is counted by reason, logged at
most once a second, and harms nothing.

Rules:
1. No call waits. What a connection can't take waits in its outbox, at most an election timeout
   and within a bound, or is dropped and reported (`unreachable`).
2. Order holds within a lane, as long as the sender's process lives; a frame older than one taken
   of the same process is rejected, so nothing is taken twice.
3. Times of libzmq's own liveness checks derive from the heartbeat interval: defaults leave a link
   dead for seconds after a cut was mended.
4. A peer is *lost* when it closed the connection of heartbeats that was alive, and refuses a new
   one: its process is gone. Whoever restarts just its transport keeps the port open meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import zmq

from kv.version import VERSION
from transport.lanes import Lane
from transport.log import Logger
from transport.peer_address import Resolver
from transport.peer_connection import CHANNELS, Connection, Context, Poll
from transport.peer_faults import Fault, Faults
from transport.peer_link import Link, PeerMember
from transport.peer_listener import LOG_SECONDS, Listener, PeerSettings
from transport.peer_wire import (
    CONNECTION_OF_LANE,
    HEADER,
    PING,
    PONG,
    PROTOCOL_VERSION,
    Header,
    Probe,
    Reason,
    Standing,
    decode_header,
    decode_payloads,
    decode_probe,
    pack_version,
)

__all__ = ["PeerMember", "PeerSettings", "Peers", "Received"]

DIAL_SECONDS: Final = 0.25
ACTIVE_HEARTBEATS: Final = 5
_RAFT_LANES: Final = (Lane.CONTROL, Lane.APPEND)


@dataclass(slots=True)
class Received:
    """Payloads of peers in the order of their arrival, as columns."""

    senders: list[int]
    lanes: list[int]
    payloads: list[bytes]


class Peers:
    """See the module docstring. One thread uses it; `faults` and `stats` are for any other."""

    def __init__(self, settings: PeerSettings, poll: Poll, log: Logger) -> None:
        """Listen. Raises PeerUrlError and PeerBindError."""
        self.settings = settings
        self.faults = Faults()
        self.links: dict[int, Link] = {}
        self.received = Received([], [], [])
        self.lost: list[int] = []
        self.dropped = self.lost_frames = 0
        self.received_bytes = self._sent_before = 0
        self.cluster_version = 0
        self.standing = Standing.UNKNOWN
        """What the first peer that answered has told of this member."""
        self._version = pack_version(VERSION)
        self._poll = poll
        self._session = random.SystemRandom().getrandbits(64)
        self._resolver = Resolver()
        self._names: list[str] = []
        self._log = log
        self._next_ping = self._next_dial = self._next_log = 0.0
        self._context: Context = zmq.Context()
        self._listener = Listener(self._context, settings, poll, log, self._accept)
        self._reject = self._listener.reject
        try:
            self._listener.open()
        except (OSError, ValueError):
            self.close()
            raise

    def close(self) -> None:
        """Close everything without waiting."""
        for link in self.links.values():
            link.close()
        self.links = {}
        self._listener.close()
        self._context.term()

    # ---- members ----

    def set_members(self, members: Iterable[PeerMember]) -> None:
        """Keep links to exactly these members, this one excepted; changed ones are dialled anew."""
        now = time.monotonic()
        wanted = {member.id: member for member in members}
        self._names = [member.name for member in wanted.values() if member.name]
        wanted.pop(self.settings.member_id, None)
        kept: dict[int, Link] = {}
        for member in wanted.values():
            link = self.links.get(member.id)
            if link is None:
                link = self._new_link(member)
            link.member = member
            kept[member.id] = link
        for member_id, link in self.links.items():
            if member_id not in kept:
                self._sent_before += link.sent_bytes
                link.close()
        self.links = kept
        self._dial(now)

    def _new_link(self, member: PeerMember) -> Link:
        settings = self.settings
        route = (settings.cluster_id, settings.member_id, member.id, self._session)
        owner = _LinkOwner(self, member.id)
        return Link(
            member,
            [
                Connection(
                    self._context,
                    self._poll,
                    owner,
                    channel=channel,
                    timing=settings.timing,
                    keys=settings.keys,
                    route=route,
                )
                for channel in CHANNELS
            ],
        )

    def _dial(self, now: float) -> None:
        self._next_dial = now + DIAL_SECONDS
        for link in self.links.values():
            link.dial(self._resolver, self.settings.keys, self._names, now)

    # ---- sending ----

    def send(self, to: Sequence[int], lanes: Sequence[int], payloads: Sequence[bytes]) -> None:
        """Send `payloads[i]` to member `to[i]` on lane `lanes[i]`; never waits.

        What is for nobody we know is counted as dropped.
        """
        now = time.monotonic()
        table = self.faults.table
        touched: dict[Connection, None] = {}
        for member_id, lane, payload in zip(to, lanes, payloads, strict=True):
            link = self.links.get(member_id)
            too_long = len(payload) + HEADER.size + 4 > self.settings.frame_bytes_max
            if too_long:
                self._tell_too_long(now, member_id, len(payload))
            if link is None or too_long:
                self._note_dropped(link, [lane])
                continue
            fault = self.faults.of(member_id, now) if table else None
            connection = self._put(link, now, lane, payload, fault)
            if connection is not None:
                touched[connection] = None
        for connection in touched:
            connection.flush(now)

    def _put(
        self, link: Link, now: float, lane: int, payload: bytes, fault: Fault | None
    ) -> Connection | None:
        """Queue one payload as the link's fault says; return the connection to flush."""
        connection = link.connections[CONNECTION_OF_LANE[lane]]
        copies = 1
        if fault is not None:
            if fault.cut_out or random.random() < fault.drop_ratio:
                return None
            if random.random() < fault.duplicate_ratio:
                copies = 2
            if fault.delay_seconds:
                now += fault.delay_seconds
                self._poll.wake_at(now)
        for _ in range(copies):
            dropped = connection.put(now, lane, payload)
            if dropped:
                self._note_dropped(link, dropped)
        return None if fault is not None and fault.paused else connection

    def _tell_too_long(self, now: float, member_id: int, size: int) -> None:
        """Log it, once a second at most: it is a bug, and sending it again is no cure."""
        if now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            self._log.error(
                "dropped a message that is longer than a frame",
                **{"remote-peer-id": f"{member_id:x}"},
                bytes=size,
            )

    def _note_dropped(self, link: Link | None, lanes: Sequence[int]) -> None:
        self.dropped += len(lanes)
        if link is not None:
            link.dropped += len(lanes)
            link.unreachable = link.unreachable or any(lane in _RAFT_LANES for lane in lanes)

    # ---- what becomes of connections ----

    def connection_up(self, member_id: int, connection: Connection) -> None:
        """Send what waits; a peer that takes a connection again is not lost."""
        link = self.links[member_id]
        now = time.monotonic()
        if connection is link.connections[0]:
            link.closed_at = None
            self._ping(link, now)
        fault = self.faults.of(member_id, now)
        if fault is None or not fault.paused:
            connection.flush(now)

    def connection_down(self, member_id: int, connection: Connection) -> None:
        """What libzmq held is gone. With heartbeats gone, all else is dialled afresh."""
        link = self.links[member_id]
        link.failures += 1
        link.unreachable = True
        if connection is not link.connections[0]:
            return
        now = time.monotonic()
        silence = self.settings.timing.silence_seconds
        if now - link.heard < 0.75 * silence:
            link.closed_at = now
        link.forget()
        for other in link.connections[1:]:
            if other.target is not None:
                other.dial(other.target)

    def connection_failed(self, member_id: int, connection: Connection) -> None:
        """Nobody takes the connection. After a while another address is tried."""
        link = self.links[member_id]
        link.failures += 1
        if connection is link.connections[0] and link.closed_at is not None:
            link.closed_at = None
            self.lost.append(member_id)
        if connection.target is not None:
            self._resolver.refresh(connection.target.host, time.monotonic())

    # ---- receiving ----

    def take(self) -> Received:
        """Return what has been received since the last call."""
        received = self.received
        if received.payloads:
            self.received = Received([], [], [])
        return received

    def _accept(self, frame: bytes, key: str) -> None:
        header = decode_header(frame)
        if header is None:
            self._reject(Reason.MALFORMED, f"{len(frame)} bytes")
            return
        now = time.monotonic()
        reason = self._check(header, key)
        if reason is not None:
            self._reject(reason, f"member {header.sender:x}")
            return
        link = self.links[header.sender]
        fault = self.faults.of(header.sender, now) if self.faults.table else None
        if fault is not None and fault.cut_in:
            return
        payloads = decode_payloads(frame, header.payload_count)
        if payloads is None:
            self._reject(Reason.MALFORMED, f"member {header.sender:x}")
            return
        incoming = link.incoming[CONNECTION_OF_LANE[header.lane]]
        lost = incoming.lost
        if not incoming.accept(header.session, header.counter):
            self._reject(Reason.STALE, f"member {header.sender:x}")
            return
        self.lost_frames += incoming.lost - lost
        link.heard = now
        link.received_bytes += len(frame)
        self.received_bytes += len(frame)
        if header.lane >= PING:
            self._probed(link, header.lane, payloads, now)
            return
        received = self.received
        received.payloads += payloads
        received.senders += [header.sender] * header.payload_count
        received.lanes += [header.lane] * header.payload_count

    def _check(self, header: Header, key: str) -> Reason | None:
        """Return why a frame is not for this member or not from a peer; None if it is."""
        if header.version != PROTOCOL_VERSION or header.lane not in CONNECTION_OF_LANE:
            return Reason.VERSION
        if header.cluster_id != self.settings.cluster_id:
            return Reason.CLUSTER
        if header.receiver != self.settings.member_id:
            return Reason.RECEIVER
        link = self.links.get(header.sender)
        if link is None:
            return Reason.SENDER
        keys = self.settings.keys
        if keys is not None and key.encode() not in keys.of(link.member.name, self._names):
            return Reason.KEY
        return None

    # ---- liveness ----

    def _ping(self, link: Link, now: float) -> None:
        self._probe(link, PING, time.monotonic_ns(), now)

    def _probe(self, link: Link, lane: int, sent_ns: int, now: float) -> None:
        if not link.connections[0].up:
            return
        fault = self.faults.of(link.member.id, now) if self.faults.table else None
        standing = Standing.BOOTSTRAPPED if link.member.bootstrapped else Standing.NEW
        body = Probe(sent_ns, self._version, self.cluster_version, standing).encode()
        connection = self._put(link, now, lane, body, fault)
        if connection is not None:
            connection.flush(now)

    def _probed(self, link: Link, lane: int, bodies: Sequence[bytes], now: float) -> None:
        for body in bodies:
            probe = decode_probe(body)
            if probe is None:
                self._reject(Reason.MALFORMED, f"probe of member {link.member.id:x}")
                continue
            link.version, link.cluster_version = probe.version, probe.cluster_version
            if lane == PING:
                self._probe(link, PONG, probe.sent_ns, now)
            else:
                link.answer(now, max(0.0, (time.monotonic_ns() - probe.sent_ns) / 1e9))
                if self.standing == Standing.UNKNOWN:
                    known = probe.standing == Standing.BOOTSTRAPPED
                    self.standing = Standing.BOOTSTRAPPED if known else Standing.NEW

    def tick(self, now: float) -> None:
        """Ping at heartbeat pace, drop what has waited too long, dial, log; call it often."""
        timing = self.settings.timing
        ping = now >= self._next_ping
        if ping:
            self._next_ping = now + timing.heartbeat_seconds
        patience = ACTIVE_HEARTBEATS * max(timing.heartbeat_seconds, 0.1)
        for member_id, link in self.links.items():
            for connection in link.connections:
                dropped = connection.outbox.expire(now)
                if dropped:
                    self._note_dropped(link, dropped)
                fault = self.faults.of(member_id, now) if self.faults.table else None
                if fault is None or not fault.paused:
                    connection.flush(now)
                    due = connection.outbox.next_due()
                    if fault is not None and due is not None and due > now:
                        self._poll.wake_at(due)
            if link.active_since is not None and now - link.answered > patience:
                link.forget()
            if ping:
                self._ping(link, now)
                if link.active_since is None:  # somebody else may have its address now
                    for host, _ in link.places():
                        self._resolver.refresh(host, now)
        if now >= self._next_dial:
            self._dial(now)
        self._listener.tick(now)

    def take_unreachable(self) -> list[int]:
        """Return the peers for whom messages of raft were dropped since the last call."""
        found = [member_id for member_id, link in self.links.items() if link.unreachable]
        for member_id in found:
            self.links[member_id].unreachable = False
        return found

    def take_lost(self) -> list[int]:
        """Return the peers that have gone since the last call."""
        lost, self.lost = self.lost, []
        return lost

    # ---- figures ----

    def active(self) -> list[Link]:
        """Return the links to peers that answer, the longest active first."""
        found = [link for link in self.links.values() if link.active_since is not None]
        return sorted(found, key=lambda link: link.active_since or 0.0)

    @property
    def rejected(self) -> list[int]:
        """How much was rejected, by Reason."""
        return self._listener.rejected

    @property
    def inbound_closed(self) -> int:
        """How many connections of others ended."""
        return self._listener.closed

    @property
    def sent_bytes(self) -> int:
        """Bytes of frames sent, to former members too."""
        return self._sent_before + sum(link.sent_bytes for link in self.links.values())

    def lowest_version(self) -> int:
        """Return the lowest server version of all members, packed; 0 while one is unknown."""
        return min([self._version, *(link.version for link in self.links.values())])

    def find(self, peer: int | str | None) -> list[int]:
        """Return the ids of the peers meant by an id, an id in hexadecimal, a name, or None: all.

        Any thread may ask. Raises LookupError.
        """
        links = dict(self.links)
        if peer is None or peer == "":
            return list(links)
        found = [
            member_id
            for member_id, link in links.items()
            if peer in (member_id, f"{member_id:x}", link.member.name)
        ]
        if not found:
            raise LookupError(f"no peer {peer}")
        return found

    def stats(self) -> dict[str, Any]:
        """Return a table of all links for people; any thread may ask."""
        now = time.monotonic()
        return {
            "peers": [link.table(now) for link in list(self.links.values())],
            "dropped": self.dropped,
            "lost_frames": self.lost_frames,
            "inbound_closed": self.inbound_closed,
            "rejected": {reason.name.lower(): self.rejected[reason] for reason in Reason},
            "encrypted": self.settings.keys is not None,
        }


class _LinkOwner:
    """Tells Peers whose connection it is that something became of."""

    __slots__ = ("_member_id", "_peers")

    def __init__(self, peers: Peers, member_id: int) -> None:
        self._peers = peers
        self._member_id = member_id

    def connection_up(self, connection: Connection) -> None:
        """It can carry messages now, or again."""
        self._peers.connection_up(self._member_id, connection)

    def connection_down(self, connection: Connection) -> None:
        """It ended."""
        self._peers.connection_down(self._member_id, connection)

    def connection_failed(self, connection: Connection) -> None:
        """A try failed."""
        self._peers.connection_failed(self._member_id, connection)
