"""The plugin in somebody else's package: installed by pip from a wheel, far from this tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.plugin.test_examples import EXAMPLES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
NO_PART = (".*", "__pycache__", "*.egg-info", "build", "tests", "benchmarks")
TIMEOUT_SECONDS = 600


def run(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder, knowing nothing of this process's Python; return its output."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        env=environ,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_three_examples_pass_in_a_package_that_has_the_wheel_only(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NO_PART))
    run(tmp_path, sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", "dist", source)
    shutil.rmtree(source)
    (wheel,) = (tmp_path / "dist").glob("trouped-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(tmp_path, python, "-m", "pip", "install", "-q", f"{wheel}[pytest]")
    package = tmp_path / "throwaway"
    (package / "throwaway").mkdir(parents=True)
    (package / "throwaway" / "__init__.py").write_text("")
    (package / "tests").mkdir()
    for number, example in enumerate(EXAMPLES):
        (package / "tests" / f"test_example_{number}.py").write_text(example)

    where = run(package, python, "-c", "import pytest_trouped; print(pytest_trouped.__file__)")
    printed = run(package, python, "-m", "pytest", "-v", "--strict-markers")

    passed = re.findall(r"test_example_(\d)\.py::\w+ PASSED", printed)
    assert where.startswith(str(tmp_path))
    assert len(EXAMPLES) == 3
    assert sorted(set(passed)) == ["0", "1", "2"], printed
    assert "skipped" not in printed
