"""What a child process is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ActorContext:
    """Everything an actor's `main` gets from root.

    `sockets` holds inherited listening descriptors by purpose ("client", "metrics"). `lock_fd` is
    the lock on the data directory, held by whoever may write there; -1 for others. `log_fd` is the
    write end of the log pipe.
    """

    name: str
    module: str
    incarnation: int
    run_dir: Path
    data_dir: Path
    member_name: str
    config: Mapping[str, Any]
    sockets: Mapping[str, tuple[int, ...]]
    lock_fd: int
    log_fd: int
    root_pid: int
