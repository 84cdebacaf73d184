"""The preloaded process that forks every child, twice, so that root becomes the parent.

Root sends orders as JSON over a SEQPACKET socket; the process between the two forks answers with
the child's pid and ends. The zygote holds no state: root starts a new one when it dies, and no
child notices. Single-threaded, garbage frozen: what it has loaded is shared by all children.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any, Final

import setproctitle

from supervisor.process import die_with, run_child

ORDER_BYTES_MAX: Final = 1 << 20
NO_FORK_EXIT_CODE: Final = 73


def main() -> None:
    """Serve root: arguments are the socket's descriptor, root's pid and the member's name."""
    descriptor, root_pid, member_name, *modules = sys.argv[1:]
    die_with(int(root_pid))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setproctitle.setproctitle(f"trouped: zygote ({member_name})")
    channel = socket.socket(fileno=int(descriptor))
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    while True:
        data = channel.recv(ORDER_BYTES_MAX)
        if not data:
            os._exit(0)
        fork_twice(channel, json.loads(data))


def fork_twice(channel: socket.socket, order: dict[str, Any]) -> None:
    """Make a child whose parent is root, and tell root its pid.

    If that can't be done the zygote ends: root gives the order to the next one. The child begins
    when root has been told of it, or else there could be two.
    """
    between = os.fork()
    if between:
        _, status = os.waitpid(between, 0)
        if status:
            sys.exit(f"no process for {order['name']}")
        return
    told, tell = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os._exit(NO_FORK_EXIT_CODE)
    if child:
        answer = {"name": order["name"], "incarnation": order["incarnation"], "pid": child}
        channel.send(json.dumps(answer).encode())
        os.write(tell, b"1")
        os._exit(0)
    channel.close()
    os.close(tell)
    if not os.read(told, 1):
        os._exit(0)
    os.close(told)
    run_child(order)


if __name__ == "__main__":
    main()
