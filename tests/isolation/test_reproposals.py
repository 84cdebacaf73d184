"""Proposals asked for again while the first copies are in the log: the leader drops the copies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control.peek import ask_actor
from etcdpb import rpc_pb2 as pb
from pytest_trouped.client import Client
from pytest_trouped.member import Member
from tests.supervisor.toys import eventually

pytestmark = pytest.mark.e2e

PUTS = 20
OTHERS = 10
"""Entries that are nobody's put: an election, a session's opening, marks, a lease."""


def last_index(member: Member) -> int:
    return int(raft_node(member).get("last_index", 0))


def raft_node(member: Member) -> dict[str, Any]:
    """Return what the raft node says of itself; nothing while it does not answer."""
    return ask_actor(member.view, "raft-node", "stats", 2.0) or {}


def test_copies_of_what_waits_for_the_applier_are_not_logged_again(tmp_path: Path) -> None:
    with Member(tmp_path, flags=["--enable-faults"]) as member, Client(member.endpoint) as client:
        revision = client.put(b"counter", b"first", timeout=20.0)
        before = last_index(member)
        member.faults.suspend("applier", 4.0)
        answers = []
        for number in range(PUTS):
            answers.append(client.begin(pb.PutRequest(key=b"counter", value=b"%d" % number), 20.0))
            logged = partial(lambda wanted: last_index(member) >= wanted, before + number + 1)
            eventually(logged, "it has an entry of its own")
        incarnation = member.faults.incarnation("raft-node")

        member.faults.kill("raft-node")  # its gateway looks, and proposes all of them again
        member.faults.wait_restarted("raft-node", incarnation)
        eventually(
            lambda: raft_node(member).get("copies_dropped", 0) >= PUTS, "copies are dropped", 10.0
        )

        results = [answer() for answer in answers]
        assert all(result.ok for result in results), results
        kv = client.range(pb.RangeRequest(key=b"counter")).kvs[0]
        assert (kv.version, kv.mod_revision) == (PUTS + 1, revision + PUTS)
        assert last_index(member) <= before + PUTS + OTHERS
