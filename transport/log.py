"""One JSON object a line, into the pipe that root reads. Never waits.

A line is one write(2) of at most LINE_BYTES_MAX bytes, so lines of several processes never mix.
When the pipe is full (a frozen root must not freeze the troupe) the line is dropped and counted;
the next line that gets through says how many were lost.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Final

LINE_BYTES_MAX: Final = 4000


def timestamp(seconds: float) -> str:
    """Return the time as etcd logs it: 2006-01-02T15:04:05.000000Z, UTC."""
    whole = time.gmtime(seconds)
    micros = int(seconds % 1 * 1e6)
    return time.strftime("%Y-%m-%dT%H:%M:%S", whole) + f".{micros:06d}Z"


class Logger:
    """Writes lines on behalf of `caller`, an actor's name."""

    def __init__(self, descriptor: int, caller: str) -> None:
        self._descriptor = descriptor
        self._caller = caller
        self.dropped = 0

    def debug(self, msg: str, **fields: Any) -> None:
        """Tell a developer something."""
        self._write("debug", msg, fields)

    def info(self, msg: str, **fields: Any) -> None:
        """Tell an operator something."""
        self._write("info", msg, fields)

    def warning(self, msg: str, **fields: Any) -> None:
        """Something is not as it should be, and goes on."""
        self._write("warn", msg, fields)

    def error(self, msg: str, **fields: Any) -> None:
        """Something failed."""
        self._write("error", msg, fields)

    def _write(self, level: str, msg: str, fields: dict[str, Any]) -> None:
        line: dict[str, Any] = {"level": level, "ts": timestamp(time.time())}
        line |= {"caller": self._caller, "msg": msg} | fields
        if self.dropped:
            line["lines_dropped"] = self.dropped
        data = json.dumps(line, default=str, separators=(",", ":")).encode()
        if len(data) > LINE_BYTES_MAX:
            data = _cut(line)
        try:
            os.write(self._descriptor, data + b"\n")
        except BlockingIOError:
            self.dropped += 1
        else:
            self.dropped = 0


def _cut(line: dict[str, Any]) -> bytes:
    """Return a line of few enough bytes: texts are cut, a stack keeps its end."""
    kept = 2048
    while True:
        short = {"level": line["level"], "ts": line["ts"], "caller": line["caller"]}
        short |= {"msg": str(line["msg"])[:kept], "cut": True}
        short |= {key: str(line[key])[-kept:] for key in ("error", "stack") if key in line}
        short |= {key: line[key] for key in ("lines_dropped",) if key in line}
        data = json.dumps(short, separators=(",", ":")).encode()
        if len(data) <= LINE_BYTES_MAX:
            return data
        kept //= 2
