"""Whoever talks nonsense to a peer port, or belongs to another cluster, harms nobody."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.cluster import Cluster, ClusterMember
from tests.cluster_faults.history import History
from tests.cluster_faults.load import Load, Probe
from tests.cluster_faults.timing import ELECTION_SECONDS, FAST

pytestmark = pytest.mark.e2e

ROUNDS = 20
ATTACK_SECONDS = 1.5
LOG_LINES_A_SECOND = 1
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"  # of ZMTP 3.1, up to its mechanism


def random_bytes(chance: Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 4096))


def http(_: Random) -> bytes:
    return b"GET /raft/probing HTTP/1.1\r\nHost: peer\r\nX-Etcd-Cluster-Id: 1\r\n\r\n"


def silence(_: Random) -> bytes:
    return b""


REJECTED = "rejected connection on peer endpoint"


def half_greeting(chance: Random) -> bytes:
    return GREETING[: chance.randrange(1, len(GREETING))]


def greeting_and_garbage(chance: Random) -> bytes:
    return GREETING + b"NULL" + bytes(16 + 1 + 31) + chance.randbytes(chance.randrange(1, 2048))


def huge_frame(chance: Random) -> bytes:
    """A handshake, then a frame that says it has 3 GiB."""
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
    handshake = GREETING + b"NULL" + bytes(16 + 1 + 31) + b"\x04" + bytes([len(ready)]) + ready
    return handshake + b"\x02" + struct.pack(">Q", 3 << 30) + chance.randbytes(65536)


ATTACKS: tuple[Callable[[Random], bytes], ...] = (
    random_bytes, http, silence, half_greeting, greeting_and_garbage, huge_frame,
)  # fmt: skip


def attack(member: ClusterMember, payload: bytes, kept: list[socket.socket]) -> None:
    """Send a payload to the peer port; leave half of the connections open."""
    link = socket.create_connection((member.host, member.peer_port), 5.0)
    link.settimeout(0.2)
    kept.append(link)
    with contextlib.suppress(OSError):  # it may hang up on us
        link.sendall(payload)
    if len(kept) % 2:
        link.close()


def resident_bytes(member: ClusterMember) -> int:
    """Return the resident set of all processes of a member, shared pages counted each time."""
    total = 0
    for pid in member.pids():
        with contextlib.suppress(FileNotFoundError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * 4096


def test_garbage_at_the_peer_ports_changes_nothing(cluster: Cluster) -> None:
    chance, history = Random(9), History()
    history.begin(cluster.client(cluster.leader()))
    leader, term = cluster.leader(), cluster.term()
    before = [member.actors() for member in cluster.members]
    lines = [member.log.count(REJECTED) for member in cluster.members]
    memory = [resident_bytes(member) for member in cluster.members]
    kept: list[socket.socket] = []

    begun = time.monotonic()
    try:
        with (
            Load(history, cluster.endpoints, 6, pause=0.005) as load,
            Probe(history, cluster.endpoints) as probe,
        ):
            while (elapsed := time.monotonic() - begun) < ATTACK_SECONDS:
                for member in cluster.members:
                    attack(member, chance.choice(ATTACKS)(chance), kept)
                time.sleep(0.01)
            load.wait_for(20)
            gap = probe.longest_gap(begun, time.monotonic())
        grown = [
            resident_bytes(member) - was
            for member, was in zip(cluster.members, memory, strict=True)
        ]
    finally:
        for link in kept:
            link.close()

    history.check(cluster.client(leader))
    written = [
        member.log.count(REJECTED) - was for member, was in zip(cluster.members, lines, strict=True)
    ]
    elapsed = time.monotonic() - begun
    print(  # noqa: T201
        f"{len(kept)} bad connections: longest gap {gap * 1e3:.0f} ms, log lines {written}, "
        f"memory +{max(grown) >> 20} MiB, errors {dict(load.errors) or 'none'}"
    )
    assert (cluster.leader(), cluster.term()) == (leader, term)
    assert not load.errors
    assert gap < ELECTION_SECONDS
    assert [member.actors() for member in cluster.members] == before
    assert max(grown) < 256 << 20
    if cluster.is_trouped:
        assert max(written) <= LOG_LINES_A_SECOND * (elapsed + 2)


def test_a_member_of_another_cluster_that_dials_us_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Two strangers take our first member for their third."""
    leader, term = cluster.leader(), cluster.term()
    lines = [member.log.count(REJECTED) for member in cluster.members]
    strangers = Cluster(tmp_path / "strangers", flags=FAST)
    strangers._assign_ports()
    victim = strangers.members[2]
    own = victim.peer_url
    for member in strangers.members:
        member.initial_cluster = member.initial_cluster.replace(own, cluster.members[0].peer_url)
    history = History()
    history.begin(cluster.client(leader))

    begun = time.monotonic()
    try:
        with Load(history, cluster.endpoints, 3, pause=0.005) as load:
            strangers.spawn(strangers.members[:2])
            for stranger in strangers.members[:2]:
                stranger.wait_ready()
            strangers.client(strangers.members[0]).put(b"theirs", b"1")
            time.sleep(2 * ELECTION_SECONDS)
            load.wait_for(10)
        theirs = strangers.status(strangers.members[0])
        ours = cluster.client(cluster.members[0]).get(b"theirs")
        elapsed = time.monotonic() - begun
    finally:
        strangers.stop()

    history.check(cluster.client(leader))
    written = [
        member.log.count(REJECTED) - was for member, was in zip(cluster.members, lines, strict=True)
    ]
    print(f"log lines {written} in {elapsed:.1f} s")  # noqa: T201
    assert (cluster.leader(), cluster.term()) == (leader, term)
    assert not load.errors
    assert theirs.header.cluster_id != cluster.status(leader).header.cluster_id
    assert ours is None
    if cluster.is_trouped:
        rejected = [line for line in cluster.members[0].log.splitlines() if REJECTED in line]
        assert json.loads(rejected[-1])["total"]["cluster"] > 0
        assert max(written) <= LOG_LINES_A_SECOND * (elapsed + 2)
