"""Data-driven tests: commands and their golden output in one text file.

    # A comment.
    command positional key=value key=(a,b)
    input, any number of lines, if the command takes any
    ----
    expected output, up to a blank line

Output that has blank lines itself stands between two lines `----` and two lines `----`. A command
without output is expected to print "ok". Run `pytest --rewrite` to regenerate the outputs, then
read the diff. The format is that of cockroachdb/datadriven, which etcd-io/raft uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ARG = re.compile(r"(?:(?P<key>[\w-]+)=)?(?P<val>\([^)]*\)|\S+)")
_SEPARATOR = "----"


@dataclass(frozen=True, slots=True)
class Command:
    """One parsed directive."""

    name: str
    args: list[str] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    input: str = ""

    def option(self, key: str, default: str = "") -> str:
        """Return the only value of an option."""
        values = self.options.get(key, [default])
        assert len(values) == 1, f"{self.name}: {key} has {len(values)} values"
        return values[0]


@dataclass(frozen=True, slots=True)
class Block:
    """A command with its place (line, from 1) and the output expected; or text to be kept."""

    text: str
    line: int = 0
    command: Command | None = None
    expected: str = ""


def parse(line: str, input_: str = "") -> Command:
    """Split `name a b key=(1,2)` into a Command."""
    name, _, rest = line.strip().partition(" ")
    command = Command(name, input=input_)
    for match in _ARG.finditer(rest):
        value = match["val"]
        values = [value]
        if value.startswith("("):
            values = [v.strip() for v in value.strip("()").split(",") if v.strip()]
        if match["key"]:
            command.options[match["key"]] = values
        else:
            command.args.extend(values)
    return command


def blocks(text: str) -> Iterator[Block]:
    """Cut a script into commands and the text between them."""
    lines = text.splitlines(keepends=True)
    place = 0
    while place < len(lines):
        start = place
        if not lines[place].strip() or lines[place].startswith("#"):
            place += 1
            yield Block(lines[start])
            continue
        while place < len(lines) and lines[place].rstrip() != _SEPARATOR:
            place += 1
        assert place < len(lines), f"line {start + 1}: no {_SEPARATOR} after the command"
        input_ = "".join(lines[start + 1 : place])
        directive = "".join(lines[start : place + 1])
        expected, place = _expected(lines, place + 1)
        yield Block(directive, start + 1, parse(lines[start], input_), expected)


def _expected(lines: list[str], place: int) -> tuple[str, int]:
    start = place
    if place < len(lines) and lines[place].rstrip() == _SEPARATOR:
        place += 1
        while [line.rstrip() for line in lines[place : place + 2]] != [_SEPARATOR] * 2:
            assert place < len(lines), f"line {start + 1}: output is not ended"
            place += 1
        return "".join(lines[start + 1 : place]), place + 2
    while place < len(lines) and lines[place].strip():
        place += 1
    return "".join(lines[start:place]), place


def run(path: Path, handle: Callable[[Command], str], *, rewrite: bool = False) -> None:
    """Run every command of `path` and compare, or rewrite, its output."""
    result = []
    for block in blocks(path.read_text()):
        result.append(block.text)
        if block.command is None:
            continue
        got = handle(block.command).strip("\n") or "ok"
        if rewrite:
            blank = "\n\n" in got
            fence = f"{_SEPARATOR}\n" if blank else ""
            result.append(f"{fence}{got}\n{fence * 2}")
            continue
        # The output begins the message, so that pytest shows the difference.
        where = f"{path}:{block.line}: {block.command.name}"
        assert got.splitlines() == block.expected.strip("\n").splitlines(), where
    if rewrite:
        path.write_text("".join(result))


def scripts(folder: Path) -> list[Path]:
    """Return the scripts of a folder in a stable order; none if there is no such folder."""
    return sorted(folder.glob("*.txt"))
