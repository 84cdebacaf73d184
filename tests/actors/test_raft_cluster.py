"""Three raft nodes over real logs; their messages are carried by hand, appliers are a number."""

from __future__ import annotations

import select
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from actors.messages import (
    Apply,
    Grant,
    LeaderIs,
    PeerLinks,
    PeerMessages,
    PeerReceived,
    Propose,
    ReadIndex,
    ReadStates,
    TransferLeader,
)
from actors.metrics import ApplierMetric, RaftMetric, TransportMetric
from actors.peer_codec import decode_peer
from actors.raft_node import RaftNode
from raft.messages import MsgApp
from tests.actors.boards import context, make_board
from transport.counters import Cell
from transport.mailbox import Flush, Tick
from transport.peer_wire import Standing

NAMES = ("m1", "m2", "m3")
URLS = {name: [f"http://127.0.0.1:{2380 + place}"] for place, name in enumerate(NAMES)}
CONFIG = {
    "snapshot_count": 10_000,
    "snapshot_catchup_entries": 5000,
    "max_wals": 5,
    "heartbeat_interval_ms": 100,
    "election_timeout_ms": 1000,
    "pre_vote": True,
    "initial_cluster_token": "token",
    "initial_cluster": URLS,
    "wal_dir": "",
}


class Node:
    """One raft node on a bench, and what it has sent."""

    def __init__(
        self,
        folder: Path,
        name: str,
        incarnation: int = 1,
        *,
        standing: Standing = Standing.NEW,
    ) -> None:
        self.folder, self.name = folder, name
        self.actor = RaftNode(
            context(folder, "raft-node", CONFIG | {"name": name}, incarnation),
        )
        self.sent: list[tuple[str, Any]] = []
        self.actor.send = self._send  # type: ignore[method-assign]
        self.actor.links.is_open = lambda receiver: True  # type: ignore[method-assign]
        self.standing(standing)
        self.actor.on_start()
        self.actor.welcome("transport", 0)
        self.applied_word = self.actor.board.block("applier") + Cell.METRICS
        self.applied_word += ApplierMetric.APPLIED_INDEX
        self.actor.welcome("applier", self.actor._words[self.applied_word])
        self.id = self.actor._id

    def _send(self, receiver: str, message: object, items: int = 1) -> bool:
        self.sent.append((receiver, message))
        return True

    def standing(self, standing: Standing) -> None:
        """Have a peer tell how this member stands with it."""
        word = Cell.METRICS + TransportMetric.STANDING
        self.actor.board.set("transport", word, standing)

    def word(self, word: RaftMetric) -> int:
        """Return a word of the board."""
        return self.actor._words[self.actor._block + Cell.METRICS + word]

    def turn(self) -> list[PeerMessages]:
        """Flush; wait for syncs under way; apply at once; return what goes to peers."""
        self.actor._clients.note(inf)  # as if all had clients: nobody is told later
        for member in self.actor._conf_state.voters:
            self.actor._outbox.has_clients(member, inf)
        self.actor.flush(Flush())
        if not self.actor._log.settled:
            assert self.actor._log.syncer is not None
            select.select([self.actor._log.syncer.descriptor], [], [], 5)
            self.actor._synced()
            self.actor.flush(Flush())
        while self.actor._outbox.holding:  # for a moment
            self.actor.flush(Flush())
        for apply in self.take(Apply):
            assert apply.first_index + len(apply.datas) - 1 <= apply.committed
            self.actor._words[self.applied_word] = apply.committed
        return self.take(PeerMessages)

    def take(self, kind: type[Any]) -> list[Any]:
        """Take out the messages of one kind."""
        found = [message for _, message in self.sent if type(message) is kind]
        self.sent = [(to, message) for to, message in self.sent if type(message) is not kind]
        return found

    def kill(self) -> None:
        """End it as a SIGKILL would: nothing is told to anybody."""
        self.actor._log.close()
        self.actor.links.close()


