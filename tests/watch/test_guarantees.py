"""What etcd promises of watches holds for every watcher, whichever actors are killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Answer, CallError, Client
from tests.cluster import Cluster
from tests.member import Member
from tests.watch.following import Followings
from tests.watch.history import PREFIX, Happened, read

pytestmark = pytest.mark.e2e
ACTORS = (
    *("gateway-0", "applier", "raft-node", "compactor"),
    *("snapshotter", "transport", "lessor", "zygote"),
)
PROGRESS = "--watch-progress-notify-interval=200ms"
WRITERS = 4
WRITE_PAUSE_SECONDS = 0.004
KILLS_MIN = 4  # in a round, however slow the machine
COMPACT_CHANCE = 0.5  # a kill
ROUND_SECONDS = 15.0
TEN_MINUTES = 600.0


class Figures(NamedTuple):
    """What there was in a round; `cancelled` are watchers that a compaction overtook."""

    revisions: int
    events: int
    kills: int
    compactions: int
    cancelled: int


class Writing:
    """Writers of random puts, deletes and transactions; `acknowledged` are revision and key."""

    def __init__(self, endpoints: Sequence[str], seed: int) -> None:
        self.acknowledged: list[tuple[int, bytes]] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(endpoints[n % len(endpoints)], seed + n))
            for n in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, endpoint: str, seed: int) -> None:
        chance = random.Random(seed)
        with Client(endpoint) as client:
            count = 0
            while not self._over.wait(WRITE_PAUSE_SECONDS):
                count += 1
                value = b"%d-%d" % (seed, count)
                keys = [PREFIX + b"%02d" % n for n in chance.sample(range(20), 3)]
                request = pb.TxnRequest()
                request.success.add(request_put=pb.PutRequest(key=keys[0], value=value))
                if chance.random() < 0.3:
                    request.success.add(request_put=pb.PutRequest(key=keys[1], value=value))
                    delete = pb.DeleteRangeRequest(key=keys[2])
                    request.success.add(request_delete_range=delete)
                answer = client.answer(request, timeout=20, wait=True)
                if answer.ok:
                    revision = answer.message.header.revision  # type: ignore[union-attr]
                    self.acknowledged.append((revision, keys[0]))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Reading:
    """Reads the history piece by piece, and compacts what it has read."""

    def __init__(self, client: Client, first: int) -> None:
        self.events: list[Happened] = []
        self.first = self.next = first
        self.compacted = 0
        self._client = client

    def to_end(self) -> int:
        """Read to the newest revision and return it. Raises CallError."""
        now = self._ask(pb.RangeRequest(key=b"x"))
        last: int = now.message.header.revision  # type: ignore[union-attr]
        if last >= self.next:
            self.events += read(self._client, self.next, last)
            self.next = last + 1
        return last

    def compact(self) -> None:
        """Compact up to the newest revision: a watcher that is behind must be told so.

        Raises CallError when the gateway dies meanwhile; it may be compacted nevertheless.
        """
        self.compacted = self.to_end()
        self._ask(pb.CompactionRequest(revision=self.compacted))

    def _ask(self, request: pb.RangeRequest | pb.CompactionRequest) -> Answer:
        answer = self._client.answer(request, timeout=20, wait=True)
        if not answer.ok:
            raise CallError(answer)
        return answer


def patiently(read_all: Callable[[], int]) -> int:
    """Read once the last gateway that was killed is replaced."""
    for _ in range(10):
        with suppress(CallError):
            return read_all()
    return read_all()


def one_round(members: Sequence[Member], seed: int, seconds: float) -> Figures:
    """Kill actors at random while there are writes, compactions and watchers; check."""
    chance = random.Random(seed)
    endpoints = [member.endpoint for member in members]
    kills = 0
    compactions = 0
    with Client(endpoints[0]) as client:
        first = client.put(PREFIX + b"00", b"begin")
        followings = Followings(endpoints, seed)
        try:
            followings.wait_created()
            reading = Reading(client, first)
            writing = Writing(endpoints, seed * 100)
            try:
                end = time.monotonic() + seconds
                while time.monotonic() < end or kills < KILLS_MIN or not compactions:
                    time.sleep(chance.uniform(0.1, 0.6))
                    actors = chance.choice(members).actors()
                    actor = chance.choice(ACTORS)
                    if actor in actors:
                        os.kill(actors[actor], signal.SIGKILL)
                        kills += 1
                    if chance.random() < COMPACT_CHANCE:
                        try:
                            reading.compact()
                        except CallError:  # the gateway was killed just now
                            continue
                        compactions += 1
                time.sleep(0.3)
            finally:
                writing.stop()
            last = patiently(reading.to_end)
            there = {(event.revision, event.pair.key) for event in reading.events}
            assert there.issuperset(writing.acknowledged)
            followings.finish(reading.events, reading.compacted)
        finally:
            followings.close()
    followers = followings.followers
    events = sum(len(events) for f in followers for _, events in f.told)
    assert events > 0
    assert sum(len(f.bookmarks) for f in followers) > 0
    cancelled = sum(len(f.gaps) for f in followers)
    return Figures(last - first, events, kills, compactions, cancelled)


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path, flags=[PROGRESS, "--gateways=1"])


def test_all_guarantees_hold_while_actors_are_killed(member: Member) -> None:
    if not member.is_trouped:
        pytest.skip("only trouped has actors")
    with member:
        found = one_round([member], 1, 3.0)

    assert found.revisions > 50
    assert found.events > found.revisions
    assert found.kills >= KILLS_MIN
    assert found.compactions > 0


def rounds(members: Sequence[Member], seconds: float) -> None:
    """Run rounds for a while and print what there was."""
    total = [0] * len(Figures._fields)
    end = time.monotonic() + seconds
    seed = 0
    while time.monotonic() < end:
        seed += 1
        for place, count in enumerate(one_round(members, seed, ROUND_SECONDS)):
            total[place] += count
    print(  # noqa: T201
        f"{seed} rounds: {Figures._make(total)}"
    )


@pytest.mark.slow
def test_all_guarantees_hold_through_ten_minutes_of_kills(member: Member) -> None:
    with member:
        rounds([member], TEN_MINUTES)


@pytest.mark.slow
def test_all_guarantees_hold_on_three_members(tmp_path: Path) -> None:
    with Cluster(tmp_path, flags=[PROGRESS]) as cluster:
        rounds(cluster.members, TEN_MINUTES / 4)
