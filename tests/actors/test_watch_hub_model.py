"""The hub, everything at random, against what the history says."""

from __future__ import annotations

import random

import pytest

from kv.store import SUB_BITS, HistoryRow, row_id
from kv.watch import NO_DELETE, NO_PUT, PREV_KV, Watcher
from tests.actors.watch_bench import Bench, Client

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
        self.in_time: set[Watcher] = set()  # and its client always reads
        self.too_late: set[Watcher] = set()
        self.held = 0
        self.bench.hub.holds = self._holds

    def _holds(self, revision: int) -> None:
        self.held = revision

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
            client = self.random.choice(self.clients[1:])
            client.room = self.random.choice([0, 1, 3, 1000])
            bench.hub.resume(client)
        elif chance < 0.68:
            newest = bench.history.revision_now
            target = self.random.randint(max(1, bench.history.compact_revision), newest)
            bench.history.compact(target, prune=not self.held or target <= self.held)
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
        if watcher.start and watcher.start < self.bench.history.compact_revision:
            self.too_late.add(watcher)
        elif client is self.clients[0] and not 0 < watcher.start <= now:
            self.in_time.add(watcher)

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
            assert not (cancelled and watcher in self.in_time), "it came before what it wants"
            assert cancelled or watcher not in self.too_late, "what it wants was compacted"
            if cancelled:
                assert cancelled[0] > start
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