class Bench:
    """Three members and the wire between them."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.nodes: dict[int, Node] = {}
        for name in NAMES:
            (folder / name).mkdir()
            make_board(folder / name)
            node = Node(folder / name, name)
            self.nodes[node.id] = node
        self.settle()

    def settle(self) -> None:
        """Carry messages until nobody has any more to say."""
        for _ in range(200):
            said = [self.carry(node) for node in list(self.nodes.values())]
            if not any(said):
                return
        raise AssertionError("they never stop talking")

    def carry(self, node: Node) -> bool:
        """Take one turn of a node and deliver what it says; whether it said anything."""
        said = False
        for order in node.turn():
            for to, payload in zip(order.to, order.payloads, strict=True):
                said = True
                if to in self.nodes:
                    lanes = [0]
                    self.nodes[to].actor.peer_received(PeerReceived([node.id], lanes, [payload]))
        return said

    def tick(self, *nodes: Node) -> None:
        """One heartbeat interval passes for some nodes."""
        for node in nodes:
            self.now = max(self.now, node.actor._next_tick)
            node.actor.tick(Tick(node.actor._next_tick))
        self.settle()

    def elect(self) -> Node:
        """Tick until there is a leader whose no-op all have applied."""
        for _ in range(100):
            self.tick(*self.nodes.values())
            leaders = [node for node in self.nodes.values() if node.word(RaftMetric.IS_LEADER)]
            if leaders:
                self.settle()
                return leaders[0]
        raise AssertionError("nobody is elected")

    def others(self, node: Node) -> list[Node]:
        """Return all but one."""
        return [other for other in self.nodes.values() if other is not node]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Three members that have applied their configuration."""
    bench = Bench(tmp_path)
    yield bench
    for node in bench.nodes.values():
        node.kill()


def test_a_leader_is_elected_and_everybody_says_so(bench: Bench) -> None:
    leader = bench.elect()

    assert {node.word(RaftMetric.LEADER) for node in bench.nodes.values()} == {leader.id}
    assert len({node.word(RaftMetric.TERM) for node in bench.nodes.values()}) == 1
    assert not any(node.word(RaftMetric.SOLE_VOTER) for node in bench.nodes.values())
    for node in bench.nodes.values():
        assert node.take(LeaderIs)[-1].leader == leader.id


def test_a_proposal_of_any_member_is_applied_by_all(bench: Bench) -> None:
    leader = bench.elect()
    for place, node in enumerate(bench.nodes.values()):
        node.actor.propose(Propose(1, 1, 1, b"batch %d" % place))
    bench.settle()

    words = {node.actor._words[node.applied_word] for node in bench.nodes.values()}
    assert words == {leader.word(RaftMetric.COMMITTED_INDEX)}
    logs = [
        [entry.data for entry in node.actor._storage.entries(5, 8, 1 << 20)]
        for node in bench.nodes.values()
    ]
    assert logs[0] == logs[1] == logs[2]
    assert sorted(logs[0]) == [b"batch 0", b"batch 1", b"batch 2"]


def test_a_leader_has_written_what_it_sends(bench: Bench) -> None:
    leader = bench.elect()
    leader.actor.propose(Propose(1, 1, 1, b"batch"))

    leader.actor.flush(Flush())

    (order,) = leader.take(PeerMessages)
    sent = [decode_peer(payload) for payload in order.payloads]
    assert [len(m.entries) for m in sent if isinstance(m, MsgApp)] == [1, 1]
    assert leader.actor._log.wal.last_index == sent[0].entries[-1].index  # type: ignore[union-attr]
    bench.settle()


def test_proposals_wait_for_a_leader(bench: Bench) -> None:
    node = next(iter(bench.nodes.values()))
    node.actor.propose(Propose(1, 1, 1, b"early"))
    bench.settle()
    leader = bench.elect()

    last = leader.actor._storage.last_index()
    datas = [entry.data for entry in leader.actor._storage.entries(4, last + 1, 1 << 20)]
    assert b"early" in datas


def test_a_read_on_any_member_is_answered_with_the_commit_index(bench: Bench) -> None:
    leader = bench.elect()
    for node in bench.nodes.values():
        node.actor.read_index(ReadIndex("gateway-0", 7))
    bench.settle()

    committed = leader.word(RaftMetric.COMMITTED_INDEX)
    for node in bench.nodes.values():
        assert node.take(ReadStates) == [ReadStates(7, committed)]


def test_a_leader_cut_off_answers_no_read_and_gets_no_grant(bench: Bench) -> None:
    leader = bench.elect()
    bench.settle()
    for other in bench.others(leader):
        del bench.nodes[other.id]
        other.kill()
    leader.take(Grant)
    leader.actor.read_index(ReadIndex("gateway-0", 7))
    leader.actor._granting._next = 0.0
    bench.tick(leader)

    assert leader.take(ReadStates) == []
    assert leader.take(Grant) == []


