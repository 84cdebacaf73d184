"""Which log is kept for members that are sent snapshots, and when raft hears of failures."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from actors.messages import SendSnapshot, SnapshotStatus
from actors.raft_transfers import KEPT_BYTES_MAX, KEPT_SECONDS, RETRY_SECONDS, Transfers
from raft.messages import MsgSnap
from raft.state import Snapshot, SnapshotMetadata

OWN, FOLLOWER, OTHER = 1, 2, 3


class Leader:
    """What of a RawNode is asked: the log's end and the others' progress."""

    def __init__(self) -> None:
        self.is_leader = True
        self.last = 200
        self.progress = {FOLLOWER: SimpleNamespace(match=0), OTHER: SimpleNamespace(match=0)}
        self.raft = SimpleNamespace(
            log=SimpleNamespace(last_index=lambda: self.last),
            tracker=SimpleNamespace(progress=self.progress),
        )
        self.reported: list[tuple[int, bool]] = []

    def report_snapshot(self, member: int, ok: bool) -> None:
        self.reported.append((member, ok))


class Desk:
    def __init__(self) -> None:
        leader: Any = Leader()
        self.leader = leader
        self.orders: list[SendSnapshot] = []
        self.warnings: list[str] = []
        self.lives = True
        log: Any = SimpleNamespace(warning=lambda text, **_: self.warnings.append(text))
        self.transfers = Transfers(leader, self._send, log)

    def _send(self, order: SendSnapshot) -> bool:
        self.orders.append(order)
        return self.lives

    def begin(self, member: int = FOLLOWER, index: int = 100) -> None:
        snapshot = Snapshot(b"", SnapshotMetadata(index, 1))
        self.transfers.begin(MsgSnap(member, OWN, 1, snapshot))

    def end(self, member: int = FOLLOWER, index: int = 150, *, ok: bool = True) -> None:
        self.transfers.over(SnapshotStatus(member, index, ok), 10.0)

    @property
    def kept(self) -> float:
        return self.transfers.kept_from(0)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_log_is_kept_until_the_follower_has_what_there_was(desk: Desk) -> None:
    desk.begin()
    assert desk.kept == 100
    desk.end()
    assert desk.leader.reported == [(FOLLOWER, True)]
    assert desk.kept == 150  # the file was newer than the order

    desk.leader.progress[FOLLOWER].match = 180
    desk.leader.last = 300  # others go on writing meanwhile
    desk.transfers.look(11.0)
    assert desk.kept == 180

    desk.leader.progress[FOLLOWER].match = 200
    desk.transfers.look(12.0)
    assert desk.kept == inf


def test_it_is_not_kept_for_ever(desk: Desk) -> None:
    desk.begin()
    desk.transfers.look(1e6)
    assert desk.kept == 100  # as long as it is being sent
    desk.end()

    desk.transfers.look(10.0 + KEPT_SECONDS - 0.1)
    assert desk.kept == 150
    desk.transfers.look(10.0 + KEPT_SECONDS)
    assert desk.kept == inf


@pytest.mark.parametrize("change", ["deposed", "removed"])
def test_it_is_not_kept_for_somebody_else_s_follower(desk: Desk, change: str) -> None:
    desk.begin()
    desk.end()

    if change == "deposed":
        desk.leader.is_leader = False
    else:
        del desk.leader.progress[FOLLOWER]
    desk.transfers.look(11.0)

    assert desk.kept == inf


def test_it_is_kept_from_where_the_one_furthest_behind_needs_it(desk: Desk) -> None:
    desk.begin(FOLLOWER, 100)
    desk.begin(OTHER, 120)
    desk.end(FOLLOWER, 150)

    assert desk.kept == 120
    desk.end(OTHER, ok=False)
    assert desk.kept == 150


def test_it_is_not_kept_at_any_price(desk: Desk) -> None:
    desk.begin()

    assert desk.transfers.kept_from(KEPT_BYTES_MAX) == 100
    assert desk.transfers.kept_from(KEPT_BYTES_MAX + 1) == inf
    assert desk.kept == inf
    assert len(desk.warnings) == 1
    desk.begin(OTHER)
    desk.end(OTHER)
    assert desk.kept == 150
    desk.transfers.restart()  # raft hears of it all the same
    assert desk.leader.reported == [(OTHER, True), (FOLLOWER, False)]


def test_raft_orders_the_next_a_moment_after_one_has_failed(desk: Desk) -> None:
    desk.begin()
    desk.end(ok=False)

    assert desk.kept == inf
    desk.transfers.look(10.0 + RETRY_SECONDS - 0.1)
    assert desk.leader.reported == []
    desk.transfers.look(10.0 + RETRY_SECONDS)
    desk.transfers.look(20.0)
    assert desk.leader.reported == [(FOLLOWER, False)]


def test_one_that_is_under_way_anew_is_not_told_to_have_failed(desk: Desk) -> None:
    desk.begin()
    desk.end(ok=False)
    desk.begin(index=130)

    desk.transfers.look(20.0)

    assert desk.leader.reported == []
    assert desk.kept == 130


def test_without_a_snapshotter_and_with_a_new_one_raft_is_told_at_once(desk: Desk) -> None:
    desk.lives = False
    desk.begin(OTHER)
    assert desk.leader.reported == [(OTHER, False)]
    desk.lives = True
    desk.begin(OTHER)
    desk.begin(FOLLOWER)
    desk.end(FOLLOWER)

    desk.transfers.restart()

    assert desk.leader.reported[1:] == [(FOLLOWER, True), (OTHER, False)]
    assert desk.kept == 150
    assert [order.to for order in desk.orders] == [OTHER, OTHER, FOLLOWER]
