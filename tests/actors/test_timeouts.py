"""Why a request timed out: leader and links as a board tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.gateway_status import MemberWords
from actors.metrics import PeerMetric, RaftMetric, TransportMetric
from actors.timeouts import Timeouts
from kv.errors import (
    LEADER_CHANGED,
    TIMEOUT,
    TIMEOUT_DUE_TO_CONNECTION_LOST,
    TIMEOUT_DUE_TO_LEADER_FAIL,
)
from tests.actors.boards import make_board
from transport.counters import Cell

OWN, OTHER, THIRD = 7, 8, 9
ELECTION = 1.0


class Member:
    """A member of three, whose links have been up since the beginning of time."""

    def __init__(self, folder: Path) -> None:
        self.board = make_board(folder)
        self._raft(RaftMetric.MEMBER_ID, OWN)
        self.leads(OTHER)
        self.link(0, OTHER, 0.1)
        self.link(1, THIRD, 0.1)
        status = MemberWords(self.board, -1)
        self.timeouts = Timeouts(self.board, status, ELECTION)

    def _raft(self, word: RaftMetric, value: int) -> None:
        self.board.set("raft-node", Cell.METRICS + word, value)

    def leads(self, member: int) -> None:
        self._raft(RaftMetric.LEADER, member)

    def link(self, slot: int, member: int, since: float) -> None:
        """`since` 0: it does not answer."""
        first = Cell.METRICS + TransportMetric.PEERS + slot * len(PeerMetric)
        self.board.set("transport", first + PeerMetric.ID, member)
        self.board.set("transport", first + PeerMetric.ACTIVE_SINCE_NS, int(since * 1e9))


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def test_with_a_leader_and_its_link_all_the_time_it_is_a_plain_time_out(member: Member) -> None:
    assert member.timeouts.of_proposal(100.0) == TIMEOUT
    assert member.timeouts.of_read(100.0) == TIMEOUT


def test_a_leader_elected_within_the_requests_life_tells_of_the_one_before(member: Member) -> None:
    member.leads(0)
    lost = member.timeouts.look(101.0)
    member.leads(THIRD)
    elected = member.timeouts.look(102.0)

    assert (lost, elected, member.timeouts.look(102.5)) == (True, True, False)
    assert member.timeouts.of_proposal(101.0) == TIMEOUT_DUE_TO_LEADER_FAIL
    assert member.timeouts.of_read(101.0) == LEADER_CHANGED


def test_an_election_long_after_or_before_the_request_is_not_to_blame(member: Member) -> None:
    member.leads(THIRD)
    member.timeouts.look(102.0)

    assert member.timeouts.of_proposal(99.9) == TIMEOUT  # more than two election timeouts before
    assert member.timeouts.of_proposal(102.1) == TIMEOUT
    assert member.timeouts.of_read(102.1) == TIMEOUT


def test_a_follower_that_lost_its_leader_s_link_says_so(member: Member) -> None:
    member.link(0, OTHER, 101.0)
    come_back = member.timeouts.of_proposal(100.0)
    member.link(0, OTHER, 0.0)
    gone = member.timeouts.of_proposal(100.0)
    member.link(0, OTHER, 0.1)
    member.link(1, THIRD, 0.0)
    somebody_else_s = member.timeouts.of_proposal(100.0)

    assert come_back == gone == TIMEOUT_DUE_TO_CONNECTION_LOST
    assert somebody_else_s == TIMEOUT


def test_a_leader_without_a_quorum_of_links_says_so(member: Member) -> None:
    member.leads(OWN)
    member.timeouts.look(1.0)

    member.link(0, OTHER, 0.0)
    one_left = member.timeouts.of_proposal(100.0)
    member.link(1, THIRD, 0.0)
    none_left = member.timeouts.of_proposal(100.0)

    assert one_left == TIMEOUT
    assert none_left == TIMEOUT_DUE_TO_CONNECTION_LOST


def test_without_a_leader_it_is_a_plain_time_out(member: Member) -> None:
    member.leads(0)
    member.timeouts.look(1.0)
    member.link(0, OTHER, 0.0)

    assert member.timeouts.of_proposal(100.0) == TIMEOUT


def test_streams_end_after_three_election_timeouts_without_a_leader(member: Member) -> None:
    member.timeouts.look(10.0)
    member.leads(0)
    member.timeouts.look(12.9)
    early = member.timeouts.is_leaderless(12.9)

    late = member.timeouts.is_leaderless(13.0)
    member.leads(THIRD)
    member.timeouts.look(13.1)

    assert (early, late) == (False, True)
    assert not member.timeouts.is_leaderless(13.1)
