"""Explanations of real requests: what they are, what they wait behind, and for whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control import explain, fault
from control.observe import MemberView
from control.recorder import recorder
from etcdpb import rpc_pb2 as pb
from tests.client import Answer, Client
from tests.cluster import Cluster, ClusterMember
from tests.member import Member
from tests.supervisor.toys import eventually

pytestmark = pytest.mark.e2e
SLOW_MS = 400
KEYS = 20_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("explained")
    # No slow disk costs an election here: it would be told of instead.
    flags = ["--enable-faults", "--gateways=1", "--election-timeout=4000"]
    with Cluster(folder, flags=flags) as made:
        yield made


@pytest.fixture
def slow_disks(cluster: Cluster) -> Iterator[Callable[..., None]]:
    def slow(*members: ClusterMember) -> None:
        eventually(lambda: is_quick(cluster), "what was slow before is over")
        for member in members:
            fault.inject(member.view, "fsync-slow", "", ms=SLOW_MS, **{"for": 20.0})

    yield slow
    for member in cluster.members:
        fault.inject(member.view, "heal", "")


def is_quick(cluster: Cluster) -> bool:
    """Whether puts through every member are quick, some times over."""
    longest = 0.0
    for member in cluster.members * 3:
        began = time.monotonic()
        cluster.client(member).put(b"a", b"1")
        longest = max(longest, time.monotonic() - began)
    return longest < 0.1


def identity(cluster: Cluster, member: ClusterMember) -> str:
    return f"{cluster.status(member).header.member_id:x}"


def explained(view: MemberView, since_ns: int, operation: str) -> dict[str, Any]:
    """Return the slowest that began after a moment and is of an operation."""
    found = explain.explain(view, limit=1000)["slowest"]
    one: dict[str, Any] = next(
        one for one in found if one["began_ns"] >= since_ns and operation in one["operations"]
    )
    return one


def slow_put(cluster: Cluster, member: ClusterMember, since_ns: int) -> dict[str, Any]:
    """Put until one was slow; return what is said of it."""
    with Client(member.endpoint) as client:

        def is_slow() -> bool:
            began = time.monotonic()
            client.put(b"a", b"1")
            return time.monotonic() - began > 0.9 * SLOW_MS / 1000

        eventually(is_slow, "a put is slow")
    one = explained(member.view, since_ns, "Put")
    assert one["total_ns"] > 0.9 * SLOW_MS * 1e6
    assert one["finished"]
    assert " ms, Put: " in one["verdict"]
    return one


def test_a_slow_disk_of_the_leader_is_the_leaders_own_sync(
    cluster: Cluster, slow_disks: Callable[..., None]
) -> None:
    leader = cluster.leader()
    slow_disks(leader)
    since = time.monotonic_ns()

    one = slow_put(cluster, leader, since)

    assert one["verdict"].endswith("in raft-node, syncing the log")


def test_slow_disks_of_followers_are_a_quorum_waited_for(
    cluster: Cluster, slow_disks: Callable[..., None]
) -> None:
    leader = cluster.leader()
    followers = cluster.others(leader)
    slow_disks(*followers)
    since = time.monotonic_ns()

    one = slow_put(cluster, leader, since)

    said = one["verdict"].partition(": ")[2]
    head, _, who = said.partition("in raft-node, waiting for a quorum of followers: ")
    assert head, one
    assert who in {f"{identity(cluster, member)} answered last" for member in followers}


def test_who_has_not_answered_a_leader_yet_is_named(
    cluster: Cluster, slow_disks: Callable[..., None]
) -> None:
    leader = cluster.leader()
    followers = cluster.others(leader)
    names = {identity(cluster, member) for member in followers}
    slow_disks(*followers)
    with Client(leader.endpoint) as client:
        seen: list[str] = []

        def is_told() -> bool:
            since = time.monotonic_ns()
            answer = client.begin(pb.PutRequest(key=b"a"))
            time.sleep(0.6 * SLOW_MS / 1000)
            one = explained(leader.view, since, "Put")
            answer()
            seen.append(one["verdict"])
            return not one["finished"] and "no answer yet of" in one["verdict"]

        eventually(is_told, "an open put is told of")
    said, _, who = seen[-1].partition(": no answer yet of ")
    assert said.startswith("not answered for ")
    assert said.endswith("in raft-node, waiting for a quorum of followers")
    assert set(who.split(", ")) <= names


def test_a_follower_waits_for_its_leader(cluster: Cluster, slow_disks: Callable[..., None]) -> None:
    leader = cluster.leader()
    asked, other = cluster.others(leader)
    name = identity(cluster, leader)
    slow_disks(leader, other)  # with one of them there is a quorum
    since = time.monotonic_ns()

    one = slow_put(cluster, asked, since)

    assert one["verdict"].endswith(f"in raft-node, waiting for the leader: {name}")


def test_a_linearizable_read_is_named_and_waits_for_a_quorum(cluster: Cluster) -> None:
    leader, since = cluster.leader(), time.monotonic_ns()
    with Client(leader.endpoint) as client:
        client.range(pb.RangeRequest(key=b"a"))

    one = explained(leader.view, since, "Range")

    assert one["kind"] == "read"
    assert ", Range: " in one["verdict"]


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    with Member(tmp_path, flags=["--gateways=1"]) as made:
        yield made


def test_operations_in_a_batch_are_named_and_so_is_what_was_waited_behind(member: Member) -> None:
    view = member.view
    with Client(member.endpoint) as client:
        fill(client)
        since = time.monotonic_ns()
        deleting = client.begin(pb.DeleteRangeRequest(key=b"k", range_end=b"l"), timeout=60.0)
        eventually(lambda: view.doing_operations("applier") != 0, "the applier deletes")
        running = view.sample("applier")
        put = pb.RequestOp(request_put=pb.PutRequest(key=b"a"))
        assert client.answer(pb.TxnRequest(success=[put]), timeout=60.0).ok
        assert deleting().message is not None

    behind = explained(view, since, "Txn")
    itself = explained(view, since, "DeleteRange")
    flushes = [row["operations"] for row in recorder(view, "applier") if row["operations"]]

    assert running.doing == "Flush"
    assert "waiting in applier's mailbox behind DeleteRange" in behind["verdict"], behind
    assert itself["verdict"].endswith("in applier, in DeleteRange"), itself
    assert ["DeleteRange"] in flushes


def test_a_put_that_waits_behind_the_pruning_of_a_compaction_says_so(member: Member) -> None:
    view = member.view
    spans: list[dict[str, Any]] = []
    flushes: list[list[str]] = []
    with Client(member.endpoint) as client:

        def waited() -> bool:
            fill(client)
            since = time.monotonic_ns()
            revision = client.put(b"a", b"1")
            compacting = client.begin(pb.CompactionRequest(revision=revision, physical=True))
            while not spans and time.monotonic_ns() - since < 1_000_000_000:
                client.put(b"a", b"2")
                found = explain.explain(view, limit=1000)["slowest"]
                writes = [one for one in found if one["began_ns"] >= since]
                spans.extend(s for one in writes for s in one["spans"] if "Compact" in s["behind"])
            flushes.extend(row["operations"] for row in recorder(view, "applier"))
            return compacting().ok and bool(spans)

        eventually(waited, "a put waits behind pruning", 90.0)

    assert {span["actor"] for span in spans} == {"applier"}
    assert any("Compact" in operations for operations in flushes)


def fill(client: Client) -> None:
    """Put KEYS keys, many at once."""
    for begun in range(0, KEYS, 2000):
        answers: list[Callable[[], Answer]] = [
            client.begin(pb.PutRequest(key=b"k%06d" % number), timeout=60.0)
            for number in range(begun, begun + 2000)
        ]
        assert all(answer().ok for answer in answers)
