"""Seeds of the simulation, and broken cores that it must catch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.sim.cluster import run_seed
from tests.sim.mutants import MUTANTS, Change, planted

FAILED_ONCE: Final = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds" / "failed.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
MUTANT_SEEDS_MAX: Final = 3000
QUICK: Final = (
    "commit_without_quorum",
    "copies_are_not_looked_up",
    "reads_before_the_first_commit",
)


@pytest.mark.parametrize("seed", sorted({*range(12), *FAILED_ONCE}))
def test_a_bad_world_breaks_nothing_and_the_cluster_recovers(seed: int) -> None:
    report = run_seed(seed)

    assert not report.error, report.error
    assert report.operations


def test_a_seed_replays_exactly() -> None:
    first, second = run_seed(7, tracing=True), run_seed(7, tracing=True)

    assert first.log
    assert first.log == second.log
    assert first.events == second.events


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_two_thousand_bad_worlds(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        report = run_seed(seed)

        assert not report.error, f"seed {seed}: {report.error}"


def caught_at(mutant: Callable[[], list[Change]], seeds: int) -> int | None:
    with planted(mutant()):
        for seed in range(seeds):
            if run_seed(seed).error:
                return seed
    return None


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.__name__ in QUICK])
def test_a_broken_core_is_caught_soon(mutant: Callable[[], list[Change]]) -> None:
    assert caught_at(mutant, 100) is not None


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_broken_core_is_caught(mutant: Callable[[], list[Change]]) -> None:
    found = caught_at(mutant, MUTANT_SEEDS_MAX)

    seeds = MUTANT_SEEDS_MAX if found is None else found + 1
    print(f"{mutant.__name__}: {seeds} seeds")  # noqa: T201
    assert found is not None
