"""etcd's two policies of compacting by itself."""

from __future__ import annotations

from kv.auto_compaction import REVISION_INTERVAL_SECONDS, Periodic, Revision, policy


def run(periodic: Periodic, seconds: int, *, per_second: int = 10) -> list[tuple[int, int]]:
    """Poll each second while revisions grow; return (second, compacted to)."""
    done = []
    for second in range(seconds + 1):
        target = periodic.poll(float(second), 1 + second * per_second)
        if target is not None:
            done.append((second, target))
    return done


def test_periodic_keeps_the_history_of_its_window() -> None:
    compactions = run(Periodic(100.0), 400)

    assert [second for second, _ in compactions] == [100, 200, 300, 400]
    for second, target in compactions:
        assert target == 1 + (second - 100) * 10


def test_periodic_over_an_hour_compacts_every_hour() -> None:
    compactions = run(Periodic(2 * 3600.0), 4 * 3600)

    assert [second // 3600 for second, _ in compactions] == [2, 3, 4]


def test_periodic_compacts_a_revision_once() -> None:
    periodic = Periodic(10.0)

    targets = [periodic.poll(float(second), 5) for second in range(100)]

    assert [target for target in targets if target] == [5]


def test_a_pause_starts_a_new_window() -> None:
    periodic = Periodic(10.0)
    for second in range(10):
        assert periodic.poll(float(second), second) is None
    periodic.pause()

    later = [periodic.poll(float(second), second) for second in range(10, 21)]

    assert later[:-1] == [None] * 10
    assert later[-1] == 10


def test_revision_keeps_the_last_revisions_every_five_minutes() -> None:
    revision = Revision(1000)

    first = revision.poll(0.0, 5000)
    early = revision.poll(REVISION_INTERVAL_SECONDS - 1, 5000)
    due = revision.poll(REVISION_INTERVAL_SECONDS, 5000)
    again = revision.poll(2 * REVISION_INTERVAL_SECONDS, 5000)

    assert (first, early, due, again) == (None, None, 4000, None)


def test_revision_does_nothing_with_little_history() -> None:
    revision = Revision(1000)
    revision.poll(0.0, 10)

    assert revision.poll(REVISION_INTERVAL_SECONDS, 1000) is None


def test_no_retention_is_no_policy() -> None:
    assert policy(0.0, 0) is None
    assert isinstance(policy(5.0, 0), Periodic)
    assert isinstance(policy(0.0, 5), Revision)


def test_the_next_run_is_foretold() -> None:
    periodic = Periodic(100.0)
    assert periodic.next_run is None

    told = []
    for second in range(401):
        if periodic.poll(float(second), 1 + second) is not None:
            told.append(second)
        if second % 100 == 35:
            assert periodic.next_run == second - 35 + 100
    periodic.pause()

    assert told == [100, 200, 300, 400]
    assert periodic.next_run is None
    revision = Revision(1000)
    revision.poll(7.0, 5000)
    assert revision.next_run == 7.0 + REVISION_INTERVAL_SECONDS
    assert (periodic.mode, revision.mode) == ("periodic", "revision")
