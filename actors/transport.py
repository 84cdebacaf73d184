"""Links to the other members; what goes over them is forwarded unread.

Owns      all connections to and from peers (none are dialled in a cluster of one).
Receives  PeerMessages from the raft node, the snapshotter and the lessor; PeersChanged from the
          raft node, when the list of members in the database is another.
Sends     PeerReceived to these three, one per batch and actor; PeerLinks to the raft node: which
          peers missed something, at most once a tick, and which have closed their connection.
Crashes   on a message of any other type, on an address it can't listen on, on keys it can't read.
          Links are rebuilt within milliseconds: root keeps the listening socket, raft retries.

Who this member is comes from the raft node's words on the board, who the others are from the
database; until both are there nothing is dialled and what is to be sent is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from actors.base import Actor, handles, run
from actors.faults import DELAY_SECONDS_MAX, BadFaultError, number_of, seconds_of
from actors.messages import PeerLinks, PeerMessages, PeerReceived, PeersChanged
from actors.metrics import PEER_SLOTS, PeerMetric, RaftMetric, TransportMetric
from storage.database import exists
from storage.reader import Reader
from transport.context import ActorContext
from transport.control import Handler
from transport.counters import Cell
from transport.lanes import Lane
from transport.mailbox import Flush, Tick
from transport.peer_auth import Keys
from transport.peer_connection import Timing
from transport.peer_wire import Reason, pack_version
from transport.peers import PeerMember, Peers, PeerSettings, Received

SOON_SECONDS: Final = 0.01
MEMBERS_SECONDS: Final = 1.0
UNHEALTHY_SECONDS: Final = 5.0
ACTOR_OF_LANE: Final = {
    Lane.CONTROL: "raft-node",
    Lane.APPEND: "raft-node",
    Lane.SNAPSHOT: "snapshotter",
    Lane.LEASE: "lessor",
}
_COUNTED: Final = (
    (TransportMetric.SENT_BYTES, "sent_bytes"),
    (TransportMetric.RECEIVED_BYTES, "received_bytes"),
    (TransportMetric.DROPPED, "dropped"),
    (TransportMetric.LOST_FRAMES, "lost_frames"),
    (TransportMetric.INBOUND_CLOSED, "inbound_closed"),
)


class FaultsDisabledError(ValueError):
    """Links are only cut on a member that was started with --enable-faults."""


class Transport(Actor):
    """See the module docstring."""

    def __init__(self, context: ActorContext) -> None:
        config = context.config
        self._timing = Timing(
            int(config["heartbeat_interval_ms"]) / 1000, int(config["election_timeout_ms"]) / 1000
        )
        self.tick_seconds = self._timing.heartbeat_seconds  # type: ignore[misc]  # per member
        super().__init__(context)
        self._directory = context.data_dir / "member" / "db"
        self._reader: Reader | None = None
        self._peers: Peers | None = None
        self._wanted_index = 0
        self._next_members = 0.0
        self._next_warning = time.monotonic() + UNHEALTHY_SECONDS
        self._told = [0] * (len(_COUNTED) + len(Reason))
        for word in (
            TransportMetric.ACTIVE_PEERS,
            TransportMetric.LONGEST_CONNECTED,
            TransportMetric.STANDING,
        ):
            self.metric(word, 0)

    def control_verbs(self) -> dict[str, Handler]:
        """Return `peers` and the faults of links, see `_fault`."""
        return {
            "peers": lambda _: self.stats(),
            "cut": self._fault(
                lambda request: {
                    side: True
                    for side, word in (("cut_in", "in"), ("cut_out", "out"))
                    if request.get("direction", "both") in (word, "both")
                }
            ),
            "pause": self._fault(lambda _: {"paused": True}),
            "resume": self._fault(lambda _: {"paused": False}),
            "delay": self._fault(
                lambda request: {
                    "delay_seconds": number_of(request, "seconds", 0.1, DELAY_SECONDS_MAX)
                }
            ),
            "drop": self._fault(
                lambda request: {"drop_ratio": number_of(request, "ratio", 1.0, 1.0)}
            ),
            "duplicate": self._fault(
                lambda request: {"duplicate_ratio": number_of(request, "ratio", 1.0, 1.0)}
            ),
            "mend": self._fault(lambda _: None),
        }

    # ---- from the member to its peers ----

    @handles(PeerMessages)
    def forward(self, message: PeerMessages) -> None:
        """Hand on to the peers named; what can't go now waits a little, or is dropped."""
        if self._peers is None:
            self.count(TransportMetric.DROPPED, len(message.payloads))
            return
        self._peers.send(message.to, message.lanes, message.payloads)

    @handles(PeersChanged)
    def peers_changed(self, message: PeersChanged) -> None:
        """Look at the members as soon as the database has that index."""
        self._wanted_index = max(self._wanted_index, message.index)
        self._next_members = 0.0
        self.actor_inbox.wake_at(0.0)

    # ---- from peers to the member ----

    @handles(Flush)
    def flush(self, _: Flush) -> None:
        """Hand on what has come, one message per actor; tell at once who is gone."""
        if self._peers is None:
            return
        received = self._peers.take()
        if received.payloads:
            self._deliver(received)
        if self._peers.lost:
            self._tell_links([], self._peers.take_lost())

    def _deliver(self, received: Received) -> None:
        if max(received.lanes) <= Lane.APPEND:
            self._hand_on("raft-node", received)
            return
        parts: dict[str, Received] = {}
        for sender, lane, payload in zip(
            received.senders, received.lanes, received.payloads, strict=True
        ):
            part = parts.setdefault(ACTOR_OF_LANE[Lane(lane)], Received([], [], []))
            part.senders.append(sender)
            part.lanes.append(lane)
            part.payloads.append(payload)
        for actor, part in parts.items():
            self._hand_on(actor, part)

    def _hand_on(self, actor: str, part: Received) -> None:
        message = PeerReceived(part.senders, part.lanes, part.payloads)
        if not self.links.is_open(actor) or not self.send(actor, message, len(part.payloads)):
            self.count(TransportMetric.UNDELIVERED, len(part.payloads))

    def _tell_links(self, unreachable: list[int], lost: list[int]) -> None:
        for peer in lost:
            self.log.warning("lost connection with peer", **{"remote-peer-id": f"{peer:x}"})
        if self.links.is_open("raft-node"):
            self.send("raft-node", PeerLinks(unreachable, lost))

    # ---- time ----

    @handles(Tick)
    def tick(self, message: Tick) -> None:
        """Start once it is known who is who; keep links and words up to date."""
        now = message.now
        if now >= self._next_members:
            self._read_members(now)
        if self._peers is None:
            return
        self._peers.tick(now)
        unreachable = self._peers.take_unreachable()
        if unreachable:
            self._tell_links(unreachable, [])
        if now >= self._next_warning:
            self._next_warning = now + UNHEALTHY_SECONDS
            self._tell_unhealthy()
        self._publish()

    def _tell_unhealthy(self) -> None:
        """Say which peers do not answer, in the words of etcd's prober."""
        assert self._peers is not None
        for link in self._peers.links.values():
            if link.active_since is None:
                self.log.warning(
                    "prober detected unhealthy status",
                    **{"remote-peer-id": f"{link.member.id:x}"},
                    error=link.trouble,
                )

    def _read_members(self, now: float) -> None:
        """Read who the members are; again soon if the database is behind what was told."""
        self._next_members = now + SOON_SECONDS
        if self._reader is None and exists(self._directory):
            self._reader = Reader(self._directory)
        if self._reader is not None:
            self._reader.reopen()
            with self._reader.view() as view:
                index, members = view.applied_index, view.members()
                version = view.cluster_version()
            if members and self._peers is None:
                self._start()
            if members and self._peers is not None:
                self._peers.cluster_version = pack_version(version) if version else 0
                self._peers.set_members(
                    PeerMember(member.id, member.name, member.peer_urls, bool(member.client_urls))
                    for member in members
                )
                if index >= self._wanted_index:
                    self._next_members = now + MEMBERS_SECONDS
        self.actor_inbox.wake_at(self._next_members)

    def _start(self) -> None:
        """Listen, if the raft node has said who this member is."""
        member_id = self.board.get("raft-node", Cell.METRICS + RaftMetric.MEMBER_ID)
        cluster_id = self.board.get("raft-node", Cell.METRICS + RaftMetric.CLUSTER_ID)
        if not member_id or not cluster_id:
            return
        config = self.context.config
        secret, allowed = config.get("peer_curve_secret_file"), config.get("peer_curve_allow_dir")
        settings = PeerSettings(
            member_id=member_id,
            cluster_id=cluster_id,
            urls=tuple(config.get("listen_peer_urls") or ()),
            descriptors=self.context.sockets.get("peer", ()),
            timing=self._timing,
            keys=Keys(Path(secret), Path(allowed)) if secret and allowed else None,
        )
        self._peers = Peers(settings, self.actor_inbox, self.log)

    def _publish(self) -> None:
        """Bring this actor's words up to date."""
        peers = self._peers
        assert peers is not None
        active = peers.active()
        self.metric(TransportMetric.ACTIVE_PEERS, len(active))
        self.metric(TransportMetric.LONGEST_CONNECTED, active[0].member.id if active else 0)
        self.metric(TransportMetric.LOWEST_VERSION, peers.lowest_version())
        self.metric(TransportMetric.STANDING, peers.standing)
        words: list[int] = [word for word, _ in _COUNTED]
        words += [TransportMetric.REJECTED + reason for reason in Reason]
        totals = [getattr(peers, name) for _, name in _COUNTED] + peers.rejected
        for word, total, told in zip(words, totals, self._told, strict=True):
            if total != told:
                self.count(word, total - told)
        self._told = totals
        links = list(peers.links.values())[:PEER_SLOTS]
        for slot in range(PEER_SLOTS):
            first = TransportMetric.PEERS + slot * len(PeerMetric)
            if slot >= len(links):
                self.metric(first + PeerMetric.ID, 0)
                continue
            link = links[slot]
            self.metric(first + PeerMetric.ACTIVE_SINCE_NS, int((link.active_since or 0) * 1e9))
            self.metric(first + PeerMetric.ROUND_TRIP_NS, int(link.round_trip_seconds * 1e9))
            self.metric(first + PeerMetric.SENT_BYTES, link.sent_bytes)
            self.metric(first + PeerMetric.RECEIVED_BYTES, link.received_bytes)
            self.metric(first + PeerMetric.FAILURES, link.failures)
            self.metric(first + PeerMetric.DROPPED, link.dropped)
            self.metric(first + PeerMetric.VERSION, link.version)
            self.metric(first + PeerMetric.ID, link.member.id)

    # ---- the control mailbox, on its own thread ----

    def stats(self) -> dict[str, Any]:
        """Return a table of all links."""
        peers = self._peers
        return peers.stats() if peers is not None else {"peers": []}

    def _fault(self, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Handler:
        """Return a handler that changes the fault of links.

        A request may name `peer` (member id as a number or in hexadecimal, or a name; all peers
        without) and `for` (seconds, as for every fault). A change of None mends.
        """

        def handle(request: dict[str, Any]) -> dict[str, Any]:
            if not self.context.config.get("enable_faults"):
                raise FaultsDisabledError("start the member with --enable-faults")
            peers = self._peers
            now = time.monotonic()
            try:
                fields = change(request)
                if fields and any(fields.values()):
                    fields["until"] = now + seconds_of(request)
            except BadFaultError as error:
                return {"error": str(error)}
            if peers is None:
                if fields is None:
                    return {"peers": []}
                raise LookupError("no links yet")
            chosen = peers.find(request.get("peer"))
            for peer in chosen:
                if fields is None:
                    peers.faults.mend(peer)
                else:
                    peers.faults.change(peer, now, **fields)
            return {"peers": [f"{peer:x}" for peer in chosen]}

        return handle

    def on_stop(self) -> None:
        """Close all links. Runs on the actor's thread."""
        if self._peers is not None:
            self._peers.close()


def main(context: ActorContext) -> None:
    """Run the transport of one member."""
    run(Transport, context)
