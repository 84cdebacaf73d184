"""Campaigns beyond raft's own timeouts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import raft_roles
from actors.metrics import PeerMetric, RaftMetric, TransportMetric
from actors.raft_elections import LOST_LEADER_SECONDS, Elections, longest_round_trip
from actors.raft_grant import Granting, boottime_ns
from actors.raft_roles import RoleWords
from raft.config import Config
from raft.messages import MsgHeartbeat, MsgPreVote, MsgVote
from raft.raw_node import RawNode
from raft.state import ConfState, HardState
from raft.storage import MemoryStorage
from transport.counters import Board, Cell
from transport.log import Logger

TIMEOUT = 1.0
HEARTBEAT = 0.02


def follower(*, voters: tuple[int, ...] = (1, 2, 3), pre_vote: bool = True) -> RawNode:
    """Return member 1, in term 5, without a leader."""
    storage = MemoryStorage(conf_state=ConfState(voters))
    storage.set_hard_state(HardState(5, 0, 0))
    return RawNode(
        Config(
            id=1,
            election_tick=10,
            heartbeat_tick=1,
            storage=storage,
            rng=lambda n: n - 1,
            pre_vote=pre_vote,
            check_quorum=True,
            async_storage_writes=True,
        )
    )


def elections(
    node: RawNode, *, licence: float = 0.0, forward: bool = False, round_trip: float = 0.0
) -> Elections:
    """Return the rules for a node."""
    return Elections(
        node,
        licence_seconds=licence,
        fast_forward=forward,
        heartbeat_interval=0.1,
        election_timeout=TIMEOUT,
        round_trip=lambda: round_trip,
    )


def asked(node: RawNode) -> set[type]:
    """Return the kinds of messages the node wants sent."""
    return {type(message) for message in node.ready().messages}


def test_a_licensed_node_campaigns_with_force_once() -> None:
    node = follower()
    rules = elections(node, licence=0.5)

    assert rules.connected()
    assert MsgVote in asked(node)
    assert not rules.connected()


def test_a_licence_that_has_run_out_is_none() -> None:
    node = follower()
    rules = elections(node, licence=1e-9)
    assert not rules.connected()
    assert not node.has_ready()


def test_a_licence_is_none_in_a_later_term() -> None:
    """Another member asks for votes already, and may have been elected without ours."""
    node = follower()
    rules = elections(node, licence=0.5)
    node.step(MsgVote(1, 2, 6, 0, 0, b"CampaignTransfer"))

    assert node.raft.term == 6
    assert not rules.connected()
    assert node.raft.term == 6


def test_without_pre_votes_a_lost_leader_is_waited_for() -> None:
    node = follower(pre_vote=False)
    rules = elections(node)
    node.step(MsgHeartbeat(1, 2, 5))

    assert rules.lost([2]) is None
    assert node.raft.lead == 2


def test_a_node_without_licence_waits() -> None:
    node = follower()
    assert not elections(node).connected()
    assert not node.has_ready()


def test_a_node_that_hears_a_leader_does_not_use_its_licence() -> None:
    node = follower()
    rules = elections(node, licence=0.5)
    node.step(MsgHeartbeat(1, 2, 5))

    assert not rules.connected()
    assert MsgVote not in asked(node)


def test_a_follower_whose_leader_is_gone_asks_for_pre_votes() -> None:
    node = follower()
    rules = elections(node)
    node.step(MsgHeartbeat(1, 2, 5))
    asked(node)

    at = rules.lost([2])
    assert at is not None
    assert at <= time.monotonic() + LOST_LEADER_SECONDS
    rules.tick(at)

    assert MsgPreVote in asked(node)


def test_who_was_refused_asks_again_until_an_election_timeout_has_passed() -> None:
    node = follower()
    rules = elections(node)
    node.step(MsgHeartbeat(1, 2, 5))
    asked(node)
    at = rules.lost([2])
    began, tries = at, 0
    while at is not None:
        at = rules.tick(at)
        tries += MsgPreVote in asked(node)
        assert at is None or at < (began or 0.0) + TIMEOUT

    assert 4 <= tries <= 11


@pytest.mark.parametrize("round_trip", [0.08, 0.15, 0.3])
def test_far_members_get_the_time_for_both_votes(round_trip: float) -> None:
    firsts = []
    for _ in range(20):
        node = follower()
        rules = elections(node, round_trip=round_trip)
        node.step(MsgHeartbeat(1, 2, 5))
        asked(node)
        began = time.monotonic()
        first = rules.lost([2])
        assert first is not None
        firsts.append(first - began)
        again = rules.tick(first)
        assert again is None or again >= first + 2 * round_trip

    assert LOST_LEADER_SECONDS < max(firsts) <= 2 * round_trip + 0.01


def test_the_farthest_peer_counts(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", create=["transport"])
    assert longest_round_trip(board) == 0.0

    for slot, (peer, seconds) in enumerate(((7, 0.02), (8, 0.15), (0, 9.0))):
        first = Cell.METRICS + TransportMetric.PEERS + slot * len(PeerMetric)
        board.set("transport", first + PeerMetric.ID, peer)
        board.set("transport", first + PeerMetric.ROUND_TRIP_NS, int(seconds * 1e9))

    assert longest_round_trip(board) == 0.15


def test_who_hears_of_a_leader_asks_no_more() -> None:
    node = follower()
    rules = elections(node)
    node.step(MsgHeartbeat(1, 2, 5))
    asked(node)
    at = rules.lost([2])
    node.step(MsgHeartbeat(1, 3, 6))
    asked(node)

    assert rules.tick(at or 0.0) is None
    assert not node.has_ready()


def test_the_loss_of_another_follower_changes_nothing() -> None:
    node = follower()
    rules = elections(node)
    node.step(MsgHeartbeat(1, 2, 5))

    assert rules.lost([3]) is None
    assert node.raft.lead == 2


def test_a_start_beside_others_leaves_two_ticks_to_an_election() -> None:
    node = follower()
    rules = elections(node, forward=True)
    rules.raft_ticked(0)
    assert node.raft.election_elapsed == 0
    rules.raft_ticked(1)
    assert node.raft.election_elapsed == 8
    rules.raft_ticked(1)
    assert node.raft.election_elapsed == 8


def test_leaving_without_leadership_needs_no_waiting() -> None:
    node = follower()
    rules = elections(node)
    assert rules.may_stop(time.monotonic()) is None
    assert rules.leave((1, 2, 3), longest_connected=3) == 0
    assert rules.may_stop(time.monotonic()) == 0.0


class Words:
    """A block of the board."""

    def __init__(self) -> None:
        self.words: dict[RaftMetric, int] = {}

    def read(self, place: int) -> int:
        """Return the word at a place of the block."""
        return self.words.get(RaftMetric(place - Cell.METRICS), 0)

    def roles(self, descriptor: int | None = None) -> RoleWords:
        """Return the words of one incarnation, which logs to a descriptor."""
        nowhere = os.open(os.devnull, os.O_WRONLY) if descriptor is None else descriptor
        log = Logger(nowhere, "raft-node")
        return RoleWords(self.read, self.words.__setitem__, log, HEARTBEAT, TIMEOUT)


def led(words: Words, term: int, ago: float) -> None:
    """Say that the incarnation before led a term and died so many seconds ago."""
    words.words[RaftMetric.LED_TERM] = term
    words.words[RaftMetric.LED_AT] = boottime_ns() - int(ago * 1e9)


def test_the_licence_is_for_the_term_that_was_led_a_moment_ago_and_once() -> None:
    words = Words()
    led(words, 5, ago=0.1)
    assert 1.8 < words.roles().take_licence(5) <= 1.9
    assert not words.roles().take_licence(5)
    led(words, 4, ago=0.1)
    assert not words.roles().take_licence(5)
    led(words, 5, ago=2.1)
    assert not words.roles().take_licence(5)


def test_who_leads_is_logged_in_etcds_words(tmp_path: Path) -> None:
    said = tmp_path / "log"
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    node = follower()
    roles = Words().roles(descriptor)

    for lead, term in ((0, 1), (2, 2), (2, 2), (3, 4), (0, 5)):
        node.raft.lead, node.raft.term = lead, term
        roles.tell(node)
    os.close(descriptor)

    assert [json.loads(line)["msg"] for line in said.read_text().splitlines()] == [
        "raft.node: 1 elected leader 2 at term 2",
        "raft.node: 1 changed leader from 2 to 3 at term 4",
        "raft.node: 1 lost leader 3 at term 5",
    ]


def test_a_leader_that_ticks_late_has_failed_to_send_heartbeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 10**9
    monkeypatch.setattr(raft_roles, "boottime_ns", lambda: now)
    words = Words()
    roles = words.roles()
    node: Any = SimpleNamespace(
        is_leader=True, status=lambda: SimpleNamespace(progress={1: None, 2: None})
    )

    roles.stamp(node)
    now += int(1.9 * HEARTBEAT * 1e9)
    roles.stamp(node)
    assert RaftMetric.HEARTBEATS_LATE not in words.words
    now += int(2.1 * HEARTBEAT * 1e9)
    roles.stamp(node)

    assert words.words[RaftMetric.HEARTBEATS_LATE] == 1


def test_a_grant_runs_from_the_moment_its_round_was_sent() -> None:
    granting = Granting(TIMEOUT, HEARTBEAT)
    before = boottime_ns()
    context = granting.ask(0.0)
    after = boottime_ns()

    grant = granting.answered(context, 7, 42)

    assert grant is not None
    length = int((TIMEOUT - HEARTBEAT) * 1e9)
    assert before + length <= grant.deadline_ns <= after + length
    assert (grant.term, grant.first_index) == (7, 42)
    assert granting.answered(context, 7, 42) is None


def test_a_round_of_a_term_that_is_over_gives_no_grant() -> None:
    granting = Granting(TIMEOUT, HEARTBEAT)
    context = granting.ask(0.0)

    assert granting.ended(8).deadline_ns == 0
    assert granting.answered(context, 8, 50) is None
