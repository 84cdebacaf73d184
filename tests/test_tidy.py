"""Non-functional properties of the code itself (after TigerBeetle's tidy.zig)."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "raft", "kv", "storage", "transport", "api", "actors", "supervisor", "control",
    "pytest_trouped", "benchmarks", "tests",
)  # fmt: skip
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 600
# raft and kv are functions of their input: nothing in them waits, guesses or touches the machine.
PURE = ("raft", "kv")
BANNED_IN_PURE: Final = frozenset(
    {
        "apsw", "asyncio", "datetime", "io", "logging", "multiprocessing", "ngh2", "os",
        "pathlib", "pykka", "random", "secrets", "select", "selectors", "shutil", "signal",
        "socket", "subprocess", "sys", "tempfile", "threading", "time", "uuid", "zmq",
    }
)  # fmt: skip
CALLS_BANNED_IN_PURE: Final = frozenset({"open", "print", "input", "eval", "exec"})
SOLE_IMPORTERS: Final = {"apsw": {"storage"}, "ngh2": {"api"}, "zmq": {"transport", "actors"}}
LAYERS: Final = (
    {"etcdpb"},
    {"raft"},
    {"kv"},
    {"api", "storage", "transport"},
    {"control"},
    {"actors"},
    {"supervisor"},
    {"pytest_trouped"},
)
VAGUE_NAMES: Final = {"utils", "util", "helpers", "helper", "common", "misc"}
# Folders of the machine something was written on; they mean nothing to anybody else.
PRIVATE_PATH: Final = re.compile(r"(?<![\w./-])/(?:work|home|Users)/\w|(?<![\w./-])/tmp/[a-z]\w+/")
TEXT_SUFFIXES: Final = frozenset(
    {"", ".py", ".md", ".toml", ".cfg", ".yaml", ".yml", ".mk", ".service", ".proto", ".json"}
)


def rank(package: str) -> int:
    return next((n for n, layer in enumerate(LAYERS) if package in layer), -1)


def imports(node: ast.AST) -> set[str]:
    """Return the top-level packages an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return set()


def faults_of_imports(name: str, node: ast.AST) -> list[str]:
    package, found = name.partition("/")[0], []
    line: int = getattr(node, "lineno", 0)
    for imported in sorted(imports(node)):
        if package in PURE and imported in BANNED_IN_PURE:
            found.append(f"{name}:{line}: {package} is pure, but imports {imported}")
        owners = SOLE_IMPORTERS.get(imported)
        if owners and package not in owners | {"tests", "benchmarks"} and rank(package) >= 0:
            found.append(f"{name}:{line}: only {', '.join(owners)} may import {imported}")
        if 0 <= rank(package) < rank(imported) or (
            rank(package) == rank(imported) >= 0 and package != imported
        ):
            found.append(f"{name}:{line}: imports go down, not from {package} to {imported}")
    return found


def faults_of(name: str, source: str) -> list[str]:
    """Return what is wrong with a file (`name` is its path in the tree)."""
    tree, found = ast.parse(source), []
    if (lines := source.count("\n")) > FILE_LINES_MAX:
        found.append(f"{name}: {lines} lines, at most {FILE_LINES_MAX}")
    if source.strip() and ast.get_docstring(tree) is None:
        found.append(f"{name}:1: module has no docstring")
    if Path(name).stem in VAGUE_NAMES:
        found.append(f"{name}: says nothing about what it holds")
    for number, line in enumerate(source.splitlines(), 1):
        if re.search(r"# (type: ignore(?!\[)|noqa(?!: ))", line):
            found.append(f"{name}:{number}: an exemption names its rule")
    pure = name.partition("/")[0] in PURE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{name}:{node.lineno}: {node.name} has {length} lines")
        if isinstance(node, ast.ClassDef) and _is_misnamed_error(node):
            found.append(f"{name}:{node.lineno}: errors end in Error, not {node.name}")
        called = node.func if isinstance(node, ast.Call) else None
        if pure and isinstance(called, ast.Name) and called.id in CALLS_BANNED_IN_PURE:
            found.append(f"{name}:{called.lineno}: pure, but calls {called.id}")
        found += faults_of_imports(name, node)
    return found


def _is_misnamed_error(node: ast.ClassDef) -> bool:
    """Whether a class derives from an error but isn't called one (control flow aside)."""
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    raised = {base for base in bases if base == "Exception" or base.endswith("Error")}
    return bool(raised) and not node.name.endswith(("Error", "Requested"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_tidy(path: Path) -> None:
    found = faults_of(str(path.relative_to(ROOT)), path.read_text())

    assert not found, "\n".join(found)


def test_no_file_names_a_private_folder() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a checkout")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in TEXT_SUFFIXES and path.is_file() and path != Path(__file__):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if PRIVATE_PATH.search(line):
                    found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("kv/a.py", '"""D."""\nimport time\n', "pure"),
        ("raft/a.py", '"""D."""\nopen("x")\n', "calls open"),
        ("kv/a.py", '"""D."""\nimport actors\n', "imports go down"),
        ("api/a.py", '"""D."""\nfrom storage.wal import Wal\n', "imports go down"),
        ("kv/a.py", '"""D."""\nimport apsw\n', "only storage"),
        ("api/a.py", "import json\n", "no docstring"),
        ("api/utils.py", '"""D."""\n', "says nothing"),
        ("api/a.py", '"""D."""\nclass Oops(Exception): ...\n', "errors end in Error"),
        ("api/a.py", '"""D."""\nx = 1  # type' + ": ignore\n", "names its rule"),
        ("api/a.py", '"""D."""\n' + "x = 1\n" * 601, "602 lines"),
        ("api/a.py", '"""D."""\ndef f():\n' + " x = 1\n" * 60, "f has 61 lines"),
    ],
)
def test_what_is_untidy_is_found(name: str, source: str, fault: str) -> None:
    assert any(fault in found for found in faults_of(name, source))
