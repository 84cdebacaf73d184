"""The distribution as installed: its names are its own, its programs exist and are typed."""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PACKAGES = SETUP["options"]["packages"].split()
PROGRAMS = dict(
    line.replace(" ", "").split("=")
    for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines()
)


def test_readmes_test_command_is_what_ci_runs() -> None:
    """Editable, or the programs and the pytest plugin under test would be an installed copy."""
    readme = (ROOT / "README.md").read_text()
    command = readme.partition("## Test it\n\n")[2].partition("\n")[0].strip()

    assert command == "pip install -e '.[test]' && pytest"
    assert f"({command})" in (ROOT / ".ci" / "run").read_text()


def test_no_other_distribution_owns_our_top_level_names() -> None:
    owners = metadata.packages_distributions()

    for package in PACKAGES:
        assert set(owners.get(package, [])) <= {"trouped"}, package


def test_every_package_is_listed_and_typed() -> None:
    there = {path.parent.name for path in ROOT.glob("*/__init__.py")}

    assert set(PACKAGES) == there - {"tests", "benchmarks"}
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists(), package


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_tree(package: str) -> None:
    """A folder of the same name elsewhere on the path must not win."""
    module = __import__(package)

    assert module.__file__ is not None
    assert Path(module.__file__).parent.parent == ROOT


@pytest.mark.parametrize("program", PROGRAMS)
def test_console_scripts_exist_and_explain_themselves(program: str) -> None:
    script = Path(sys.executable).parent / program

    shown = subprocess.run(
        [str(script), "--help"], capture_output=True, text=True, timeout=30, check=False
    )

    assert shown.returncode == 0, shown.stderr
    assert program in shown.stdout


def test_the_version_is_one() -> None:
    assert metadata.version("trouped") == SETUP["metadata"]["version"]
