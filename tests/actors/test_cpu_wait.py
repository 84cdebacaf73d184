"""A thread that has to share a CPU sees it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors import cpu_wait
from actors.cpu_wait import LOOK_SECONDS, SPACING_MAX, CpuWait

HUNGRY = "while True: pass"


def spent(seconds: float) -> float:
    """Work for some time, looking at the clock of the run queue; return the share."""
    cpu = CpuWait()
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        cpu.look(now)
    return cpu.share


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no schedstat here")
def test_two_that_never_rest_on_one_cpu_wait_half_of_the_time() -> None:
    before = os.sched_getaffinity(0)
    one = {min(before)}
    os.sched_setaffinity(0, one)
    other = subprocess.Popen([sys.executable, "-c", HUNGRY])
    try:
        share = spent(10 * LOOK_SECONDS)
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, before)

    assert 0.25 < share < 0.95


def test_it_is_nothing_without_figures_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_wait, "_PATH", Path("/proc/none/schedstat"))

    assert spent(3 * LOOK_SECONDS) == 0.0


def test_things_keep_apart_only_where_cpus_are_busy() -> None:
    cpu = CpuWait()
    apart = []
    for cpu.share in (0.0, 0.1, 0.12, 0.15, 0.5):
        apart.append(cpu.spacing)

    assert apart[:2] == [0.0, 0.0]
    assert 0.0 < apart[2] < apart[3] < apart[4] == SPACING_MAX


def test_without_a_descriptor_left_it_stays_as_it_was() -> None:
    cpu = CpuWait()
    cpu.share = 0.2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        cpu.look(10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert cpu.share == 0.2
