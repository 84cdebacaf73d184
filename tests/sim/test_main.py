"""The command that runs many seeds: what it prints, and when it says that all is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.sim import __main__ as command
from tests.sim.cluster import Report


def ran(seed: int) -> Report:
    """Return the report of a seed that met every situation."""
    return Report(seed, seconds=9.0, faults=Counter(cut=2), points=Counter(command.POINTS))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command over seeds that take no time."""

    def run(*arguments: str, seed: Callable[[int], Report] = ran) -> int:
        monkeypatch.setattr(command, "run_seed", seed)
        return command.main(arguments)

    return run


def test_all_seeds_run_and_are_summed_up(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--seeds", "5..15") == 0

    told = capsys.readouterr().out
    assert "       20 cut\n" in told
    assert "points not reached: none" in told
    assert "10 seeds, " in told
    assert " a second, 0.025 simulated hours, 0 failed, 0 histories undecided" in told


def test_a_row_that_was_not_finished_in_time_is_a_failure(run: Callable[..., int]) -> None:
    assert run("--seeds", "0..10", "--minutes", "0") == 1


def test_a_row_without_end_is_over_when_the_time_is(run: Callable[..., int]) -> None:
    assert run("--seeds", "0..", "--minutes", "0.001") == 0


def test_a_seed_that_fails_is_a_failure(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(seed: int) -> Report:
        return Report(seed, error="broken" if seed == 3 else "")

    assert run("--seeds", "0..10", seed=fails) == 1
    assert "make sim SEED=3" in capsys.readouterr().out


@pytest.mark.parametrize(("seeds", "status"), [(command.LONG_RUN, 1), (command.LONG_RUN - 1, 0)])
def test_a_long_row_must_have_met_every_situation(
    run: Callable[..., int], seeds: int, status: int
) -> None:
    assert run("--seeds", f"0..{seeds}", seed=Report) == status


def test_histories_that_were_not_judged_are_counted(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run("--seeds", "0..10", seed=lambda seed: Report(seed, undecided=seed % 2 == 0))

    assert "5 histories undecided" in capsys.readouterr().out
