"""`/debug/vars`: what etcd publishes by Go's expvar, but for the memory of a Go runtime."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from control.observe import MemberView, ObserveError
from control.state import state
from transport.counters import Cell


def expvars(view: MemberView) -> dict[str, Any]:
    """Return the variables. Waits for the raft node. Raises ObserveError if it does not answer."""
    status = state(view, "raft-node")["state"].get("status")
    if status is None:  # frozen, dead, or only starting
        raise ObserveError("the raft node does not answer")
    root = view.board.get("root", Cell.PID)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    arguments = Path(f"/proc/{root}/cmdline").read_bytes().split(b"\0")[:-1]
    return {
        "cmdline": [argument.decode(errors="replace") for argument in arguments],
        "file_descriptor_limit": descriptors,
        "raft.status": status,
    }
