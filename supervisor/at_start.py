"""What a process that may be PID 1 sees to before anything else: import this first.

The kernel drops signals that PID 1 has no handler for, and a `docker stop` may come while modules
are still being imported. And a descriptor below 3 that is closed would become a lock or a listening
socket, which what a child makes of its output would then replace.
"""

from __future__ import annotations

import contextlib
import os
import signal

TERMINATED_EXIT_CODE = 128 + signal.SIGTERM


def prepare() -> None:
    """End at SIGTERM, until somebody knows better; have descriptors 0 to 2 open."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    with contextlib.suppress(ValueError):  # not the main thread: it is not a program's start
        signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED_EXIT_CODE))


prepare()
