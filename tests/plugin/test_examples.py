"""The examples of docs/isolation.md do what it says, in a folder that knows nothing of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
GUIDE = (Path(__file__).parents[2] / "docs" / "isolation.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)
SCRIPTS = re.findall(r"^```jsonl isolate=(\S+)\n(.*?)^```", GUIDE, re.M | re.S)
BIN = Path(sys.executable).parent


def run_pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run pytest in a folder as its owner would; return the exit code and what it printed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
    ended = subprocess.run(
        [str(BIN / "python"), "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=environ,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_there_are_examples_of_all_three_fixtures() -> None:
    assert len(EXAMPLES) == 3
    for name in ("isolated_actor", "member", "cluster"):
        assert any(f"({name}" in example for example in EXAMPLES)
    assert len(SCRIPTS) == 1


@pytest.mark.parametrize(
    "number", [0, 1, pytest.param(2, marks=pytest.mark.slow)]
)  # the third starts three members
def test_the_guides_examples_pass(number: int, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(EXAMPLES[number])

    code, printed = run_pytest(tmp_path, "--strict-markers")

    assert code == 0, printed


def test_the_guides_script_ends_with_what_the_applier_knew(tmp_path: Path) -> None:
    ((actor, text),) = SCRIPTS
    script = tmp_path / "script"
    script.write_text(text)

    ended = subprocess.run(
        [str(BIN / "troupectl"), "isolate", actor, f"--script={script}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    printed = [json.loads(line) for line in ended.stdout.splitlines()]
    (state,) = [line["state"] for line in printed if "state" in line]
    assert (state["applied_index"], state["revision"]) == (2, 2)


def test_a_test_that_fails_shows_what_the_actor_sent_and_its_log(tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(
        "from actors.messages import Applied, Committed, Checkpointed\n"
        "def test_it(isolated_actor):\n"
        "    applier = isolated_actor('applier')\n"
        "    applier.send('snapshotter', Checkpointed(0))\n"
        "    applier.expect(Applied, timeout=0.3, index=7)\n"
    )

    code, printed = run_pytest(tmp_path)

    assert code == 1
    assert "ExpectationError: Applied(index=7) to anybody: not in 0.3 s" in printed
    assert "to compactor: " in printed
    assert "log of applier-1" in printed


def test_the_plugin_costs_other_tests_no_import_of_ours(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    ours = {'actors', 'supervisor', 'transport', 'storage', 'api', 'zmq', 'grpc'}\n"
        "    assert not ours & set(sys.modules)\n"
    )

    code, printed = run_pytest(tmp_path)

    assert code == 0, printed


def test_nothing_is_left_running(tmp_path: Path) -> None:
    (tmp_path / "test_leaving.py").write_text(
        "def test_it(isolated_actor):\n"
        "    actor = isolated_actor('lessor')\n"
        "    print('pid', actor.process.pid, actor.run_dir, 'end')\n"
    )

    code, printed = run_pytest(tmp_path, "-s")

    assert code == 0, printed
    found = re.search(r"pid (\d+) (\S+) end", printed)
    assert found is not None
    assert not Path("/proc", found[1]).exists()
    assert not Path(found[2]).exists()
