"""`troupectl isolate ACTOR`: hands over to a process that is root of that one actor.

It needs no running member, and all layers above this one: so it is another program, run in this
one's place.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

PROGRAM: Final = "supervisor.isolate"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what `troupectl isolate` takes."""
    command.add_argument("actor", help="such as applier, raft-node, lessor, gateway-0")
    command.add_argument("--data-dir", default="", help="start on a copy of this (default: empty)")
    command.add_argument("--script", metavar="FILE", help="lines to carry out; - is standard input")
    command.add_argument("--replay", metavar="FILE", help="what tap --values --json has printed")
    command.add_argument("--seconds", type=float, default=0.0, help="end after so long")
    command.add_argument("--keep", metavar="FOLDER", help="leave data and log there")
    command.add_argument("--json", action="store_true", help="changes nothing: it is all JSON")
    command.add_argument("flags", nargs="*", metavar="-- FLAG", help="flags of trouped")


def hand_over(argv: Sequence[str]) -> NoReturn:
    """Become the other program, with what stood behind `isolate`."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", PROGRAM, *argv])
