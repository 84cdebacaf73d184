"""Members without a history: nothing of raft before a peer has told how they stand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from actors.metrics import RaftMetric
from actors.raft_admission import Admission
from storage.failures import LostDataError
from tests.actors.test_raft_cluster import Bench, Node
from transport.mailbox import Tick
from transport.peer_wire import Standing


@pytest.fixture
def standing() -> list[Standing]:
    return [Standing.UNKNOWN]


def test_it_waits_for_an_answer_and_asks_once(standing: list[Standing]) -> None:
    admission = Admission(7, lambda: standing[0], asks=True)
    assert not admission.granted()

    standing[0] = Standing.NEW
    assert admission.granted()
    standing[0] = Standing.BOOTSTRAPPED  # by now it has told its own URLs
    assert admission.granted()


def test_who_has_been_up_and_has_no_history_is_refused_for_ever(standing: list[Standing]) -> None:
    admission = Admission(0xAB, lambda: standing[0], asks=True)
    standing[0] = Standing.BOOTSTRAPPED

    for _ in range(2):
        with pytest.raises(LostDataError, match="member ab has already been bootstrapped"):
            admission.granted()


def test_who_has_a_history_asks_nobody(standing: list[Standing]) -> None:
    standing[0] = Standing.BOOTSTRAPPED

    assert Admission(7, lambda: standing[0], asks=False).granted()


def test_a_member_that_begins_anew_neither_votes_nor_campaigns_until_a_peer_has_answered(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    newcomer, *others = bench.nodes.values()
    newcomer.kill()
    again = Node(newcomer.folder, newcomer.name, incarnation=2, standing=Standing.UNKNOWN)
    bench.nodes = {again.id: again}
    for _ in range(60):
        bench.tick(again)
    assert again.word(RaftMetric.TERM) in (0, 1)

    bench.nodes |= {others[0].id: others[0]}
    for _ in range(60):
        bench.tick(*bench.nodes.values())
    assert not any(node.word(RaftMetric.LEADER) for node in bench.nodes.values())

    again.standing(Standing.NEW)
    bench.elect()
    for node in bench.nodes.values():
        node.kill()
    others[1].kill()


def test_a_member_with_a_history_is_not_asked_about_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    leader = bench.elect()
    follower, third = bench.others(leader)
    follower.kill()
    again = Node(follower.folder, follower.name, 2, standing=Standing.BOOTSTRAPPED)
    bench.nodes[again.id] = again

    again.actor.tick(Tick(time.monotonic() + 1.0))
    bench.settle()

    assert again.actor._admission.granted()
    for node in (leader, again, third):
        node.kill()
