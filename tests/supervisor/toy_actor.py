"""A child with no work: shows the life cycle, misbehaves as its configuration tells it to.

`context.config["behaviour"][name]` is one of: "" (turns its loop), "crash" (raises at once),
"crash-once" (raises in incarnation 1), "return" (ends at once), "stuck" (turns no loop in
incarnation 1), "long" (one message for ever in incarnation 1), "chatty" (logs LINES lines),
"deaf" (does not stop when asked).
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from transport.context import ActorContext
from transport.control import ControlServer
from transport.counters import Board, Cell, State
from transport.log import Logger

LINES = 400
LINE_TEXT = "x" * 3000
LONG_TAG = 9


class ToyError(Exception):
    """What a crashing toy raises."""


def main(context: ActorContext) -> None:
    """Turn until asked to stop."""
    behaviour = context.config["behaviour"].get(context.name, "")
    first = context.incarnation == 1
    if behaviour == "crash" or (behaviour == "crash-once" and first):
        raise ToyError("as told")
    if behaviour == "return":
        return
    board = Board(context.run_dir / "board")
    asked = threading.Event()

    def stop(_: dict[str, object]) -> dict[str, object]:
        asked.set()
        return {}

    control = ControlServer(
        context.run_dir / f"{context.name}.ctl",
        {"stop": stop, "stats": lambda _: {"fds": _descriptors()}},
    )
    control.start()
    tell_of(context)
    log = Logger(context.log_fd, context.name)
    board.set(context.name, Cell.STATE, State.RUNNING)
    if behaviour == "chatty":
        for number in range(LINES):
            log.info("chat", number=number, text=LINE_TEXT)
    block = board.block(context.name)
    while behaviour == "deaf" or not asked.wait(0.01):
        if behaviour == "long" and first:
            board.words[block + Cell.SINCE_NS] = board.words[block + Cell.SINCE_NS] or (
                time.monotonic_ns()
            )
            board.words[block + Cell.TAG] = LONG_TAG
        if behaviour != "stuck" or not first:
            board.words[block + Cell.LOOPS] += 1
        if behaviour == "deaf":
            time.sleep(0.01)
    log.info("stopping as asked")


def tell_of(context: ActorContext) -> None:
    """Write down what this incarnation is, for tests to read."""
    told = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "incarnation": context.incarnation,
        "nice": os.nice(0),
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text().strip(),
        "lock_fd": context.lock_fd,
        "sockets": {key: list(value) for key, value in context.sockets.items()},
        "descriptors": _descriptors(),
        "root_pid": context.root_pid,
    }
    path = context.run_dir / f"{context.name}.told"
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(told))
    partial.rename(path)


def _descriptors() -> dict[str, str]:
    """Return what every open descriptor is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one the listing used
    return found
