"""A child's last words: where its code stood when it failed, or when root found it stuck.

A child opens `<run-dir>/<name>.<incarnation>.trace` before its `main`. An exception is written
there; a fault of the interpreter, or SIGUSR1 from a root that is about to kill, makes
`faulthandler` dump the stacks of all threads, which works in the middle of C code too.

Root puts it into the crash report. So it holds no values: of an exception's text whatever stands
in quotes is left out, and stacks show code.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final

TRACE_SIGNAL: Final = signal.SIGUSR1
TRACE_BYTES_MAX: Final = 32 << 10
TEXT_MAX: Final = 300
_QUOTED: Final = re.compile(r"b?('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


def trace_path(run_dir: Path, name: str, incarnation: int) -> Path:
    """Return the file of one incarnation."""
    return run_dir / f"{name}.{incarnation}.trace"


class TraceFile:
    """The child's side. A run directory that can't be written costs the trace, not the child."""

    def __init__(self, run_dir: Path, name: str, incarnation: int) -> None:
        self._descriptor = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._descriptor = os.open(trace_path(run_dir, name, incarnation), flags, 0o600)
        except OSError:
            signal.signal(TRACE_SIGNAL, signal.SIG_IGN)
            return
        faulthandler.register(TRACE_SIGNAL, self._descriptor, all_threads=True, chain=False)
        faulthandler.enable(self._descriptor)

    def write(self, error: BaseException) -> None:
        """Write down what ended this child."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.write(self._descriptor, redacted(error).encode()[-TRACE_BYTES_MAX:])


def redacted(error: BaseException) -> str:
    """Return a traceback without values: frames, then the class and its text without quotes."""
    found: list[str] = []
    links: list[BaseException] = [error]
    while (cause := links[-1].__cause__ or links[-1].__context__) is not None:
        if cause in links:
            break
        links.append(cause)
    for one in reversed(links):
        found += traceback.format_tb(one.__traceback__)
        text = _QUOTED.sub("<...>", str(one))[:TEXT_MAX]
        found.append(f"{type(one).__name__}: {text}\n")
    return "".join(found)


def take_trace(run_dir: Path, name: str, incarnation: int) -> str:
    """Return what a child that has ended left behind, and remove the file; root's side."""
    path = trace_path(run_dir, name, incarnation)
    try:
        text = path.read_bytes()[-TRACE_BYTES_MAX:].decode("utf-8", "replace")
        path.unlink()
    except OSError:
        return ""
    return text
