"""Each actor is killed a hundred times under load: nobody sees an error, nothing is applied twice.

The clients retry nothing. Actors take turns, so that none exceeds what its supervisor allows.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.isolation.declared import ALL
from tests.isolation.matrix_load import Load
from tests.member import Member

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ACTORS = ("raft-node", "applier", "lessor", "compactor", "snapshotter", "transport", "zygote")
KILLS = int(os.environ.get("TROUPED_TEST_KILLS", "100"))
TURN_SECONDS = 1.8  # more than 30 s / 20, the supervisor's allowance
ADDED_SECONDS_MAX = 1.0
PERCENTILE = 0.99


def test_no_client_sees_an_error_and_no_write_is_doubled(tmp_path: Path) -> None:
    added: dict[str, list[float]] = {actor: [] for actor in ACTORS}
    errors: dict[str, set[str]] = {actor: set() for actor in ACTORS}
    with Member(tmp_path, flags=["--enable-faults"]) as member, Load(member.endpoint) as load:
        faults = member.faults
        for _ in range(KILLS):
            for actor in ACTORS:
                moment = time.monotonic()
                faults.kill(actor)
                time.sleep(0.05)
                assert load.wait_healthy(time.monotonic()), f"after {actor}"
                found = [load.added(subject, moment) for subject in ALL]
                added[actor].append(max(seconds for seconds, _ in found))
                errors[actor] |= {error for _, some in found for error in some}
                left = moment + TURN_SECONDS / len(ACTORS) - time.monotonic()
                time.sleep(max(0.0, left))
        wrong = load.data_error()
        puts = load.acknowledged

    for actor, seconds in added.items():
        p99 = sorted(seconds)[int(PERCENTILE * (len(seconds) - 1))]
        print(f"{actor:12} p99 {p99 * 1e3:4.0f} ms, worst {max(seconds) * 1e3:4.0f} ms")  # noqa: T201
    print(f"{puts} puts, {KILLS * len(ACTORS)} kills")  # noqa: T201
    assert {actor: some for actor, some in errors.items() if some} == {}
    assert wrong == ""
    worst = {a: sorted(s)[int(PERCENTILE * (len(s) - 1))] for a, s in added.items()}
    assert max(worst.values()) <= ADDED_SECONDS_MAX, worst
