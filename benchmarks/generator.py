"""The load generator from the outside: start it, read its JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.latency import LoadResult

ROOT: Final = Path(__file__).resolve().parent.parent


class GeneratorError(Exception):
    """A load generator that broke, or whose requests failed where none may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run sends; the names are the generator's own options. None leaves one out."""

    op: str
    in_flight: int
    seconds: float | None = None
    count: int | None = None
    warmup: float | None = None
    rate: float | None = None
    keys: int | None = None
    connections: int | None = None
    seed: int | None = None
    timeline: float | None = None
    value_bytes: int | None = None
    samples: Path | None = None

    def arguments(self) -> list[str]:
        """Return them as a command line has them."""
        found: list[str] = []
        for name in self.__slots__:
            given = getattr(self, name)
            if given is not None:
                found += [f"--{name.replace('_', '-')}", str(given)]
        return found


@dataclass(slots=True)
class Running:
    """A generator whose window is open since `started` (CLOCK_MONOTONIC)."""

    started: float
    result: LoadResult | None = field(default=None)


@contextmanager
def running(endpoint: str, options: Options) -> Iterator[Running]:
    """Run the load while the body runs; after it `result` is there. Raises GeneratorError."""
    command = [sys.executable, "-m", "benchmarks.load", "--endpoint", endpoint, "--announce"]
    process = subprocess.Popen(
        [*command, *options.arguments()],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    finished = False
    try:
        load = Running(_read(process)["started"])
        yield load
        load.result = LoadResult.from_dict(_read(process))
        finished = True
    finally:
        if not finished:
            process.terminate()
        process.communicate()


def load(endpoint: str, options: Options, *, errors_allowed: bool = False) -> LoadResult:
    """Run the load to its end.

    Raises GeneratorError when the generator broke, or any request failed and none may.
    """
    with running(endpoint, options) as run:
        pass
    if run.result is None:
        raise AssertionError("a run that ended has a result")
    if run.result.errors and not errors_allowed:
        raise GeneratorError(f"{options.op} at {endpoint}: {run.result.errors}")
    return run.result


def _read(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise GeneratorError("the load generator ended without a result")
    found: dict[str, Any] = json.loads(line)
    return found
