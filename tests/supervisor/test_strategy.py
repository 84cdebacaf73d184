"""Restarts as a pure function: of the spec, the past and a number."""

from __future__ import annotations

from supervisor.spec import ChildSpec
from supervisor.strategy import Escalate, History, Restart, child_ended


def spec(**fields: object) -> ChildSpec:
    return ChildSpec(name="lessor", module="toy", exit_code=83, reason="a toy", **fields)  # type: ignore[arg-type]


def delays(history: History, times: list[float], chance: float) -> list[float]:
    found = []
    for now in times:
        decision = child_ended(history, now, lambda: chance)
        assert isinstance(decision, Restart)
        found.append(decision.delay)
    return found


def test_the_first_restart_is_immediate_then_the_pause_doubles_up_to_its_bound() -> None:
    history = History(spec(backoff_min=0.1, backoff_max=0.5))

    assert delays(history, [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], 0.99999) == [
        0.0,
        *(round(pause * (0.5 + 0.99999 / 2), 12) for pause in (0.1, 0.2, 0.4)),
        *[0.5 * (0.5 + 0.99999 / 2)] * 2,
    ]


def test_jitter_takes_at_most_half_of_a_pause() -> None:
    history = History(spec(backoff_min=0.1))

    assert delays(history, [1.0, 1.1], 0.0) == [0.0, 0.05]


def test_a_child_that_lived_longer_than_the_period_starts_at_once_again() -> None:
    history = History(spec(period=30.0))

    assert delays(history, [1.0, 32.0, 64.0], 0.5) == [0.0, 0.0, 0.0]


def test_one_restart_more_than_allowed_within_the_period_escalates_with_the_childs_code() -> None:
    history = History(spec(restarts=2, period=10.0))

    delays(history, [1.0, 2.0], 0.5)

    assert child_ended(history, 3.0, lambda: 0.5) == Escalate(83)


def test_restarts_outside_the_period_do_not_count() -> None:
    history = History(spec(restarts=2, period=10.0))

    delays(history, [1.0, 2.0], 0.5)

    assert isinstance(child_ended(history, 11.5, lambda: 0.5), Restart)
