"""The measurement of what observing costs is itself right."""

from __future__ import annotations

from pathlib import Path

from tests.observe.overhead import cpu_ns, spent_ns


def test_a_thread_that_ends_between_listing_and_reading_loses_no_measurement(
    tmp_path: Path,
) -> None:
    for thread, used in (("10", "500 1 2"), ("11", "70 1 2"), ("12", None)):
        task = tmp_path / "10" / "task" / thread
        task.mkdir(parents=True)
        if used is not None:
            (task / "schedstat").write_text(used)

    assert cpu_ns([10], tmp_path) == {"10": 500, "11": 70}


def test_threads_that_came_count_whole_and_those_that_went_not_at_all() -> None:
    assert spent_ns({"10": 500, "11": 70}, {"10": 900, "13": 5}) == 405
