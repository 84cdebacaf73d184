"""Each child is killed a hundred times under load: nobody sees an error, nothing is applied twice.

The clients are all on one gateway, which alone is spared, and retry nothing. Children take turns,
so that none exceeds what its supervisor allows. TROUPED_KILL_ROUNDS sets the rounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from supervisor.root import ZYGOTE
from supervisor.tree import children
from tests.isolation.counters import Counters
from tests.isolation.declared import ALL
from tests.isolation.matrix_load import Load
from tests.member import Member
from tests.supervisor.toys import eventually
from transport.counters import Cell

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
GATEWAYS = 2
OWN = "gateway-0"
KILLED = tuple(spec.name for spec in (*children(GATEWAYS), ZYGOTE) if spec.name != OWN)
ROUNDS = int(os.environ.get("TROUPED_KILL_ROUNDS", "100"))
TURN_SECONDS = 1.8  # more than 30 s / 20, the supervisor's allowance
ADDED_SECONDS_MAX = 1.0
PERCENTILE = 0.99
COUNTERS = 3


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(PERCENTILE * (len(seconds) - 1))]


def nobody_is_at(member: Member, gateway: str) -> bool:
    return not member.view.board.get(gateway, Cell.CONNECTIONS)


@contextmanager
def loaded(member: Member) -> Iterator[tuple[Load, Counters]]:
    """Connect every client to one gateway: the other ones are frozen meanwhile."""
    board = member.view.board
    others = [f"gateway-{slot}" for slot in range(GATEWAYS) if f"gateway-{slot}" != OWN]
    for other in others:
        # Whoever asked it whether the member is ready may not have hung up yet.
        eventually(partial(nobody_is_at, member, other), "nobody is there")
        member.faults.freeze(other, 3.0)
    time.sleep(0.5)  # until it is no longer taken for alive
    with Load(member.endpoint) as load, Counters(member.endpoint, COUNTERS) as counters:
        eventually(lambda: counters.counted > COUNTERS, "all count")
        for other in others:
            assert board.get(other, Cell.CONNECTIONS) == 0
            member.faults.resume(other)
        yield load, counters


def test_no_client_sees_an_error_and_no_write_is_doubled(tmp_path: Path) -> None:
    added: dict[str, list[float]] = {name: [] for name in KILLED}
    errors: dict[str, set[str]] = {name: set() for name in KILLED}
    flags = ["--enable-faults", f"--gateways={GATEWAYS}"]
    with Member(tmp_path, flags=flags) as member, loaded(member) as (load, counters):
        faults = member.faults
        for _ in range(ROUNDS):
            for name in KILLED:
                moment = time.monotonic()
                faults.kill(name)
                time.sleep(0.05)
                assert load.wait_healthy(time.monotonic()), f"after {name}"
                found = [load.added(subject, moment) for subject in ALL]
                added[name].append(max(seconds for seconds, _ in found))
                errors[name] |= {error for _, some in found for error in some}
                left = moment + TURN_SECONDS / len(KILLED) - time.monotonic()
                time.sleep(max(0.0, left))
        wrong = load.data_error()
        counters.__exit__()
        counted, stored = counters.counted, counters.stored()

    for name, seconds in added.items():
        print(f"{name:12} p99 {p99(seconds) * 1e3:4.0f} ms, worst {max(seconds) * 1e3:4.0f} ms")  # noqa: T201
    print(f"{load.acknowledged} puts, {counted} counted, {ROUNDS * len(KILLED)} kills")  # noqa: T201
    assert {name: some for name, some in errors.items() if some} == {}
    assert counters.errors == set()
    assert wrong == ""
    assert counted == stored
    assert {name: p99(some) for name, some in added.items() if p99(some) > ADDED_SECONDS_MAX} == {}
