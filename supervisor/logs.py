"""Root's side of the log: what children write into the pipe, and root's own lines, go out here.

Root alone writes stderr. Lines that are not JSON (an interpreter's last words) are wrapped. A
reader of stderr that does not read must not stop root: what does not fit is dropped and counted,
and the next line that gets through says how many there were.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from supervisor.errors import StartError
from transport.log import LINE_BYTES_MAX, timestamp

LEVELS: Final = {
    "debug": 0,
    "info": 1,
    "": 1,
    "warn": 2,
    "error": 3,
    "dpanic": 4,
    "panic": 5,
    "fatal": 6,
}
BUFFER_BYTES_MAX: Final = 1 << 20
CHUNK_BYTES: Final = 4096
"""A pipe that polls as writable takes this much (PIPE_BUF) without waiting."""

DISCARD: Final = os.devnull
"""Among the outputs it silences all others, as in etcd."""

_STDERR: Final = ("default", "stderr", "systemd/journal")


class Outlet:
    """One descriptor lines go to, with what it has not taken yet. Never waits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poller = select.poll()
        self._poller.register(descriptor, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self.dropped = 0

    def put(self, line: bytes) -> bool:
        """Write a line, or keep it for later; False if there was no room for it."""
        if self._waiting_bytes + len(line) > BUFFER_BYTES_MAX:
            self.flush()
        if self._waiting_bytes + len(line) > BUFFER_BYTES_MAX:
            self.dropped += 1
            return False
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self.flush()
        return True

    def flush(self) -> None:
        """Write what is waiting, as far as it is taken."""
        while self._waiting:
            line = self._waiting.popleft()
            written = self._write(line[:CHUNK_BYTES])
            self._waiting_bytes -= written
            if written < len(line):
                self._waiting.appendleft(line[written:])
                if not written:
                    return

    def _write(self, chunk: bytes) -> int:
        if not self._poller.poll(0):
            return 0
        try:
            return os.write(self._descriptor, chunk)
        except BlockingIOError:
            return 0
        except OSError:  # nobody reads any more, or the disk is full: no reason to stop a member
            self.dropped += 1
            return len(chunk)


class LogSink:
    """Filters by level, formats, writes. `outputs` as etcd's --log-outputs."""

    def __init__(self, *, level: str, log_format: str, outputs: Sequence[str]) -> None:
        self._level = LEVELS[level.lower()]
        self._console = log_format == "console"
        names = dict.fromkeys("stderr" if name in _STDERR else name for name in outputs)
        if DISCARD in names:
            names = {DISCARD: None}
        self._outlets = [Outlet(_descriptor_of(name)) for name in names]
        self._partial = b""
        self._told_dropped = 0

    @property
    def dropped(self) -> int:
        """Lines that some output did not get."""
        return sum(outlet.dropped for outlet in self._outlets)

    def log(self, level: str, msg: str, **fields: Any) -> None:
        """Write one line of root's own."""
        line = {"level": level, "ts": timestamp(time.time()), "caller": "root", "msg": msg}
        self._emit(line | fields)

    def feed(self, data: bytes) -> None:
        """Take bytes from the pipe of the children."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_BYTES_MAX:
            lines, self._partial = [*lines, self._partial], b""
        for text in lines:
            if text:
                self._emit(_parsed(text))

    def flush(self) -> None:
        """Try to write what did not fit before."""
        for outlet in self._outlets:
            outlet.flush()

    def _emit(self, line: dict[str, Any]) -> None:
        if LEVELS.get(str(line.get("level")), LEVELS["error"]) < self._level:
            return
        dropped = self.dropped
        if dropped > self._told_dropped:
            line = line | {"lines_not_written": dropped - self._told_dropped}
        data = self._formatted(line).encode()
        taken = [outlet.put(data) for outlet in self._outlets]
        if all(taken):
            self._told_dropped = dropped

    def _formatted(self, line: dict[str, Any]) -> str:
        if not self._console:
            return json.dumps(line, default=str, separators=(",", ":")) + "\n"
        head = [str(line.get(key, "")) for key in ("ts", "level", "caller", "msg")]
        fields = {k: v for k, v in line.items() if k not in ("level", "ts", "caller", "msg")}
        if fields:
            head.append(json.dumps(fields, default=str))
        return "\t".join(head) + "\n"


def _descriptor_of(output: str) -> int:
    """Open what --log-outputs names. Raises StartError."""
    if output in ("stderr", "stdout"):
        return _reopened(2 if output == "stderr" else 1)
    try:
        return os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise StartError(f'couldn\'t open sink "{output}": open {output}: {reason}') from None


def _reopened(descriptor: int) -> int:
    """Return a non-blocking descriptor of our own: the flag must not reach whoever shares ours."""
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except FileNotFoundError:  # started with it closed
        return os.open(DISCARD, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # a socket can't be opened again, somebody else's pipe neither
        return os.dup(descriptor)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
        if isinstance(line, dict) and "msg" in line:
            return line
    except ValueError:
        pass
    now = timestamp(time.time())
    words = text.decode("utf-8", "replace")
    return {"level": "error", "ts": now, "caller": "stderr", "msg": words}


def fatal(text: str) -> None:
    """Print a last line before there is a log."""
    print(text.rstrip("\n"), file=sys.stderr)  # noqa: T201 - there is no log yet
