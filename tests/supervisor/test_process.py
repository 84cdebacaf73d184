"""What a child does about a root that is gone."""

from __future__ import annotations

import subprocess
import sys
import time

from supervisor.process import ORPHAN_EXIT_CODE

DEAD = "import sys; from supervisor.process import die_with; die_with(int(sys.argv[1]))"


def test_a_child_whose_root_died_before_it_was_adopted_leaves_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    started = time.monotonic()

    child = subprocess.run([sys.executable, "-c", DEAD, str(gone.pid)], check=False)

    assert child.returncode == ORPHAN_EXIT_CODE
    assert time.monotonic() - started < 1.5  # not the two seconds a living root is waited for


def test_a_root_that_is_only_a_zombie_adopts_nobody() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as gone:
        assert gone.stdout is not None
        gone.stdout.read()  # it has ended, and nobody has waited for it
        started = time.monotonic()
        child = subprocess.run([sys.executable, "-c", DEAD, str(gone.pid)], check=False)

    assert child.returncode == ORPHAN_EXIT_CODE
    assert time.monotonic() - started < 1.5
