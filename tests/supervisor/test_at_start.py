"""What is seen to before anything else is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.root import _reason

OWN_END = "import supervisor.at_start, os, signal; os.kill(os.getpid(), signal.SIGTERM)"
FIRST_FREE = """
import supervisor.at_start, os, sys
open(sys.argv[1], "w").write(str(os.open(os.devnull, os.O_RDONLY)))
"""


def test_a_process_ends_at_sigterm_from_the_first_moment_on() -> None:
    """As PID 1 it would live on otherwise: the kernel drops what has no handler."""
    assert subprocess.run([sys.executable, "-c", OWN_END], check=False).returncode == 143


@pytest.mark.parametrize("closed", ["", "<&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_the_first_three_descriptors_are_open(tmp_path: Path, closed: str) -> None:
    script, found = tmp_path / "script.py", tmp_path / "found"
    script.write_text(FIRST_FREE)

    command = f'exec "$0" "$1" "$2" {closed}'
    subprocess.run(["sh", "-c", command, sys.executable, script, found], check=True)

    assert int(found.read_text()) == 3 + 1  # the file that is written to is 3


@pytest.mark.parametrize(
    ("status", "words"),
    [(9, "killed by SIGKILL"), (40, "killed by signal 40"), (64, "killed by signal 64")],
)
def test_any_signal_has_a_name(status: int, words: str) -> None:
    assert _reason(status) == words
