"""What `/metrics` says of the links to other members, from the transport's words of the board."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from actors.metrics import PEER_SLOTS, PeerMetric, TransportMetric
from transport.counters import Board, Cell


def peer_families(board: Board, member_id: int) -> Iterator[Metric]:
    """Yield etcd's families of the network between members, one sample for each peer."""
    active = GaugeMetricFamily(
        "etcd_network_active_peers",
        "The current number of active peer connections.",
        labels=("Local", "Remote"),
    )
    known = GaugeMetricFamily(
        "etcd_network_known_peers",
        "The current number of known peers.",
        labels=("Local", "Remote"),
    )
    sent = CounterMetricFamily(
        "etcd_network_peer_sent_bytes", "The total number of bytes sent to peers.", labels=("To",)
    )
    received = CounterMetricFamily(
        "etcd_network_peer_received_bytes",
        "The total number of bytes received from peers.",
        labels=("From",),
    )
    failed = CounterMetricFamily(
        "etcd_network_peer_sent_failures",
        "Messages to peers that were dropped, and connections that failed.",
        labels=("To",),
    )
    first = Cell.METRICS + TransportMetric.PEERS
    for slot in range(PEER_SLOTS):
        words = [
            board.get("transport", first + slot * len(PeerMetric) + word) for word in PeerMetric
        ]
        if not words[PeerMetric.ID]:
            continue
        peer = f"{words[PeerMetric.ID]:x}"
        known.add_metric((f"{member_id:x}", peer), 1)
        active.add_metric((f"{member_id:x}", peer), int(words[PeerMetric.ACTIVE_SINCE_NS] != 0))
        sent.add_metric((peer,), words[PeerMetric.SENT_BYTES])
        received.add_metric((peer,), words[PeerMetric.RECEIVED_BYTES])
        failed.add_metric((peer,), words[PeerMetric.DROPPED] + words[PeerMetric.FAILURES])
    yield known
    yield active
    yield sent
    yield received
    yield failed
