"""Percentiles, turns, ratios and counts: the arithmetic behind the tables."""

from __future__ import annotations

import math
from array import array

import pytest

from benchmarks.latency import LoadResult, percentile, timeline, worst
from benchmarks.members import parse_metrics
from benchmarks.pairs import Spread, noise, ratios, spread, turns
from benchmarks.syncs import count_calls, puts_per_sync


def test_the_servers_swap_places_from_pair_to_pair() -> None:
    assert turns(4) == [(0, 1), (1, 0), (0, 1), (1, 0)]


def test_a_steady_drift_leaves_the_ratio_of_equal_servers_at_one() -> None:
    drift = iter([1.0 - 0.01 * step for step in range(20)])
    runs: list[list[float]] = [[], []]
    for order in turns(10):
        for which in order:
            runs[which].append(next(drift))

    found = spread(ratios(runs[0], runs[1]))

    assert found.median == pytest.approx(1.0, abs=0.001)
    assert found.least < 1 < found.greatest


def test_ratios_go_pair_by_pair() -> None:
    assert ratios([1.0, 9.0], [2.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_the_noise_is_each_run_over_the_one_before() -> None:
    assert noise([2.0, 4.0, 1.0]) == [2.0, 0.25]
    assert noise([2.0]) == []


def test_a_spread_is_median_least_and_greatest() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="no numbers"):
        spread([])


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_percentiles_are_ranks_of_the_sorted_latencies(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


def test_the_timeline_bins_by_the_time_a_request_was_due() -> None:
    due = array("d", [9.95, 10.0, 10.05, 10.15])
    latencies = array("d", [0.5, 0.001, 0.002, 0.003])

    bins = timeline(due, latencies, started=10.0, bin_seconds=0.1)

    assert bins == [(-0.1, 1, 500.0), (0.0, 2, 2.0), (0.1, 1, 3.0)]
    assert worst(bins, 0.0, 0.1) == 2.0
    assert worst(bins, -1.0, 1.0) == 500.0
    assert math.isnan(worst(bins, 5.0, 6.0))


def test_a_result_survives_json() -> None:
    result = LoadResult(
        op="put",
        ops=1,
        seconds=1.0,
        ops_per_second=1.0,
        p50=1.0,
        p90=1.0,
        p99=1.0,
        max=1.0,
        errors={"8 no": 2, "14 gone": 1},
        timeline=[(0.0, 1, 1.0)],
    )

    found = result.to_dict() | {"timeline": [[0.0, 1, 1.0]]}

    assert LoadResult.from_dict(found) == result
    assert result.failed == 3


def test_puts_per_sync_count_requests_where_proposals_are_batches() -> None:
    before = {
        "etcd_server_proposals_committed_total": 1.0,
        "etcd_disk_wal_fsync_duration_seconds_count": 1.0,
    }
    after = {
        "etcd_server_proposals_committed_total": 31.0,
        "etcd_disk_wal_fsync_duration_seconds_count": 4.0,
    }
    requests_before = {"trouped_requests_total": 10.0}
    requests_after = {"trouped_requests_total": 85.0}

    assert puts_per_sync(before, after) == 10.0
    assert puts_per_sync(before | requests_before, after | requests_after) == 25.0
    assert puts_per_sync(before, before) is None
    assert puts_per_sync({}, {}) is None


def test_metrics_without_labels_are_read_and_the_others_left_out() -> None:
    text = '# HELP a b\n# TYPE a counter\na_total 5\nb{x="1"} 7\nc 1.5e+03\n\n'

    assert parse_metrics(text) == {"a_total": 5.0, "c": 1500.0}


def test_syncs_are_counted_where_they_begin_by_the_process_that_made_them() -> None:
    trace = (
        "11 fdatasync(7)                      = 0\n"
        "12 fsync(8 <unfinished ...>\n"
        "11 fdatasync(7)                      = 0\n"
        "12 <... fsync resumed>)              = 0\n"
        "99 fsync(9) = 0\n"
        "11 --- SIGSTOP {si_signo=SIGSTOP} ---\n"
    )

    counts = count_calls(trace, {11: "raft-node", 12: "snapshotter"})

    assert counts == {"raft-node": 2, "snapshotter": 1, "other": 1}
