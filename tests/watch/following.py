"""Watchers as a client library keeps them: they go on after the last revision they know, whatever
becomes of their stream. What each was told is kept as it came, to be checked afterwards.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from etcdpb import rpc_pb2 as pb
from tests.watch.history import NODELETE, NOPUT, PREFIX, PREFIX_END, Happened, Pair, Wanted
from tests.watch.streams import Stream, StreamEndedError, Watches

WATCHERS_OF_A_STREAM: Final = 6
PAUSE_SECONDS: Final = 0.005
DROP_CHANCE: Final = 0.001  # a turn, of a stream
AWAY_SECONDS: Final = 2.0  # at most, then: a compaction may overtake it
ASK_CHANCE: Final = 0.02
RANGES: Final = (
    (PREFIX, PREFIX_END),
    (PREFIX + b"03", PREFIX + b"11"),
    (PREFIX + b"10", b"\0"),
    (b"\0", b"\0"),
)


@dataclass
class Follower:
    """One watcher. `after` is the revision it has everything up to; `bookmarks` are (how many
    events had come, revision that says they are all up to there); `gaps` are what compactions took
    before it was told: (revision it had everything up to, compact revision)."""

    wanted: Wanted
    after: int = -1
    first: int = -1
    told: list[tuple[int, list[Happened]]] = field(default_factory=list)
    bookmarks: list[tuple[int, int]] = field(default_factory=list)
    resumed: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    _pieces: list[Happened] = field(default_factory=list)

    def begun(self, revision: int) -> None:
        """Its creation was answered."""
        if self.first < 0:
            self.first = self.after = revision

    def broken(self) -> None:
        """The stream has ended; half a revision counts for nothing."""
        self._pieces.clear()
        self.resumed += 1

    def compacted(self, compact_revision: int) -> None:
        """Take a cancel: right only if what comes next for it is gone."""
        assert compact_revision > self.after + 1, f"cancelled without need, has {self.after}"
        self.gaps.append((self.after, compact_revision))
        self.after = compact_revision - 1

    def take(self, response: pb.WatchResponse) -> None:
        """Take a response that is for it: events, or how far it is."""
        if not response.events:
            count = sum(len(events) for _, events in self.told)
            self.bookmarks.append((count, response.header.revision))
            self.after = max(self.after, response.header.revision)
            return
        for event in response.events:
            before = Pair.of(event.prev_kv) if event.HasField("prev_kv") else None
            pair = Pair.of(event.kv)
            self._pieces.append(Happened(pair.mod_revision, bool(event.type), pair, before))
        if not response.fragment:
            for revision, events in groupby(self._pieces, key=lambda event: event.revision):
                self.told.append((revision, list(events)))
            self.after = self._pieces[-1].revision
            self._pieces = []

    def goal(self, history: list[Happened]) -> list[Happened]:
        """Return what it must be told."""
        return [
            event
            for event in self.wanted.of(history, self.first)
            if not any(after < event.revision < compact for after, compact in self.gaps)
        ]

    def check(
        self, history: list[Happened], created: set[tuple[bytes, int]], compacted: int
    ) -> None:
        """Assert all guarantees: the right events and no others, whole revisions, in order, once,
        none left out before a bookmark or where it was resumed, with pairs before if wanted.

        Up to revision `compacted` history was compacted: pairs before may be missing there.
        """
        assert all(compact <= compacted for _, compact in self.gaps), "cancelled too early"
        revisions = [revision for revision, _ in self.told]
        assert revisions == sorted(set(revisions)), "ordered, unique, atomic"
        told = [e for _, events in self.told for e in sorted(events, key=lambda e: e.pair.key)]
        goal = self.goal(history)
        assert [(e.revision, e.deleted, e.pair) for e in told] == [
            (e.revision, e.deleted, e.pair) for e in goal
        ], f"reliable, filtered: {self.wanted}"
        for event, wanted in zip(told, goal, strict=True):
            before = wanted.before if self.wanted.prev_kv else None
            lost = event.before is None and event.revision <= compacted
            assert event.before == before or lost, "prev_kv"
            if not event.deleted:
                new = event.pair.create_revision == event.revision
                assert new == ((event.pair.key, event.revision) in created), "is_create"
                assert new == (event.pair.version == 1)
        for count, bookmark in self.bookmarks:
            assert sum(e.revision <= bookmark for e in goal) <= count, "bookmarkable"


def random_wanted(chance: random.Random) -> Wanted:
    """Return a watcher with random options."""
    key, end = chance.choice(RANGES)
    if chance.random() < 0.3:
        key, end = PREFIX + b"%02d" % chance.randrange(20), b""
    return Wanted(
        key,
        end,
        prev_kv=chance.random() < 0.5,
        filters=chance.choice([(), (), (NOPUT,), (NODELETE,)]),
        fragment=chance.random() < 0.5,
        progress_notify=chance.random() < 0.5,
    )


class Following:
    """A stream of followers, opened again whenever it ends; now and then it ends it itself."""

    def __init__(self, endpoint: str, seed: int) -> None:
        self._chance = random.Random(seed)
        self.followers = {
            number: Follower(random_wanted(self._chance))
            for number in range(1, WATCHERS_OF_A_STREAM + 1)
        }
        self._watches = Watches(endpoint)
        self._stream: Stream | None = None
        self._away_until = 0.0

    def close(self) -> None:
        """Let go of the connection."""
        self._watches.__exit__(None, None, None)

    @property
    def created(self) -> bool:
        """Whether all watchers have begun."""
        return all(follower.first >= 0 for follower in self.followers.values())

    def turn(self) -> None:
        """Take what has come."""
        if time.monotonic() < self._away_until:
            return
        try:
            stream = self._stream or self._open()
            while (response := stream.poll()) is not None:
                self._take(response)
        except StreamEndedError:
            if self._stream is not None:
                self._stream.close()
            self._lose()
            return
        if self._chance.random() < ASK_CHANCE:
            stream.ask_progress()
        if self._chance.random() < DROP_CHANCE and self.created:
            stream.close()
            self._lose()
            self._away_until = time.monotonic() + self._chance.uniform(0, AWAY_SECONDS)

    def _open(self) -> Stream:
        stream = self._stream = self._watches.stream()
        for number, follower in self.followers.items():
            stream.send(follower.wanted.create(number, follower.after + 1))
        return stream

    def _lose(self) -> None:
        self._stream = None
        for follower in self.followers.values():
            follower.broken()

    def _take(self, response: pb.WatchResponse) -> None:
        if response.watch_id == -1:
            assert not response.canceled, response
            for follower in self.followers.values():
                follower.take(response)
            return
        follower = self.followers[response.watch_id]
        if response.canceled:
            follower.compacted(response.compact_revision)
            raise StreamEndedError("to be opened again without the gap")
        if response.created:
            follower.begun(response.header.revision)
        else:
            follower.take(response)


class Followings:
    """Streams on a thread of their own, until everybody has everything."""

    def __init__(self, endpoints: Sequence[str], seed: int, streams: int = 8) -> None:
        self._all = [
            Following(endpoints[number % len(endpoints)], seed * 1000 + number)
            for number in range(streams)
        ]
        self._over = threading.Event()
        self._error: AssertionError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def followers(self) -> list[Follower]:
        return [follower for each in self._all for follower in each.followers.values()]

    def wait_created(self, seconds: float = 20.0) -> None:
        """Wait until all watchers have begun."""
        self._wait(lambda: all(each.created for each in self._all), seconds)

    def finish(self, history: list[Happened], compacted: int, seconds: float = 30.0) -> None:
        """Wait until every watcher has been told as many events as it must be; end; check."""

        def complete(follower: Follower) -> bool:
            told = sum(len(events) for _, events in list(follower.told))
            return told >= len(follower.goal(history))

        waiting = self.followers
        self._wait(lambda: all(map(complete, waiting)), seconds, strict=False)
        self.close()
        created = {
            (event.pair.key, event.revision)
            for event in history
            if not event.deleted and event.before is None
        }
        for follower in self.followers:
            follower.check(history, created, compacted)

    def close(self) -> None:
        """End the streams."""
        self._over.set()
        self._thread.join()
        for each in self._all:
            each.close()
        if self._error is not None:
            raise self._error

    def _wait(self, condition: Callable[[], bool], seconds: float, *, strict: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self._error is not None:
                raise self._error
            if time.monotonic() > deadline:
                assert not strict, "watchers do not begin"
                return
            time.sleep(PAUSE_SECONDS)

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                for each in self._all:
                    each.turn()
                self._over.wait(PAUSE_SECONDS)
        except AssertionError as error:
            self._error = error
