"""The benchmarks of watchers and leases: small runs end well, and the page says what they say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks import calls, leases, report
from benchmarks.leases import Size
from benchmarks.members import Server
from etcdpb import rpc_pb2
from tests.benchmarks.test_report import FACTS
from tests.member import Member

SMALL = Size(50, 2, 2.5, 0.2, 20, 2, 40.0)


def watch_result(**figures: float) -> dict[str, Any]:
    ours = {"p50_ms": 1.0, "p99_ms": 3.0, "complete": True} | figures
    theirs = {"p50_ms": 2.0, "p99_ms": 4.0, "complete": True}
    return {
        "facts": FACTS,
        "labels": ["trouped", "etcd"],
        "rounds": 1,
        "seconds": 5.0,
        "history": 100_000,
        "scenes": {"latency": [[ours], [theirs]]},
    }


def test_the_page_has_the_scenes_that_were_run() -> None:
    text = report.watch_section(watch_result())

    assert (
        "| 1,000 watchers, 1,000 puts/s: put to event, p50, ms | 1.00 | 2.00 | at most 2 x etcd's |"
        in text
    )
    assert "100 watchers" not in text
    assert "not told everything in time: 0." in text


def test_a_watcher_that_was_not_told_everything_is_said_aloud() -> None:
    assert "in time: 1." in report.watch_section(watch_result(complete=False))


def test_a_floor_that_is_missed_is_named() -> None:
    well = report.watch_floors(watch_result()["scenes"])
    badly = watch_result(p50_ms=4.1)

    assert [met for _, _, met, _ in well] == [True]
    assert report.watch_floors(badly["scenes"]) == [
        ("p50_ms", "at most 2 x etcd's", False, "latency: p50 4.10 ms against 2.00")
    ]
    assert "| at most 2 x etcd's: NOT MET |" in report.watch_section(badly)


@pytest.mark.parametrize(
    ("scene", "ours", "met"),
    [
        ("fan-out", {"events_per_second": 50.0}, True),
        ("fan-out", {"events_per_second": 49.0}, False),
        ("idle", {"ratio": 0.9}, True),
        ("idle", {"ratio": 0.89}, False),
        ("catch-up", {"before_p99_ms": 1.0, "meanwhile_p99_ms": 2.0}, True),
        ("catch-up", {"before_p99_ms": 1.0, "meanwhile_p99_ms": 2.1}, False),
    ],
)
def test_every_scene_has_a_floor(scene: str, ours: dict[str, float], met: bool) -> None:
    theirs = {"events_per_second": 100.0, "ratio": 1.0, "before_p99_ms": 9, "meanwhile_p99_ms": 9}

    assert [each[2] for each in report.watch_floors({scene: [[ours], [theirs]]})] == [met]


@pytest.mark.parametrize("name", ["lost", "early", "over_a_second", "never"])
def test_a_lease_that_was_not_treated_well_fails_the_run(name: str) -> None:
    well: dict[str, float] = dict.fromkeys(("lost", "early", "over_a_second", "never"), 0)

    assert leases.wrong({"expiring": [[well], [well | {name: 1}]]}) == []
    assert leases.wrong({"expiring": [[well, well | {name: 1}], [well]]}) == [name]


def test_several_runs_are_a_median_with_least_and_greatest() -> None:
    runs = [{"lost": 0, "grants_per_second": speed} for speed in (900.0, 1000.0, 1300.0)]
    scene = [
        dict.fromkeys(LEASE_FIGURES, 0.0) | run  # every other figure: zero
        for run in runs
    ]
    result = {
        "facts": FACTS,
        "labels": ["trouped", "etcd"],
        "leases": 100,
        "kept_ttl": 60,
        "kept_seconds": 80.0,
        "expiring": 10,
        "expiring_ttl": 5,
        "expiring_per_second": 150.0,
        "scenes": {"kept": [scene, scene]},
    }

    text = report.leases_section(result)

    assert "| grants/s | 1,000 (900 to 1,300) | 1,000 (900 to 1,300) |" in text
    assert "expired early" not in text


LEASE_FIGURES = (
    *("bytes_per_lease", "steady_pss_bytes", "steady_cpu_percent", "steady_p50_ms"),
    *("steady_p99_ms", "fast_per_second", "fast_us_per_renewal"),
)


@pytest.mark.e2e
@pytest.mark.parametrize("scene", ["kept", pytest.param("expiring", marks=pytest.mark.slow)])
def test_a_small_run_loses_no_lease_and_none_expires_early(scene: str, tmp_path: Path) -> None:
    found = leases.run(Server.named("trouped"), scene, SMALL, tmp_path)

    assert not any(found.get(name) for name in ("lost", "early", "never"))
    assert found.get("fast_per_second", 1) > 0


@pytest.mark.e2e
def test_a_call_that_fails_is_an_error_of_its_connection(tmp_path: Path) -> None:
    async def grant(endpoint: str) -> None:
        (connection,) = await calls.connect(endpoint, 1)
        request = rpc_pb2.LeaseGrantRequest(TTL=1 << 40)
        connection.unary(leases.GRANT_PATH, request, lambda _message, _now: None)
        connection.flush()
        while True:
            await asyncio.sleep(0.01)
            calls.check([connection])

    with Member(tmp_path) as member, pytest.raises(calls.CallsError, match="too large lease TTL"):
        asyncio.run(asyncio.wait_for(grant(member.endpoint), 10))
