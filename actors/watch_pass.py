"""One pass over the history for the watchers of some runs: read, match, hand out.

A pass reads whole revisions only. Mostly it is one slice; a revision with more rows than a slice
(one delete of a long range) is read in several, and handed out when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kv.store import SUB_BITS, HistoryRow, row_id
from kv.watch import Event, Group, Sink, Watcher, WatcherIndex, encode_all
from storage.events import EventReader, Slice

SLICE_ROWS: Final = 512
SLICE_BYTES: Final = 256 << 10
# Of a slice to all its watchers together: the event loop runs between slices.
LIVE_BYTES: Final = 2 << 20
CURSOR_BYTES: Final = 128 << 10  # these have time, and who writes has not
FEW_ROWS_BYTES: Final = 4 << 20  # before there are TURN_ROWS_MIN rows
TURN_ROWS_MIN: Final = 16


class Run:
    """Watchers that all want revision `next` next; `rows` is what to read for them at once.

    How many watchers a row is for is known when it has been read. So a slice is cut when it is
    enough for a turn, and the next one is asked for no more rows than that took.
    """

    __slots__ = ("index", "next", "rows")

    def __init__(self, start: int) -> None:
        self.next = start
        self.rows = SLICE_ROWS
        self.index = WatcherIndex()


class Pass:
    """Reads from `run.next` on, in steps. `join(end)` gives the runs that start within it.

    Once `done`: all up to revision `end` was collected for `runs`, or `compact_revision` is set and
    the history from `run.next` on is no longer there. `patient` believes rows below the compact
    revision while they aren't pruned: its watchers were in time when they happened.
    """

    def __init__(self, run: Run, join: Callable[[int], list[Run]], *, patient: bool) -> None:
        self.runs = [run]
        self.end = run.next - 1
        self.complete = False  # nothing was left out up to where it was to read
        self.compact_revision = 0
        self.newest = 0  # the store's revision as it was read
        self._join = join
        self._patient = patient
        self._place = row_id(run.next)
        self._torn = 0  # the revision that is being read in several slices
        self._touched: dict[Group, None] = {}
        self._bytes = LIVE_BYTES if patient else CURSOR_BYTES

    def step(self, reader: EventReader, to: int | None) -> bool:
        """Read one slice, up to revision `to` or the newest; True when done."""
        with reader.slice() as part:
            self.newest = part.revision
            compact = part.compact_revision
            if self.runs[0].next < compact and not (
                self._patient and self._place >= part.intact_from
            ):
                self.compact_revision = compact
                return True
            newest = part.revision if to is None else min(to, part.revision)
            last = self._torn or newest
            part.read(self._place, last, self.runs[0].rows, SLICE_BYTES)
            rows = part.rows
            done = True
            if not part.rest:
                self.end = max(last, self.end)
                self.complete = last == newest
            else:
                done = self._cut(rows, part.rest >> SUB_BITS)
            if not self._torn:
                self.runs += self._join(self.end)
            self._collect(part, rows, compact)
        return done

    def _cut(self, rows: list[HistoryRow], following: int) -> bool:
        """Leave out the revision that goes on after the slice; False if that is all there is."""
        if rows[0][0] >> SUB_BITS == following:
            self._torn = following
            self._place = rows[-1][0] + 1
            return False
        while rows[-1][0] >> SUB_BITS == following:
            rows.pop()
        self.end = following - 1
        return True

    def _collect(self, part: Slice, rows: list[HistoryRow], compact: int) -> None:
        touched = self._touched
        wanted: dict[int, tuple[Event, bytes]] = {}
        matchers = [(run.next, run.index.match) for run in self.runs]
        taken = size = last = 0
        for row in rows if len(matchers) > 1 else self.runs[0].index.candidates(rows):
            key = row[1]
            revision = row[0] >> SUB_BITS
            if revision != last:
                if last and not self._torn and self._is_enough(taken, size):
                    self.end = revision - 1
                    self.complete = False
                    break
                last = revision
            event: Event | None = None
            for start, match in matchers:
                if revision < start:
                    continue
                for group in match(key):
                    if event is None:
                        event = Event(row)
                        taken += 1
                    group.events.append(event)
                    touched[group] = None
                    size += group.size() * (len(key) + len(row[6]))
                    if event.previous and revision > compact and group.wants_previous():
                        wanted[row[0]] = event, key
        if wanted:
            _add_previous(part, wanted)
        if self._torn:
            return
        enough = self._is_enough(taken, size)
        for run in self.runs:
            run.rows = max(TURN_ROWS_MIN, taken) if enough else min(SLICE_ROWS, 2 * run.rows)

    def _is_enough(self, rows: int, size: int) -> bool:
        """Whether rows that are `size` bytes to all their watchers are enough for one turn."""
        return size >= (self._bytes if rows >= TURN_ROWS_MIN else FEW_ROWS_BYTES)

    def hand_out(self) -> tuple[list[tuple[Run, Watcher]], list[Sink], int]:
        """Give everybody what was collected.

        Returns who could not take it, the sinks that took some and want a flush, and the number of
        events given.
        """
        slow: list[tuple[Run, Watcher]] = []
        sinks: dict[Sink, None] = {}
        given = 0
        owners = {id(run.index): run for run in self.runs}
        for group in self._touched:
            events, group.events = group.events, []
            for options, members in group.members.items():
                pieces = encode_all(events, options)
                if not pieces:
                    continue
                size = sum(len(piece) for piece in pieces)
                joined = [b"".join(pieces)] if size <= SLICE_BYTES else pieces
                for watcher in members:
                    sink = watcher.sink
                    if sink.take(watcher, self.end, pieces if watcher.fragment else joined, size):
                        given += len(pieces)
                        sinks[sink] = None
                    else:
                        slow.append((owners[id(watcher.index)], watcher))
        self._touched = {}
        return slow, list(sinks), given

    def abandon(self) -> None:
        """Forget what was collected."""
        for group in self._touched:
            group.events = []
        self._touched = {}


def _add_previous(part: Slice, wanted: dict[int, tuple[Event, bytes]]) -> None:
    """Find the pairs as they were one revision before."""
    found = part.previous({event.previous for event, _ in wanted.values()})
    for event, key in wanted.values():
        row = found.get(event.previous)
        while row is not None and row[0] >> SUB_BITS == event.revision and row[2]:
            row = part.previous([row[2]]).get(row[2])
        if row is not None and row[0] >> SUB_BITS < event.revision:
            event.follows(key, row)
