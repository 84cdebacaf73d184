"""Lines that tools wait for, in etcd's words (ETCD-SURFACE: logs)."""

from __future__ import annotations

import json
from pathlib import Path

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.supervisor.toys import eventually

MESSAGES = (
    "ready to serve client requests",
    "serving client traffic",
    "starting an etcd server",
    "request stats",
    "finished scheduled compaction",
    "saved snapshot to disk",
    "compacted Raft logs",
    "apply request took too long",
)


def messages(member: Member) -> list[str]:
    """Return what a member has logged; each line is a JSON object."""
    return [json.loads(line)["msg"] for line in member.log.splitlines()]


def test_a_member_says_what_tools_wait_for(tmp_path: Path) -> None:
    flags = [
        "--snapshot-count=10",
        "--snapshot-catchup-entries=5",
        "--warning-apply-duration=1us",
        "--warning-unary-request-duration=1us",
    ]
    with Member(tmp_path, flags=flags) as member, Client(member.endpoint) as client:

        def said_all() -> bool:
            for _ in range(20):
                client.put(b"a", b"1")
            revision = client.put(b"a", b"1")
            client.call(pb.CompactionRequest(revision=revision), pb.CompactionResponse)
            said = messages(member)
            return all(message in said for message in MESSAGES)

        eventually(said_all, "every line")

        header = client.call(pb.PutRequest(key=b"a"), pb.PutResponse).header
        identity, term = header.member_id, header.raft_term
        elected = f"raft.node: {identity:x} elected leader {identity:x} at term {term}"
        assert elected in messages(member)


def test_a_new_member_starts_and_one_with_a_log_restarts_under_etcds_keys(tmp_path: Path) -> None:
    ready = MESSAGES[0]
    with Member(tmp_path) as member, Client(member.endpoint) as client:
        eventually(lambda: ready in messages(member), ready)
        new = [json.loads(line) for line in member.log.splitlines()]
        header = client.call(pb.PutRequest(key=b"a"), pb.PutResponse).header
        member.restart()
        eventually(lambda: messages(member).count(ready) == 2, ready)
        again = [json.loads(line) for line in member.log.splitlines()][len(new) :]

    identity = {
        "local-member-id": f"{header.member_id:x}",
        "cluster-id": f"{header.cluster_id:x}",
    }
    for lines, word in (new, "starting"), (again, "restarting"):
        (began,) = (line for line in lines if line["msg"].endswith("starting local member"))
        assert began["msg"] == f"{word} local member"
        assert began.items() >= identity.items()
        (published,) = (line for line in lines if line["msg"].startswith("published local"))
        assert published.items() >= identity.items()


def test_a_flag_that_changes_nothing_is_named(tmp_path: Path) -> None:
    flags = ["--corrupt-check-time=1s", "--feature-gates=InitialCorruptCheck=true"]
    with Member(tmp_path, flags=flags) as member:
        lines = [json.loads(line) for line in member.log.splitlines()]

    (said,) = (line for line in lines if line["msg"] == "these settings change nothing here")
    assert said["flags-without-effect"] == [
        "corrupt-check-time",
        "feature-gates InitialCorruptCheck",
    ]
