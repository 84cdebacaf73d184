"""The hub: every watcher is told everything it asked for, once and in order, whatever happens."""

from __future__ import annotations

import random

import pytest

from kv.store import SUB_BITS, HistoryRow, row_id
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


# --- everything at random against what the history says ----------------------------------------

KEYS = ["a", "b", "c", "d"]
RANGES = [(b"a", b""), (b"b", b""), (b"a", b"c"), (b"b", b"d"), (b"b", b"\0"), (b"", b"\0")]


class Model:
    """What every watcher has to be told, and the hub that tells it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench(slice_rows=self.random.choice([1, 2, 5, 100]))
        self.clients = [Client() for _ in range(3)]
        self.all_rows: list[HistoryRow] = []
        self.watchers: list[tuple[Watcher, int]] = []

    def step(self) -> None:
        chance = self.random.random()
        bench = self.bench
        if chance < 0.35:
            names = self.random.sample(KEYS, self.random.choice([1, 1, 2, 4]))
            bench.history.write(**{n: self.random.choice([b"x", b"y", None]) for n in names})
            if self.random.random() < 0.7:
                bench.hub.notice()
        elif chance < 0.5:
            self._watch()
        elif chance < 0.55 and self.watchers:
            watcher, _ = self.watchers.pop(self.random.randrange(len(self.watchers)))
            bench.hub.remove(watcher)
        elif chance < 0.65:
            client = self.random.choice(self.clients)
            client.room = self.random.choice([0, 1, 3, 1000])
            bench.hub.resume(client)
        elif chance < 0.68:
            newest = bench.history.revision_now
            target = self.random.randint(max(1, bench.history.compact_revision), newest)
            bench.history.compact(target, prune=target < bench.hub.revision + 1)
        else:
            bench.loop.turn()

    def _watch(self) -> None:
        key, end = self.random.choice(RANGES)
        now = self.bench.history.revision_now
        start = self.random.choice([0, 0, 1, now - 3, now, now + 1, now + 3])
        options = self.random.choice([0, PREV_KV, NO_PUT, NO_DELETE, NO_PUT | NO_DELETE])
        client = self.random.choice(self.clients)
        watcher = self.bench.watch(key, end, client, start=max(0, start), options=options)
        self.watchers.append((watcher, watcher.start or now + 1))

    def finish(self) -> None:
        for client in self.clients:
            client.room = 1 << 60
            self.bench.hub.resume(client)
        self.bench.hub.notice()
        self.bench.loop.run(100_000)

    def check(self, every: list[HistoryRow]) -> int:
        """Compare what was told with the history; return the number of events."""
        told = 0
        for watcher, start in self.watchers:
            client = watcher.sink
            assert isinstance(client, Client)
            wanted = [
                (row[0] >> SUB_BITS, row[1])
                for row in every
                if row[0] >= row_id(start)
                and watcher.key <= row[1]
                and (watcher.end is None or row[1] < watcher.end)
                and not watcher.options & (NO_PUT if row[4] else NO_DELETE)
            ]
            seen = client.seen(watcher)
            cancelled = [at for other, at in client.compactions if other is watcher]
            if cancelled:
                assert seen == wanted[: len(seen)]
                assert all(revision < cancelled[0] for revision, _ in seen)
            else:
                assert seen == wanted
            told += len(seen)
            self._check_headers(watcher, client)
        return told

    def _check_headers(self, watcher: Watcher, client: Client) -> None:
        """A response has all up to its revision and nothing above it."""
        before = 0
        for other, revision, events in client.responses:
            if other is watcher:
                at = [event.kv.mod_revision for event in events]
                assert before < min(at) <= max(at) <= revision
                before = revision


@pytest.mark.parametrize("seed", range(60))
def test_every_watcher_is_told_all_of_its_events_once_and_in_order(seed: int) -> None:
    model = Model(seed)
    every: dict[int, HistoryRow] = {}

    for _ in range(400):
        model.step()
        every |= {row[0]: row for row in model.bench.history.rows[-8:]}
    model.finish()

    assert model.check([every[place] for place in sorted(every)]) > 20
