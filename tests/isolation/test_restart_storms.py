"""An actor that cannot live takes the member down with its own exit code, not in a hot loop."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from supervisor.root import ZYGOTE
from supervisor.tree import children
from tests.member import Member

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PATIENCE_SECONDS = 90.0
SPECS = (*children(1), ZYGOTE)


def end_of(member: Member) -> int:
    """Wait until the member has ended by itself; return its exit code."""
    assert member.process is not None
    return member.process.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_an_actor_that_is_killed_again_and_again_ends_the_member(name: str, tmp_path: Path) -> None:
    spec = next(spec for spec in SPECS if spec.name == name)
    with Member(tmp_path, flags=["--gateways=1"]) as member:
        began, killed = time.monotonic(), set()
        while member.process is not None and member.process.poll() is None:
            pid = member.actors().get(name)
            if pid is not None and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            assert time.monotonic() - began < PATIENCE_SECONDS, f"{len(killed)} kills"
            time.sleep(0.001)

        code, log = end_of(member), member.log

    assert code == spec.exit_code
    # The zygote's title is also that of what it forks, for a moment.
    spare = 10 if name == "zygote" else 0
    assert spec.restarts < len(killed) <= spec.restarts + 1 + spare
    said = [line for line in log.splitlines() if "ended too often, stopping the member" in line]
    assert len(said) == 1
    assert f'"actor":"{name}"' in said[0]
    assert f'"exit_code":{spec.exit_code}' in said[0]


def test_an_applier_that_panics_on_every_entry_is_no_hot_loop(tmp_path: Path) -> None:
    environ = {"GOFAIL_FAILPOINTS": "afterStartDBTxn=panic"}
    member = Member(tmp_path, environ=environ, flags=["--enable-faults", "--gateways=1"])
    began = time.monotonic()
    member.spawn()
    try:
        code = end_of(member)
        took = time.monotonic() - began
        log = member.log
    finally:
        member.stop()

    spec = next(spec for spec in SPECS if spec.name == "applier")
    assert code == spec.exit_code
    assert took > 1.0  # the pauses before restarts double
    assert log.count("failpoint panic: afterStartDBTxn") <= 2 * (spec.restarts + 1)
