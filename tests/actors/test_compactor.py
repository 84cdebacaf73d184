"""The compactor alone: one slice of pruning in flight, and none lost for ever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from actors.compactor import Compactor
from actors.histograms import compaction_pause, compaction_total
from actors.messages import CompactionScheduled, Grant, Prune, Pruned
from actors.metrics import ApplierMetric, CompactorMetric, GatewayMetric
from tests.actors.boards import context, make_board
from transport.counters import Cell
from transport.links import Welcome
from transport.mailbox import Tick

CONFIG = {
    "auto_compaction_seconds": 0.0,
    "auto_compaction_revisions": 0,
    "compaction_batch_limit": 1000,
    "compaction_sleep_interval_seconds": 0.01,
}
FAR = 1e12  # a time by which every pause is over


class Desk:
    def __init__(self, folder: Path) -> None:
        make_board(folder)
        self.actor = Compactor(context(folder, "compactor", CONFIG))
        self.sent: list[Any] = []
        self.actor.send = self._catch  # type: ignore[method-assign]

    def _catch(self, receiver: str, message: object, items: int = 1) -> bool:
        assert receiver == "applier"
        self.sent.append(message)
        return True

    def tick(self) -> None:
        self.actor.tick(Tick(FAR))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_one_slice_is_in_flight_at_a_time(desk: Desk) -> None:
    desk.actor.scheduled(CompactionScheduled(revision=9, pruned_to=0))

    desk.tick()
    desk.tick()
    first = list(desk.sent)
    desk.actor.pruned(Pruned(9, 1000, 10, finished=False))
    desk.tick()

    assert first == [Prune(1000, 0)]
    assert desk.sent == [Prune(1000, 0), Prune(1000, 0)]


def test_nothing_is_asked_for_when_the_job_is_done(desk: Desk) -> None:
    desk.actor.scheduled(CompactionScheduled(revision=9, pruned_to=0))
    desk.tick()

    desk.actor.pruned(Pruned(9, 10, 1, finished=True))
    desk.tick()

    assert desk.sent == [Prune(1000, 0)]


def test_a_slice_asked_of_a_dead_applier_is_asked_for_again(desk: Desk) -> None:
    desk.actor.scheduled(CompactionScheduled(revision=9, pruned_to=0))
    desk.tick()

    desk.actor.welcomed(Welcome("applier", 2, []))
    desk.tick()

    assert desk.sent == [Prune(1000, 0), Prune(1000, 0)]


def test_a_slice_lost_on_the_way_to_a_living_applier_is_asked_for_again(desk: Desk) -> None:
    desk.actor.scheduled(CompactionScheduled(revision=9, pruned_to=0))
    desk.tick()

    desk.actor.welcome("applier", 0)  # it opens its stream anew: it has seen a gap
    desk.tick()

    assert desk.sent == [Prune(1000, 0), Prune(1000, 0)]


def test_what_a_gateway_has_yet_to_read_for_its_watchers_is_not_pruned(
    desk: Desk,
) -> None:
    words = desk.actor.board.words
    applier = desk.actor.board.block("applier") + Cell.METRICS
    gateway = desk.actor.board.block("gateway-1") + Cell.METRICS
    words[applier + ApplierMetric.COMPACT_REVISION] = 9
    desk.actor.scheduled(CompactionScheduled(revision=9, pruned_to=0))

    words[gateway + GatewayMetric.UNREAD_REVISION] = 8
    desk.tick()
    before = list(desk.sent)
    words[gateway + GatewayMetric.UNREAD_REVISION] = 9
    desk.actor.tick(Tick(2 * FAR))

    assert before == []
    assert desk.sent == [Prune(1000, 9)]  # and no further


def test_its_summary_tells_mode_and_next_run_of_a_leader(tmp_path: Path) -> None:
    make_board(tmp_path)
    config = CONFIG | {"auto_compaction_revisions": 1000}
    actor = Compactor(context(tmp_path, "compactor", config))
    before = actor.stats()
    far_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 1_000_000_000
    actor.granted(Grant(term=1, first_index=1, deadline_ns=far_ns))
    actor.tick(Tick(time.monotonic()))

    after = actor.stats()

    assert (before["mode"], before["next_run_seconds"]) == ("revision", None)
    assert 290 < after["next_run_seconds"] <= 300


def test_its_summary_tells_that_nothing_is_compacted_by_itself(desk: Desk) -> None:
    assert desk.actor.stats()["mode"] == "off"


def test_slices_and_whole_jobs_are_timed(desk: Desk) -> None:
    desk.actor.scheduled(CompactionScheduled(revision=9, pruned_to=0))
    for finished in (False, True):
        desk.tick()
        desk.actor.pruned(Pruned(9, 10, 1, finished=finished))

    board = desk.actor.board
    assert compaction_pause(board).read()[0][-1][1] == 2
    assert compaction_total(board).read()[0][-1][1] == 1
    last = board.get("compactor", Cell.METRICS + CompactorMetric.LAST_SECONDS)
    assert 0 <= time.time() - last < 10
