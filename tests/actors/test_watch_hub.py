"""The hub: every watcher is told everything it asked for, once and in order, whatever happens."""

from __future__ import annotations

import pytest

from actors.watch_hub import LIVE_STEPS, REST_SECONDS
from actors.watch_pass import TURN_ROWS_MIN
from kv.watch import NO_DELETE, NO_PUT, PREV_KV, Watcher
from tests.actors.watch_bench import Bench, Client


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_watcher_is_told_what_happens_after_it_came(bench: Bench) -> None:
    bench.write(a=b"1")
    watcher = bench.watch(b"a")
    bench.loop.run()

    second = bench.write(a=b"2")
    bench.write(b=b"other")

    assert bench.client.seen(watcher) == [(second, b"a")]
    assert bench.client.flushes == 1


class Keeper(Client):
    """Keeps what it is given as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[Watcher, list[bytes]] = {}

    def take(self, watcher: Watcher, revision: int, events: list[bytes], size: int) -> bool:
        self.given[watcher] = events
        return super().take(watcher, revision, events, size)


@pytest.mark.parametrize("options", [0, PREV_KV])
def test_events_are_encoded_once_for_all_who_ask_alike(bench: Bench, options: int) -> None:
    bench.client = Keeper()
    watchers = [bench.watch(b"a", options=options) for _ in range(3)]
    bench.loop.run()

    bench.write(a=b"1")

    first, *others = (bench.client.given[watcher] for watcher in watchers)
    assert first
    assert all(events is first for events in others)


def test_what_nobody_watches_is_not_read(bench: Bench) -> None:
    for _ in range(3):
        bench.write(a=b"1")

    assert (bench.history.slices, len(bench.loop.due)) == (0, 0)


def test_a_past_start_is_read_from_the_history(bench: Bench) -> None:
    for number in range(20):
        bench.write(a=b"%d" % number)

    watcher = bench.watch(b"a", start=10)
    bench.loop.run()

    assert [revision for revision, _ in bench.client.seen(watcher)] == list(range(10, 22))
    assert bench.hub.is_synced(watcher)


def test_a_future_start_waits(bench: Bench) -> None:
    watcher = bench.watch(b"a", start=5)
    for _ in range(6):
        bench.write(a=b"x")

    assert [revision for revision, _ in bench.client.seen(watcher)] == [5, 6, 7]


def test_a_watcher_of_the_future_has_no_progress_before(bench: Bench) -> None:
    watcher = bench.watch(b"a", start=3)

    before = bench.hub.is_synced(watcher), bench.hub.is_behind(watcher)
    bench.write(a=b"x")
    bench.write(a=b"x")

    assert before == (False, False)
    assert bench.hub.is_synced(watcher)


def test_the_events_of_a_revision_come_together_however_many(bench: Bench) -> None:
    watcher = bench.watch(b"k", b"l")

    revision = bench.write(**{f"k{number:02}": b"x" for number in range(11)})

    ((_, told, events),) = bench.client.responses
    assert told == revision
    assert len(events) == len(bench.client.seen(watcher)) == 11


def test_a_new_watcher_does_not_lose_what_a_big_revision_under_way_has(bench: Bench) -> None:
    first = bench.watch(b"k", b"l")
    bench.loop.run()
    bench.history.write(**{f"k{number}": b"x" for number in range(9)})
    bench.hub.notice()
    bench.hub.read_now()
    assert not bench.client.responses, "the revision must be half read for this test"

    second = bench.watch(b"k", b"m", start=2)
    bench.loop.run()

    assert bench.client.seen(second) == bench.client.seen(first)
    assert len(bench.client.seen(second)) == 9


def test_a_client_that_does_not_read_costs_its_place_only(bench: Bench) -> None:
    slow = Client()
    slow.room = 1
    watcher = bench.watch(b"a", client=slow)
    other = bench.watch(b"a")
    for _ in range(10):
        bench.write(a=b"x")

    assert len(slow.responses) == 1
    assert len(bench.client.seen(other)) == 10
    assert bench.hub.slow == 1
    assert bench.hub.is_behind(watcher)
    assert bench.hub.slowest(5) == [{"next": 3, "behind": 9, "watchers": 1, "why": "not read"}]

    slow.room = 100
    bench.hub.resume(slow)
    bench.loop.run()

    assert [revision for revision, _ in slow.seen(watcher)] == list(range(2, 12))
    assert bench.hub.slow == 0
    assert bench.hub.slowest(5) == []


def test_cursors_in_the_same_place_share_their_reads(bench: Bench) -> None:
    for _ in range(40):
        bench.write(a=b"x")
    watchers = [bench.watch(b"a", start=2) for _ in range(20)]

    bench.loop.run()

    assert all(len(bench.client.seen(watcher)) == 40 for watcher in watchers)
    assert bench.history.slices <= 12


def test_the_event_loop_runs_between_slices(bench: Bench) -> None:
    for _ in range(40):
        bench.write(a=b"x")
    bench.watch(b"a", start=2)

    before = bench.history.slices
    bench.loop.turn()

    assert bench.history.slices - before <= 1
    assert bench.loop.due


def test_a_start_that_is_compacted_is_told_so(bench: Bench) -> None:
    for _ in range(10):
        bench.write(a=b"x")
    bench.history.compact(8)
    lost = bench.watch(b"a", start=7)
    kept = bench.watch(b"a", start=8)

    bench.loop.run()

    assert bench.client.compactions == [(lost, 8)]
    assert [revision for revision, _ in bench.client.seen(kept)] == [8, 9, 10, 11]
    assert len(bench.hub) == 1


def test_a_compaction_passes_a_parked_watcher_and_is_told_when_it_reads(bench: Bench) -> None:
    slow = Client()
    slow.room = 0
    watcher = bench.watch(b"a", client=slow)
    bench.write(a=b"x")
    bench.write(a=b"x")
    bench.history.compact(3)

    bench.hub.resume(slow)
    bench.loop.run()

    assert slow.compactions == [(watcher, 3)]
    assert not slow.responses


def test_a_compaction_right_after_the_events_takes_none_of_them(bench: Bench) -> None:
    watcher = bench.watch(b"a")
    bench.loop.run()
    for _ in range(3):
        bench.history.write(a=b"x")
    bench.history.compact(4, prune=False)

    bench.hub.notice()
    bench.loop.run()

    assert [revision for revision, _ in bench.client.seen(watcher)] == [2, 3, 4]


def test_a_synced_watcher_whose_history_is_pruned_is_cancelled(bench: Bench) -> None:
    watcher = bench.watch(b"a")
    bench.loop.run()
    for _ in range(3):
        bench.history.write(a=b"x")
    bench.history.compact(4)

    bench.hub.notice()
    bench.loop.run()

    assert bench.client.compactions == [(watcher, 4)]


def test_what_must_not_be_pruned_is_told(bench: Bench) -> None:
    held: list[int] = []
    bench.hub.holds = held.append

    watcher = bench.watch(b"a")
    bench.write(b=b"x")
    bench.hub.remove(watcher)

    assert held[0] == 2
    assert held[-2:] == [3, 0]


def test_filters_and_previous_pairs(bench: Bench) -> None:
    bench.write(a=b"1")
    puts = bench.watch(b"a", options=NO_DELETE | PREV_KV)
    deletes = bench.watch(b"a", options=NO_PUT | PREV_KV)
    bench.write(a=b"2")
    bench.write(a=None)
    bench.write(a=b"3")

    told = [
        (watcher is deletes, event.type, event.kv.version, event.prev_kv.value)
        for watcher, _, events in bench.client.responses
        for event in events
    ]

    assert told == [(False, 0, 2, b"1"), (True, 1, 0, b"2"), (False, 0, 1, b"")]
    assert len(bench.client.seen(puts)) == 2


def test_a_pair_that_was_compacted_is_not_told(bench: Bench) -> None:
    for number in range(5):
        bench.write(a=b"%d" % number)
    bench.history.compact(5, prune=False)
    bench.watch(b"a", start=5, options=PREV_KV)
    bench.loop.run()

    ((_, _, events),) = bench.client.responses

    assert [event.prev_kv.value for event in events] == [b"", b"3"]


def test_a_removed_watcher_is_told_nothing_wherever_it_was(bench: Bench) -> None:
    slow = Client()
    slow.room = 0
    for _ in range(9):
        bench.write(a=b"x")
    watchers = [
        bench.watch(b"a"),
        bench.watch(b"a", start=100),
        bench.watch(b"a", start=2),
        bench.watch(b"a", client=slow, start=2),
    ]
    bench.loop.turn()
    bench.client.responses.clear()
    for watcher in watchers:
        bench.hub.remove(watcher)
        bench.hub.remove(watcher)
    slow.room = 9
    bench.hub.resume(slow)
    bench.write(a=b"y")

    assert not bench.client.responses
    assert not slow.responses
    assert (len(bench.hub), bench.hub.slow) == (0, 0)


def test_cancelled_watchers_of_the_future_are_not_kept(bench: Bench) -> None:
    bench.watch(b"a")
    for _ in range(1000):
        bench.hub.remove(bench.watch(b"a", start=1 << 40))

    assert len(bench.hub._future) < 200


def test_a_sink_may_add_watchers_when_it_is_told(bench: Bench) -> None:
    class Chain(Client):
        def flush(self) -> None:
            if len(self.responses) == 1:
                added.append(bench.watch(b"a", start=2))

    added: list[Watcher] = []
    bench.watch(b"a", client=Chain())

    bench.write(a=b"x")
    bench.write(a=b"y")

    assert bench.client.seen(added[0]) == [(2, b"a"), (3, b"a")]


# --- in time, or too late -----------------------------------------------------------------------


def test_a_watcher_that_came_before_what_it_wants_is_not_cancelled(bench: Bench) -> None:
    bench.watch(b"other")
    for _ in range(9):
        bench.write(a=b"x")
    watcher = bench.watch(b"a", start=12)
    for _ in range(3):
        bench.history.write(a=b"x")
    bench.history.compact(13, prune=False)

    bench.hub.notice()
    bench.loop.run()

    assert bench.client.seen(watcher) == [(12, b"a"), (13, b"a")]
    assert not bench.client.compactions


def test_what_a_watcher_of_the_future_waits_for_is_not_pruned(bench: Bench) -> None:
    held: list[int] = []
    bench.hub.holds = held.append

    watcher = bench.watch(b"a", start=5)
    bench.write(a=b"x")
    bench.write(a=b"x")
    bench.hub.remove(watcher)

    assert held[0] == 2
    assert held[-2:] == [4, 0]


def test_a_watcher_from_now_on_is_in_time_though_the_hub_lags(bench: Bench) -> None:
    bench.watch(b"other")
    for _ in range(5):
        bench.history.write(a=b"x")
    watcher = bench.watch(b"a")
    for _ in range(2):
        bench.history.write(a=b"x")
    bench.history.compact(8, prune=False)

    bench.loop.run()

    assert bench.client.seen(watcher) == [(7, b"a"), (8, b"a")]
    assert not bench.client.compactions


def test_a_watcher_that_came_after_the_compaction_is_too_late_though_the_hub_lags(
    bench: Bench,
) -> None:
    bench.watch(b"other")
    for _ in range(5):
        bench.history.write(a=b"x")
    bench.history.compact(6, prune=False)
    late = bench.watch(b"a", start=2)

    bench.loop.run()

    assert bench.client.compactions == [(late, 6)]
    assert not bench.client.seen(late)


def test_a_big_revision_takes_along_who_waits_for_it(bench: Bench) -> None:
    bench.watch(b"other")
    watcher = bench.watch(b"k", b"l", start=3)
    bench.history.write(a=b"x")
    bench.history.write(**{f"k{number}": b"x" for number in range(9)})
    bench.history.compact(3, prune=False)

    bench.hub.notice()
    bench.loop.run()

    assert len(bench.client.seen(watcher)) == 9


def test_who_waits_only_because_the_hub_lags_is_behind(bench: Bench) -> None:
    bench.watch(b"other")
    bench.history.write(a=b"x")
    since_now = bench.watch(b"a")
    future = bench.watch(b"a", start=9)

    before = bench.hub.is_behind(since_now), bench.hub.is_behind(future)
    bench.loop.run()

    assert before == (True, False)
    assert bench.hub.is_synced(since_now)


# --- rests --------------------------------------------------------------------------------------


def test_the_hub_rests_while_nobody_watches_what_is_written(bench: Bench) -> None:
    bench.watch(b"watched")
    bench.history.write(a=b"x")
    bench.hub.notice()
    bench.loop.turn()
    before = bench.history.slices

    for _ in range(10):
        bench.history.write(a=b"x")
        bench.hub.notice()
        bench.hub.read_now()
        bench.loop.turn()
    rested = bench.history.slices - before
    bench.loop.run()

    assert rested == 0
    assert bench.loop.now <= 4 * REST_SECONDS
    assert bench.hub.revision == bench.history.revision_now


def test_the_hub_does_not_rest_while_somebody_watches_what_is_written(bench: Bench) -> None:
    watcher = bench.watch(b"a")

    for _ in range(10):
        bench.history.write(a=b"x")
        bench.hub.notice()
        bench.loop.turn()

    assert len(bench.client.seen(watcher)) == 10
    assert bench.loop.now == 0


def test_a_rest_delays_what_is_watched_by_a_few_milliseconds(bench: Bench) -> None:
    watcher = bench.watch(b"watched")
    bench.history.write(a=b"x")
    bench.hub.notice()
    bench.loop.turn()

    bench.history.write(watched=b"x")
    bench.hub.notice()
    bench.loop.turn()
    during = bench.client.seen(watcher)
    bench.loop.sleep()
    bench.loop.turn()

    assert during == []
    assert bench.client.seen(watcher) == [(3, b"watched")]
    assert bench.loop.now <= 0.005


@pytest.mark.parametrize("who", ["new watcher", "progress request"])
def test_who_comes_during_a_rest_ends_it(bench: Bench, who: str) -> None:
    bench.watch(b"watched")
    for _ in range(2):
        bench.history.write(a=b"x")
        bench.hub.notice()
        bench.loop.turn()
    assert bench.loop.timers, "the hub must rest for this test"

    if who == "new watcher":
        bench.watch(b"a")
    else:
        bench.hub.hurry()
    bench.loop.turn()

    assert bench.hub.revision == bench.history.revision_now
    assert bench.loop.now == 0
    assert len(bench.loop.timers) == 1, "one rest at a time"


def test_a_rest_that_has_nothing_to_wait_for_ends_for_a_new_watcher(bench: Bench) -> None:
    bench.watch(b"watched")
    bench.history.write(a=b"x")
    bench.hub.notice()
    bench.loop.turn()

    watcher = bench.watch(b"a")
    bench.history.write(a=b"x")
    bench.hub.notice()
    bench.loop.turn()

    assert bench.client.seen(watcher) == [(3, b"a")]


def test_cursors_rest_while_writes_go_on_and_they_gain_on_them(bench: Bench) -> None:
    for _ in range(40):
        bench.write(a=b"x")
    bench.watch(b"a", start=2)
    for _ in range(2):
        bench.history.write(a=b"x")
        bench.hub.notice()
        bench.loop.turn()
    assert bench.loop.timers, "cursors must rest for this test"
    before = bench.client.responses[-1][1]

    bench.hub.notice()
    bench.loop.turn()
    during = bench.client.responses[-1][1]
    bench.loop.sleep()
    bench.loop.turn()

    assert during == before
    assert bench.client.responses[-1][1] > before


def test_cursors_do_not_rest_when_writes_come_faster_than_they_read(bench: Bench) -> None:
    for _ in range(40):
        bench.write(a=b"x")
    watcher = bench.watch(b"a", start=2)
    turns = 0

    while not bench.hub.is_synced(watcher):
        for _ in range(3):
            bench.history.write(a=b"x")
        bench.hub.notice()
        bench.loop.turn()
        turns += 1
        assert turns < 200, "the watcher never catches up"

    assert bench.loop.now == 0


# --- slices -------------------------------------------------------------------------------------


def read_at_once(bench: Bench, rows: int, value: bytes) -> int:
    """Write revisions, let the hub read once, return how many that was."""
    before = bench.hub.revision
    for _ in range(rows):
        bench.history.write(a=value)
    bench.hub.notice()
    bench.hub.read_now()
    return bench.hub.revision - before


def test_a_slice_for_many_watchers_is_cut_after_what_a_turn_takes() -> None:
    bench = Bench(slice_rows=512)
    watchers = [bench.watch(b"a") for _ in range(2000)]

    once = read_at_once(bench, 300, bytes(100))
    bench.loop.run()

    assert once == LIVE_STEPS * TURN_ROWS_MIN
    assert all(len(bench.client.seen(watcher)) == 300 for watcher in watchers[::100])


def test_a_slice_of_big_values_for_many_watchers_is_a_single_revision() -> None:
    bench = Bench(slice_rows=512)
    for _ in range(1000):
        bench.watch(b"a")

    assert read_at_once(bench, 10, bytes(10_000)) == LIVE_STEPS


def test_watchers_that_a_row_is_not_for_make_no_slice_smaller() -> None:
    bench = Bench(slice_rows=512)
    for number in range(3000):
        bench.watch(b"k%05d" % number)
        bench.watch(b"r%05d" % number, b"r%05d\0\0" % number)
    bench.watch(b"a")

    assert read_at_once(bench, 900, bytes(100)) == 900


def test_after_a_cut_no_more_rows_are_read_than_a_turn_takes() -> None:
    bench = Bench(slice_rows=512)
    for _ in range(2000):
        bench.watch(b"a")
    read_at_once(bench, 300, bytes(100))
    bench.history.rows_read = 0

    bench.loop.turn()

    assert bench.history.rows_read <= LIVE_STEPS * (TURN_ROWS_MIN + 1)
