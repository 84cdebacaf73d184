"""A random run of writes and watch requests, the same for any server, and what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.watch.streams import Watches

KEYS: Final = [b"%c%d" % (letter, number) for letter in b"abcd" for number in range(6)]
RANGES: Final = [(b"a", b"b"), (b"b", b"d"), (b"a3", b"c2"), (b"c", b"\0"), (b"", b"\0")]
WRONG: Final = [(b"b", b"a"), (b"b", b"b"), (b"x", b"")]
STREAMS: Final = 8
QUIET_SECONDS: Final = 0.25
SETTLE_SECONDS: Final = 20.0


@dataclass
class Told:
    """All that one watcher was told, and its stream."""

    stream: int
    id: int
    created: str
    events: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    revisions: list[list[int]] = field(default_factory=list)  # of each response, fragments joined
    fragments: int = 0
    _joins: bool = False

    def take(self, events: Sequence[Any], *, fragment: bool) -> None:
        """Take a response's events."""
        self.events += [str(event) for event in events]
        revisions = [event.kv.mod_revision for event in events]
        if self._joins:
            self.revisions[-1] += revisions
        elif revisions:
            self.revisions.append(revisions)
        self._joins = fragment
        self.fragments += fragment


class Driver:
    """Carries out steps on one server, one after the other."""

    def __init__(self, endpoint: str) -> None:
        self._client = Client(endpoint)
        self._watches = Watches(endpoint)
        self._streams = [self._watches.stream() for _ in range(STREAMS)]
        self.told: list[Told] = []
        self._living: dict[tuple[int, int], Told] = {}

    def close(self) -> None:
        """Let go of the server."""
        self._watches.__exit__(None, None, None)
        self._client.close()

    def write(self, request: Any) -> int:
        """Do one request; return the revision after it."""
        answer = self._client.answer(request)
        message: Any = answer.message
        return int(message.header.revision) if answer.ok else 0

    def watch(self, place: int, create: dict[str, Any]) -> None:
        """Create a watcher and wait for the answer."""
        stream = self._streams[place]
        stream.create(**create)
        while True:
            response = stream.next()
            if response.created:
                break
            self._take(place, response)
        told = Told(
            place,
            response.watch_id,
            f"{response.watch_id} {response.header.revision} {response.cancel_reason}",
        )
        self.told.append(told)
        if not response.canceled:
            self._living[place, response.watch_id] = told

    def cancel(self, number: int) -> None:
        """Cancel the n-th watcher, or whatever has its id now."""
        told = self.told[number % len(self.told)]
        living = self._living.get((told.stream, told.id))
        if living is not None:
            self.settle()  # so that no event is under way when it ends
        stream = self._streams[told.stream]
        stream.cancel(told.id)
        while living is not None and (told.stream, told.id) in self._living:
            self._take(told.stream, stream.next())

    def settle(self, events: int = 0) -> None:
        """Take responses until nothing comes any more and there are as many events as wanted."""
        deadline = time.monotonic() + SETTLE_SECONDS
        last = time.monotonic()
        while time.monotonic() < deadline:
            if self._take_all():
                last = time.monotonic()
            elif time.monotonic() - last > QUIET_SECONDS and self.events() >= events:
                return
            time.sleep(0.01)

    def events(self) -> int:
        """How many events have come."""
        return sum(len(told.events) for told in self.told)

    def _take_all(self) -> bool:
        some = False
        for place, stream in enumerate(self._streams):
            while (response := stream.poll()) is not None:
                self._take(place, response)
                some = True
        return some

    def _take(self, place: int, response: pb.WatchResponse) -> None:
        told = self._living.get((place, response.watch_id))
        if told is None:
            raise AssertionError(f"nobody asked for {response}")
        told.take(response.events, fragment=response.fragment)
        if response.canceled:
            told.ended.append(f"{response.compact_revision} {response.cancel_reason}")
            if not response.compact_revision:  # a compacted one keeps its id
                del self._living[place, response.watch_id]


class Workload:
    """Random steps; equal seeds give equal steps as long as revisions are equal."""

    def __init__(self, seed: int, watchers: int, writes: int) -> None:
        self._random = random.Random(seed)
        self._watchers = watchers
        self._writes = writes
        self._revision = 1
        self._compacted = 0
        self._puts: list[int] = []  # revisions that only put: etcd 3.5.1 forgets a delete *at* one

    def run(self, drivers: list[Driver]) -> None:
        """Do the same on all drivers."""
        chance = self._random
        steps = ["watch"] * self._watchers + ["write"] * self._writes
        steps += ["cancel"] * 8 + ["compact"] * 4
        chance.shuffle(steps)
        for step in steps:
            getattr(self, "_" + step)(drivers)
        first = max(drivers, key=lambda driver: driver.events())
        first.settle()
        for driver in drivers:
            driver.settle(first.events())

    def _watch(self, drivers: list[Driver]) -> None:
        chance = self._random
        key, end = chance.choice(RANGES)
        if chance.random() < 0.5:
            key, end = chance.choice(KEYS), b""
        elif chance.random() < 0.05:
            key, end = chance.choice(WRONG)
        start = 0
        if chance.random() < 0.6:
            start = max(1, chance.randint(self._compacted - 3, self._revision + 20))
        create = {
            "key": key,
            "range_end": end,
            "start_revision": start,
            "prev_kv": chance.random() < 0.4,
            "filters": chance.choice([[], [], [0], [1], [0, 1]]),
            "fragment": chance.random() < 0.2,
            "progress_notify": chance.random() < 0.2,
            "watch_id": chance.choice([0, 0, 0, 1, 3, 50, 10**12, chance.randint(1, 1000)]),
        }
        place = chance.randrange(STREAMS)
        for driver in drivers:
            driver.watch(place, create)

    def _write(self, drivers: list[Driver]) -> None:
        chance = self._random
        kind = chance.random()
        request: Any
        if kind < 0.5:
            request = self._put()
        elif kind < 0.7:
            request = self._delete()
        else:
            request = pb.TxnRequest()
            keys = chance.sample(KEYS, 4)
            for key in keys[:3]:
                request.success.add(request_put=pb.PutRequest(key=key, value=self._value()))
            request.success.add(request_delete_range=pb.DeleteRangeRequest(key=keys[3]))
        found = {driver.write(request) for driver in drivers}
        assert len(found) == 1, found
        (after,) = found
        if kind < 0.5 and after > self._revision:
            self._puts.append(after)
        self._revision = max(after, self._revision)

    def _put(self) -> pb.PutRequest:
        return pb.PutRequest(key=self._random.choice(KEYS), value=self._value())

    def _delete(self) -> pb.DeleteRangeRequest:
        key, end = self._random.choice([*RANGES[:3], *((key, b"") for key in KEYS)])
        return pb.DeleteRangeRequest(key=key, range_end=end)

    def _value(self) -> bytes:
        return self._random.choice([b"", b"x", self._random.randbytes(self._random.randint(1, 99))])

    def _cancel(self, drivers: list[Driver]) -> None:
        number = self._random.randrange(10**6)
        for driver in drivers:
            if driver.told:
                driver.cancel(number)

    def _compact(self, drivers: list[Driver]) -> None:
        """Not while events are under way: etcd reads previous pairs when it sends."""
        later = [revision for revision in self._puts if revision > self._compacted]
        if not later:
            return
        self._compacted = self._random.choice(later)
        for driver in drivers:
            driver.settle()
            driver.write(pb.CompactionRequest(revision=self._compacted))
