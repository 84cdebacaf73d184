"""Members that were removed, and snapshots that somebody forges on their way: nobody is harmed."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.peer_codec import encode_peer
from etcdpb import rpc_pb2 as pb
from kv.cluster import Member, encode_member_change
from raft.change import ConfChange, ConfChangeType, encode
from raft.messages import MsgProp
from raft.state import Entry
from tests.cluster import Cluster, ClusterMember
from tests.cluster_faults.forging import ChunkForger, Forger
from tests.cluster_faults.history import History
from tests.cluster_faults.load import Load
from tests.cluster_faults.snapshots import fill, installed
from tests.cluster_faults.timing import ELECTION_SECONDS, FAST
from transport.lanes import Lane

pytestmark = pytest.mark.e2e

REJECTED_FRAMES = "rejected connection on peer endpoint"
REJECTED_CHUNKS = "rejected from a peer's snapshotter"
COMPACTED = "compacted Raft logs"
PUTS = 8_000
FORGED = 12
CATCH_UP_SECONDS_MAX = 40.0


def lines(member: ClusterMember, message: str) -> list[dict[str, Any]]:
    """Return a member's log lines that say something."""
    return [json.loads(line) for line in member.log.splitlines() if f'"msg":"{message}"' in line]


def rejected(member: ClusterMember, reason: str) -> int:
    """Return how many frames a member has rejected for a reason, by its log."""
    told = lines(member, REJECTED_FRAMES)
    return int(told[-1]["total"][reason]) if told else 0


def metric(member: ClusterMember, name: str) -> float:
    """Return one of the member's metrics."""
    with urllib.request.urlopen(f"{member.url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(name + " ")]
    return float(value)


def listed(cluster: Cluster, member: ClusterMember) -> set[str]:
    """Return the names of the members that one knows of."""
    answer = cluster.client(member).call(pb.MemberListRequest(), pb.MemberListResponse)
    return {listed.name for listed in answer.members}


def remove(cluster: Cluster, member: ClusterMember) -> None:
    """Have the others remove a frozen member, as if a follower had forwarded the proposal."""
    leader = cluster.leader()
    (follower,) = [m for m in cluster.others(member) if m is not leader]
    gone = cluster.status(member).header.member_id
    header, sender = cluster.status(leader).header, cluster.status(follower).header.member_id
    kind, data = encode(
        ConfChange(ConfChangeType.REMOVE_NODE, gone, encode_member_change(("remove", Member(gone))))
    )
    order = MsgProp(header.member_id, sender, 0, (Entry(0, 0, data, kind),))
    member.freeze()
    with closing(Forger(leader, (header.cluster_id, sender, header.member_id))) as forger:
        forger.say(Lane.APPEND, encode_peer(order))
        cluster.wait_for(
            lambda: all(member.name not in listed(cluster, m) for m in (leader, follower)),
            f"{member.name} is removed",
        )


def test_a_removed_member_is_not_listened_to_when_it_comes_back(tmp_path: Path) -> None:
    with Cluster(tmp_path, flags=FAST) as cluster:
        if not cluster.is_trouped:
            pytest.skip("says it in the frames of trouped's peers")
        leader, term = cluster.leader(), cluster.term()
        removed, follower = cluster.others(leader)
        history = History()
        history.begin(cluster.client(leader))
        kept = [leader, follower]

        with Load(history, [member.endpoint for member in kept], 4, pause=0.005) as load:
            remove(cluster, removed)
            removed.thaw()  # it has heard nothing of it
            begun = time.monotonic()
            cluster.wait_for(
                lambda: all(rejected(member, "sender") for member in kept),
                "both others reject what it says",
            )
            time.sleep(4 * ELECTION_SECONDS)
            removed.kill()
            removed.spawn()  # its data still name three members
            before = [rejected(member, "sender") for member in kept]
            cluster.wait_for(
                lambda: all(
                    rejected(member, "sender") > was
                    for member, was in zip(kept, before, strict=True)
                ),
                "what it says after a restart is rejected too",
            )
            time.sleep(4 * ELECTION_SECONDS)
            load.wait_for(20)
            elapsed = time.monotonic() - begun

        written = [len(lines(member, REJECTED_FRAMES)) for member in kept]
        counts = [rejected(member, "sender") for member in kept]
        print(f"frames {counts}, log lines {written} in {elapsed:.1f} s")  # noqa: T201
        history.check(cluster.client(leader))
        assert cluster.leader_now(kept) is leader
        assert {cluster.status(member).raftTerm for member in kept} == {term}
        assert not load.errors
        assert max(written) <= elapsed + 2
        assert listed(cluster, leader) == {member.name for member in kept}


def test_replayed_and_truncated_chunks_change_nothing(tmp_path: Path) -> None:
    flags = [*FAST, "--snapshot-count=500", "--snapshot-catchup-entries=10"]
    cluster = Cluster(tmp_path, flags=flags)
    if not cluster.is_trouped:
        pytest.skip("forges the chunks of trouped's snapshotters")
    cluster._assign_ports()
    victim = cluster.members[2]
    with closing(ChunkForger(victim.peer_port, FORGED)) as forger:
        victim.flags = [*victim.flags, f"--listen-peer-urls={victim.peer_url}"]
        victim.peer_port = forger.port
        with cluster:
            victim.kill()
            leader = cluster.leader()
            term = cluster.term()
            fill(leader, PUTS)
            cluster.wait_for(lambda: bool(lines(leader, COMPACTED)), "the log is cut")
            goal = cluster.status(leader).raftIndex
            history = History()
            history.begin(cluster.client(leader))
            kept = cluster.others(victim)

            with Load(history, [member.endpoint for member in kept], 3, pause=0.005) as load:
                begun = time.monotonic()
                victim.spawn()

                def caught_up() -> bool:
                    status = cluster.status(victim, 0.2)
                    return status is not None and status.raftAppliedIndex >= goal

                cluster.wait_for(caught_up, f"index {goal}", CATCH_UP_SECONDS_MAX)
                elapsed = time.monotonic() - begun
                load.wait_for(20)

            cluster.wait_for(lambda: bool(lines(victim, REJECTED_CHUNKS)), "chunks are rejected")
            cluster.wait_for(lambda: bool(lines(victim, REJECTED_FRAMES)), "frames are rejected")
            chunks = metric(victim, "trouped_snapshot_rejected_total")
            written = [len(lines(victim, name)) for name in (REJECTED_FRAMES, REJECTED_CHUNKS)]
            print(  # noqa: T201
                f"{forger.forged}: {chunks:.0f} chunks rejected, log lines {written}, "
                f"caught up after {elapsed:.1f} s"
            )
            cluster.wait_applied()
            history.check(cluster.client(leader))
            assert len(cluster.hashes()) == 1
            assert installed(victim) == 1
            assert (cluster.leader(), cluster.term()) == (leader, term)
            assert not load.errors
            assert forger.forged.replayed_chunks == FORGED
            assert chunks >= 3 * FORGED
            assert rejected(victim, "stale") == rejected(victim, "malformed") == FORGED
            assert max(written) <= elapsed + 2