def test_leadership_can_be_handed_over(bench: Bench) -> None:
    leader = bench.elect()
    to = bench.others(leader)[0]

    leader.actor.transfer_leader(TransferLeader(to.id))
    bench.settle()

    assert to.word(RaftMetric.IS_LEADER)
    assert not leader.word(RaftMetric.IS_LEADER)
    assert leader.take(Grant)[-1].deadline_ns == 0


def test_a_killed_leader_campaigns_at_once_and_loses_nothing(bench: Bench) -> None:
    leader = bench.elect()
    leader.actor.propose(Propose(1, 1, 1, b"batch"))
    bench.settle()
    term = leader.word(RaftMetric.TERM)
    leader.kill()

    again = Node(leader.folder, leader.name, 2)
    bench.nodes[leader.id] = again
    bench.settle()

    assert again.word(RaftMetric.IS_LEADER)
    assert again.word(RaftMetric.TERM) == term + 1
    last = again.actor._storage.last_index()
    datas = [entry.data for entry in again.actor._storage.entries(4, last + 1, 1 << 20)]
    assert datas.count(b"batch") == 1


def test_a_follower_that_comes_back_does_not_campaign(bench: Bench) -> None:
    leader = bench.elect()
    follower = bench.others(leader)[0]
    follower.kill()

    bench.nodes[follower.id] = Node(follower.folder, follower.name, 2)
    bench.settle()

    assert leader.word(RaftMetric.IS_LEADER)


def test_followers_whose_leader_is_gone_elect_another_without_a_timeout(bench: Bench) -> None:
    leader = bench.elect()
    del bench.nodes[leader.id]
    leader.kill()
    first, second = bench.nodes.values()
    for node in (first, second):
        node.actor.peer_links(PeerLinks([], [leader.id]))
    first.actor._elections.tick(first.actor._elections._campaign_at or 0.0)
    bench.settle()

    assert first.word(RaftMetric.IS_LEADER)


def test_a_cut_link_to_a_living_leader_costs_no_election(bench: Bench) -> None:
    leader = bench.elect()
    follower = bench.others(leader)[0]
    term = leader.word(RaftMetric.TERM)
    follower.actor.peer_links(PeerLinks([], [leader.id]))
    follower.actor._elections.tick(follower.actor._elections._campaign_at or 0.0)
    bench.settle()
    bench.tick(*bench.nodes.values())

    assert leader.word(RaftMetric.IS_LEADER)
    assert follower.word(RaftMetric.LEADER) == leader.id
    assert leader.word(RaftMetric.TERM) == term


def test_messages_that_are_not_the_senders_own_are_refused(bench: Bench) -> None:
    leader = bench.elect()
    one, two = bench.others(leader)
    leader.actor.propose(Propose(1, 1, 1, b"batch"))
    leader.actor.flush(Flush())
    (order,) = leader.take(PeerMessages)
    payload = next(p for to, p in zip(order.to, order.payloads, strict=True) if to == one.id)
    before = one.word(RaftMetric.PEER_MESSAGES_REFUSED)

    one.actor.peer_received(PeerReceived([two.id, leader.id], [0, 0], [payload, b"garbage"]))
    two.actor.peer_received(PeerReceived([leader.id], [0], [payload]))

    assert one.word(RaftMetric.PEER_MESSAGES_REFUSED) == before + 2
    assert two.word(RaftMetric.PEER_MESSAGES_REFUSED) == 1


def test_refused_messages_are_told_once_a_second_at_most(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    leader = bench.elect()
    one, two = bench.others(leader)
    capfd.readouterr()

    for _ in range(30):  # three seconds
        one.actor.peer_received(PeerReceived([two.id] * 100, [0] * 100, [b"garbage"] * 100))
        bench.tick(*bench.nodes.values())

    lines = [line for line in capfd.readouterr().err.splitlines() if "refused messages" in line]
    assert 2 <= len(lines) <= 4
    assert f"member {two.id:x}" in lines[0]
    assert one.word(RaftMetric.PEER_MESSAGES_REFUSED) == 3000


def test_a_start_beside_active_peers_is_fast(bench: Bench) -> None:
    node = next(iter(bench.nodes.values()))
    block = node.actor.board.block("transport") + Cell.METRICS
    node.actor._words[block + TransportMetric.ACTIVE_PEERS] = 2

    for _ in range(16):
        if any(n.word(RaftMetric.IS_LEADER) for n in bench.nodes.values()):
            return
        bench.tick(node)

    raise AssertionError("no election within the ticks that were left")
