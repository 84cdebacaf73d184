"""The watch hub of a gateway: who is where in the history, and whose turn it is to read on.

All watchers are *runs*: sets that want the same revision next. The watchers that have everything
up to `revision` are the synced run, and what it reads is what has just been applied. The others are
cursors: they read the history in slices between which the event loop runs, those in the same place
share a pass, and one that a pass meets on its way goes along. A watcher whose client does not read
is parked where it is: it costs its place and nothing else. A watcher of the future waits.

Everything told is read from the database (RULES B12), so nothing depends on a message: a notice
that comes twice or never, a new applier or an installed snapshot neither loses nor doubles events.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from actors import failpoints
from actors.watch_pass import Pass, Run
from kv.watch import Sink, Watcher
from storage.events import EventReader

FUTURE_SPARE: Final = 64
LIVE_STEPS: Final = 2
PARKED_LOOKED_AT: Final = 256
REST_SECONDS: Final = 0.003
CURSOR_REST_SECONDS: Final = 0.004


class WatchHub:
    """Feeds watchers. Knows no clock and no socket.

    `call_later(seconds, callback)` is for rests and gives a handle that can be cancelled: what is
    new is read less often, many batches at a time, while nobody watches what is written; and
    cursors leave time to who writes meanwhile, as long as they gain on them.
    `turned()` is called after every turn that read. `holds(revision)` is told what synced watchers
    have to read next and so must not be pruned, 0 for nothing.
    """

    def __init__(
        self,
        reader: EventReader,
        call_soon: Callable[[Callable[[], None]], Any],
        call_later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        self._reader = reader
        self._call_soon = call_soon
        self._call_later = call_later
        self._rest: Any = None  # the handle of its end
        self._cursors_rest = False
        self._seen = 0  # what `revision` was at a cursor's last slice
        self._newest = 0  # the newest revision of the store that was heard of
        self._synced = Run(0)
        self._runs: dict[int, Run] = {}  # cursors, by the revision they want; first come first
        self._parked: dict[Sink, dict[Watcher, None]] = {}
        self._future: list[tuple[int, int, Watcher]] = []
        self._gone = 0  # entries of _future that are cancelled
        self._serial = 0
        self._live: Pass | None = None
        self._pass: Pass | None = None
        self._grown = False
        self._scheduled = False
        self._all: dict[Watcher, None] = {}
        self.turned: Callable[[], None] = lambda: None
        self.holds: Callable[[int], None] = lambda revision: None
        self.events = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def revision(self) -> int:
        """What synced watchers have everything up to."""
        return self._synced.next - 1

    @property
    def slow(self) -> int:
        """How many watchers are behind."""
        return len(self._all) - len(self._synced.index) - self._waiting

    @property
    def _waiting(self) -> int:
        """How many watchers wait for the future."""
        return len(self._future) - self._gone

    def slowest(self, count: int) -> list[dict[str, Any]]:
        """Return where the furthest behind are in the history, and how many. Any thread may ask.

        Cursors that read on, and clients that do not read (at most PARKED_LOOKED_AT of these).
        """
        found = [(run.next, len(run.index), "reading") for run in list(self._runs.values())]
        for parked in islice(tuple(self._parked.values()), PARKED_LOOKED_AT):
            found.append((min(each.next for each in parked), len(parked), "not read"))
        return [
            {"next": place, "behind": self.revision + 1 - place, "watchers": watchers, "why": why}
            for place, watchers, why in sorted(found)[:count]
        ]

    # --- watchers -----------------------------------------------------------------------------

    def add(self, watcher: Watcher) -> int:
        """Take a watcher in; return the store's revision. Without a start it begins after that.

        One that comes before what it wants has happened is in time: no compaction cancels it.
        """
        revision = self._newest = self._reader.revision()
        if not self._all:
            self._live = self._pass = None
            self._synced.next = max(revision + 1, self._synced.next)
        elif revision > self.revision:
            self._grown = True
        self._wake()
        watcher.next = watcher.start or revision + 1
        self._all[watcher] = None
        if watcher.next <= revision:
            self._read_from(watcher)
        else:
            self._wait(watcher)
        self._hold()
        return revision

    def _hold(self) -> None:
        self.holds(self._synced.next if self._synced.index or self._waiting else 0)

    def remove(self, watcher: Watcher) -> None:
        """Forget a watcher; one that is not here is passed over."""
        if watcher not in self._all:
            return
        del self._all[watcher]
        self._leave(watcher)
        self._hold()

    def _leave(self, watcher: Watcher) -> None:
        parked = self._parked.get(watcher.sink)
        if watcher.index is not None:
            watcher.index.remove(watcher)
        elif parked is not None and watcher in parked:
            del parked[watcher]
            if not parked:
                del self._parked[watcher.sink]
        else:
            self._gone += 1
            if self._gone > FUTURE_SPARE + len(self._future) // 2:
                self._future = [entry for entry in self._future if entry[2] in self._all]
                heapq.heapify(self._future)
                self._gone = 0

    def revision_now(self) -> int:
        """Return the store's revision."""
        return self._reader.revision()

    def is_synced(self, watcher: Watcher) -> bool:
        """Whether a watcher has everything up to `revision`, and what it waits for has begun."""
        return watcher.index is self._synced.index and watcher.start <= self.revision

    def is_behind(self, watcher: Watcher) -> bool:
        """Whether there is something a watcher has yet to be told."""
        index = watcher.index
        if index is not None:
            return index is not self._synced.index
        if watcher in self._parked.get(watcher.sink, ()):
            return True
        return watcher.start <= self._newest  # else it waits for what has not happened

    def resume(self, sink: Sink) -> None:
        """A client reads again: its watchers go on."""
        for watcher in self._parked.pop(sink, ()):
            self._read_from(watcher)

    def _read_from(self, watcher: Watcher) -> None:
        """Let a watcher read the history from what it wants next."""
        self._run_at(watcher.next).index.add(watcher)
        self._schedule()

    def _wait(self, watcher: Watcher) -> None:
        """Let a watcher wait for what it wants next and has not missed."""
        if watcher.next == self._synced.next and self._live is None:
            self._synced.index.add(watcher)
        else:
            self._serial += 1
            heapq.heappush(self._future, (watcher.next, self._serial, watcher))

    def _run_at(self, revision: int) -> Run:
        run = self._runs.get(revision)
        if run is None:
            run = self._runs[revision] = Run(revision)
        return run

    # --- turns --------------------------------------------------------------------------------

    def notice(self) -> None:
        """The database may hold more than was read."""
        if self._all:
            self._grown = True
            if self._rest is None:
                self._schedule()

    def hurry(self) -> None:
        """The database may hold more, and somebody waits for it."""
        self._wake()
        self.notice()

    def _wake(self) -> None:
        """Rest no more."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._grown:
            self._schedule()

    def reopen(self) -> None:
        """Go over to another database file, if there is one."""
        if self._reader.reopen():
            self.hurry()

    def read_now(self) -> None:
        """Tell synced watchers what is new, as far as a few slices go."""
        if not self._grown or self._rest is not None:
            return
        self._grown = False
        for _ in range(LIVE_STEPS):
            if self._step_live():
                break
        else:
            self._grown = True
            self._schedule()
        self._hold()
        self.turned()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.read_now()
        if not self._cursors_rest:
            self._read_on()
        grown = self._grown and self._rest is None
        cursors = not self._cursors_rest and (self._pass is not None or bool(self._runs))
        if grown or cursors:
            self._schedule()

    def _read_on(self) -> None:
        """Read a slice for cursors."""
        if self._pass is None:
            self._pass = self._next_pass()
        under_way = self._pass
        if under_way is None:
            return
        failpoints.hit("beforeSyncWatchers")
        start = under_way.runs[0].next
        written, self._seen = self.revision - self._seen, self.revision
        self._step_cursors(under_way)
        if 0 < written <= (under_way.end + 1 - start) // 2:
            self._cursors_rest = True
            self._call_later(CURSOR_REST_SECONDS, self._cursors_rested)
        self._hold()
        self.turned()

    def _cursors_rested(self) -> None:
        self._cursors_rest = False
        self._schedule()

    def _step_live(self) -> bool:
        """Read a slice of what is new; True when there is nothing more to read."""
        synced = self._synced
        under_way = self._live
        if under_way is None:
            if not synced.index and not self._skip():
                return True
            under_way = self._live = Pass(synced, self._join_waiting, patient=True)
        done = under_way.step(self._reader, None)
        self._newest = under_way.newest
        if not done:
            return False
        self._live = None
        compact = under_way.compact_revision
        cancelled: list[Watcher] = []
        sinks: list[Sink] = []
        if compact:
            under_way.abandon()
            under_way.runs += self._join_waiting(compact - 1)
            for run in under_way.runs:
                if run.next < compact:
                    cancelled += self._take_all(run)
            synced.next = compact
        else:
            sinks = self._hand_out(under_way)
            if not sinks and under_way.complete and under_way.end >= synced.next:
                self._rest = self._call_later(REST_SECONDS, self._wake)
            synced.next = under_way.end + 1
        self._settle(under_way.runs[1:])
        _tell(sinks, cancelled, compact)
        return under_way.complete

    def _skip(self) -> bool:
        """Pass over what nobody is there to be told; False if that is everything."""
        synced, future = self._synced, self._future
        while future and future[0][2] not in self._all:
            heapq.heappop(future)
            self._gone -= 1
        self._newest = self._reader.revision()
        first = future[0][0] if future else self._newest + 1
        synced.next = max(synced.next, min(first, self._newest + 1))
        self._settle([])
        return first <= self._newest

    def _join_waiting(self, end: int) -> list[Run]:
        """Take out who waits for what a pass up to `end` reads."""
        runs: dict[int, Run] = {}
        future = self._future
        while future and future[0][0] <= end:
            start, _, watcher = heapq.heappop(future)
            if watcher in self._all:
                runs.setdefault(start, Run(start)).index.add(watcher)
            else:
                self._gone -= 1
        return list(runs.values())

    def _settle(self, runs: list[Run]) -> None:
        """Place runs that a live pass took along, and who waits for what comes next."""
        synced = self._synced
        for run in (*runs, *self._join_waiting(synced.next)):
            start = max(run.next, synced.next)
            for watcher in list(run.index):
                run.index.remove(watcher)
                watcher.next = start
                self._wait(watcher)

    def _next_pass(self) -> Pass | None:
        """Start a pass for the run that has waited longest."""
        for revision in list(self._runs):
            run = self._runs.pop(revision)
            if not run.index:
                continue
            if revision > self._synced.next:
                self._runs[revision] = run
                continue
            return Pass(run, self._join, patient=False)
        return None

    def _join(self, end: int) -> list[Run]:
        """Take out the runs that a pass up to `end` meets; those before it are not met."""
        assert self._pass is not None
        start = self._pass.runs[0].next
        return [self._runs.pop(place) for place in list(self._runs) if start <= place <= end]

    def _step_cursors(self, under_way: Pass) -> None:
        if not under_way.step(self._reader, self.revision):
            return
        self._pass = None
        compact = under_way.compact_revision
        cancelled: list[Watcher] = []
        sinks: list[Sink] = []
        if compact:
            under_way.abandon()
        else:
            sinks = self._hand_out(under_way)
        for run in under_way.runs:
            if compact and run.next < compact:
                cancelled += self._take_all(run)
                continue
            if not compact:
                run.next = max(run.next, under_way.end + 1)
            self._return(run)
        _tell(sinks, cancelled, compact)

    def _return(self, run: Run) -> None:
        """Put a run back: to the synced one when it has caught up, else among the cursors."""
        if not run.index:
            return
        if run.next == self._synced.next and self._live is None:
            other = self._synced
        elif run.next in self._runs:
            other = self._runs[run.next]
        else:
            self._runs[run.next] = run
            return
        if len(run.index) > len(other.index):
            run.index, other.index = other.index, run.index
        for watcher in list(run.index):
            run.index.remove(watcher)
            watcher.next = run.next
            other.index.add(watcher)

    def _hand_out(self, under_way: Pass) -> list[Sink]:
        """Give out what was read and park who could not take it; return the sinks to flush."""
        failpoints.hit("beforeSendWatchResponse")
        slow, sinks, given = under_way.hand_out()
        self.events += given
        for run, watcher in slow:
            run.index.remove(watcher)
            watcher.next = run.next
            self._parked.setdefault(watcher.sink, {})[watcher] = None
        return sinks

    def _take_all(self, run: Run) -> list[Watcher]:
        """Forget all watchers of a run."""
        watchers = list(run.index)
        for watcher in watchers:
            self.remove(watcher)
        return watchers


def _tell(sinks: list[Sink], cancelled: list[Watcher], compact_revision: int) -> None:
    """Let sinks act: they may add and remove watchers now."""
    for sink in sinks:
        sink.flush()
    for watcher in cancelled:
        watcher.sink.compacted(watcher, compact_revision)
