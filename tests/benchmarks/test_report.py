"""The page says what the results say, good or bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import report, results

FACTS = {
    "cpu": "A Processor",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "kernel": "Linux 6.1",
    "python": "3.11.9",
    "date": "2026-01-02 03:04 UTC",
    "commit": "abc1234",
    "load_average": 0.1,
    "versions": {"trouped": "etcd Version: 3.5.21", "etcd": "etcd Version: 3.5.1"},
}


def run(speed: float, puts_per_sync: float | None = None) -> dict[str, Any]:
    return {
        "ops_per_second": speed,
        "p50": 1.0,
        "p90": 2.0,
        "p99": 3.0,
        "max": 4.0,
        "server_us_per_op": 40.0,
        "client_us_per_op": 8.0,
        "pss_bytes": 100_000_000,
        "puts_per_sync": puts_per_sync,
    }


def bench_result(*, subject: list[float], reference: list[float], floor: float) -> dict[str, Any]:
    return {
        "facts": FACTS,
        "labels": ["trouped", "etcd"],
        "pairs": len(subject),
        "seconds": 5.0,
        "keys": 100_000,
        "value_bytes": 256,
        "idle_pss_bytes": [70_000_000, 20_000_000],
        "idle_cpu_percent": [1.5, 0.5],
        "workloads": [
            {
                "name": "put-100",
                "op": "put",
                "in_flight": 100,
                "connections": 10,
                "floor": floor,
                "runs": [[run(n, 25.0) for n in subject], [run(n) for n in reference]],
            }
        ],
        "syncs": [
            {
                "in_flight": 100,
                "counts": [{"puts": 5000, "syncs": {"raft-node": 190, "snapshotter": 10}}, None],
            }
        ],
    }


def test_the_ratio_is_the_median_of_the_pairs_with_least_and_greatest() -> None:
    result = bench_result(
        subject=[20_000, 30_000, 10_000], reference=[10_000, 20_000, 20_000], floor=0.95
    )

    text = report.bench_section(result)

    assert "| put 100 | 10 | 20,000 | 20,000 | 1.50 (0.50 to 2.00) | 0.95 | met |" in text
    assert report.floors_met(result)


def test_a_floor_that_is_missed_is_said_aloud() -> None:
    result = bench_result(subject=[9_400.0], reference=[10_000.0], floor=0.95)

    text = report.bench_section(result)

    assert "| 0.94 (0.94 to 0.94) | 0.95 | **not met** |" in text
    assert not report.floors_met(result)


def test_syncs_are_named_by_process_and_missing_ones_not_available() -> None:
    text = report.bench_section(bench_result(subject=[1.0], reference=[1.0], floor=1.0))

    assert "| put 100, /metrics | 25.0 | n/a |" in text
    assert "| put 100, strace | 25.0 (5000 puts; raft-node 190, snapshotter 10) | n/a |" in text
    assert "| put 100 | n/a | n/a |" in text  # one run has no noise
    assert "2026-01-02 03:04 UTC, commit abc1234: A Processor, 2 cores, 8 GiB" in text


def test_a_section_without_results_says_which_target_makes_it() -> None:
    page = report.page({})

    for target in ("make bench", "make bench-scale", "make bench-compaction"):
        assert f"Not measured yet: `{target}`." in page


def test_sections_are_rendered_from_their_own_files(tmp_path: Path) -> None:
    folder, page = tmp_path / "benchmarks", tmp_path / "benchmarks.md"
    results.save("bench", bench_result(subject=[2.0], reference=[1.0], floor=1.0), folder)
    server = {"label": "trouped", "saturation": 20_000.0, "rate": 10_000.0}
    rounds = [
        {"before_ms": before, "during_ms": during, "compaction_seconds": 1.25}
        for before, during in ((9.0, 30.0), (12.0, 31.5))
    ]
    results.save(
        "compaction",
        {
            "facts": FACTS,
            "revisions": 500_000,
            "keys": 1000,
            "in_flight": 100,
            "window_seconds": 10.0,
            "servers": [server | {"rounds": rounds}],
        },
        folder,
    )

    report.write(folder, page)

    text = page.read_text()
    assert "| put 100 | 10 | 2 | 1 | 2.00 (2.00 to 2.00) |" in text
    assert "| trouped | 20,000 | 10,000 | 9.0, 12.0 | 30.0, 31.5 | 12.0 → 31.5 | 1.2, 1.2 |" in text
    assert "Not measured yet: `make bench-scale`." in text
    assert json.loads((folder / "bench.json").read_text())["facts"] == FACTS


def test_starts_and_memory_stand_side_by_side() -> None:
    names = ("empty", "full", "killed")
    server: dict[str, Any] = {f"{name}_start_seconds": [0.3, 0.1] for name in names}
    server |= {f"{name}_pss_bytes": 50_000_000 for name in ("empty", "filled", "idle", "read")}
    server |= {"first_start_seconds": 0.5, "fill_per_second": 9_876.5, "data_bytes": 4_000_000}
    result = {
        "facts": FACTS,
        "keys": 1_000_000,
        "value_bytes": 256,
        "rounds": 2,
        "ranges": 500_000,
        "idle_seconds": 5.0,
        "servers": [server | {"label": "trouped"}, server | {"label": "etcd"}],
    }

    text = report.scale_section(result)

    assert "|  | trouped | etcd |" in text
    assert "| Start of the full store, ms | 100, 300 | 100, 300 |" in text
    assert "| PSS idle, empty, MB | 50 | 50 |" in text
