"""A root over toy actors, as a process of its own: `python -m tests.supervisor.toy_member JSON`.

JSON: {"run_dir", "children": [fields of ChildSpec], "behaviour": {name: behaviour},
"stuck_detection": bool, "zygote_within": seconds}.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from supervisor.logs import LogSink
from supervisor.member import write_info
from supervisor.process import become_subreaper
from supervisor.root import RootActor, Surroundings
from supervisor.spec import ChildSpec
from transport.counters import Board


def spec_of(fields: dict[str, Any]) -> ChildSpec:
    """Return the spec of a toy; tags come as text from JSON."""
    allowances = {int(tag): seconds for tag, seconds in fields.pop("allowances", {}).items()}
    return ChildSpec(
        module="tests.supervisor.toy_actor",
        reason="a toy",
        allowances=allowances,
        **{"exit_code": 77} | fields,
    )


def main() -> None:
    """Be root."""
    told = json.loads(sys.argv[1])
    run_dir = Path(told["run_dir"])
    specs = [spec_of(fields) for fields in told["children"]]
    board = Board(run_dir / "board", create=["root", *(spec.name for spec in specs)])
    sink = LogSink(level="info", log_format="json", outputs=("stderr",))
    become_subreaper()
    listener = socket.create_server(("127.0.0.1", 0))
    lock_fd = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    log_read_fd, log_write_fd = os.pipe()
    os.set_blocking(log_write_fd, False)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    write_info(run_dir, specs, name="toys", data_dir=run_dir, urls={"client": [url]})
    (run_dir / "root.json").write_text("{}")
    around = Surroundings(
        run_dir=run_dir,
        data_dir=run_dir,
        member_name="toys",
        config={"behaviour": told.get("behaviour", {})},
        sockets={"client": [listener.fileno()]},
        lock_fd=lock_fd,
        log_read_fd=log_read_fd,
        log_write_fd=log_write_fd,
        stuck_detection=told.get("stuck_detection", True),
        zygote_within=told.get("zygote_within", 15.0),
    )
    root = RootActor(specs, around, board, sink)
    root.serve()
    if root.failure is not None:
        raise root.failure
    sys.exit(root.exit_code)


if __name__ == "__main__":
    main()
