"""Where an actor's mailbox listens.

The address carries the receiver's incarnation: what was sent to a dead process can never reach its
successor. Kernel limit for a unix socket path: 107 bytes; the run directory is kept short for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PATH_BYTES_MAX: Final = 100


def mailbox_path(run_dir: Path, name: str, incarnation: int) -> Path:
    """Return the socket file of one incarnation of an actor."""
    path = run_dir / f"{name}.{incarnation}"
    assert len(bytes(path)) < PATH_BYTES_MAX, f"run directory too long: {run_dir}"
    return path


def mailbox_address(run_dir: Path, name: str, incarnation: int) -> str:
    """Return the ZeroMQ address of one incarnation of an actor."""
    return f"ipc://{mailbox_path(run_dir, name, incarnation)}"
