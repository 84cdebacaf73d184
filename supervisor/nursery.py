"""Root's end of the zygote: starts it, sends it orders, learns pids.

Invariant: an order is outstanding until its pid is known. When the zygote dies every process that
could still answer ends soon after and the socket reads end-of-file; only then a new zygote gets
the outstanding orders, so no child is ever started twice. Where no process can be had for it
(pids.max of a container, no memory) the actors go on, and `retry` tries again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from supervisor.zygote import ORDER_BYTES_MAX

BROKEN: Final = ["-c", "raise SystemExit('told to crash at every start')"]


class Nursery:
    """Starts children through the zygote. Never blocks, forks nothing but the zygote itself."""

    def __init__(
        self,
        *,
        member_name: str,
        modules: Sequence[str],
        descriptors: Iterable[int],
        output: int = subprocess.DEVNULL,
        broken: Callable[[], bool] = lambda: False,
        failed: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        """`descriptors` are inherited by the zygote, and through it by every child.

        `output` takes what the zygote prints: nothing, but for an interpreter's last words. As long
        as it is `broken`, by a fault that was ordered, each new one ends at once. `failed` is told,
        once, why there can't be another zygote now; that there can't be a first one is raised.
        """
        self._output = output
        self._broken = broken
        self._failed = failed
        self._member_name = member_name
        self._modules = tuple(modules)
        self._descriptors = tuple(descriptors)
        self._outstanding: dict[str, bytes] = {}
        self._unsent: dict[str, bytes] = {}
        self._channel: socket.socket | None = None
        self._told_failure = False
        self.pid = 0
        """The zygote's; 0 while there is none."""
        self.pids: set[int] = set()
        self.restarts = -1
        self._start()

    def fileno(self) -> int:
        """Return the socket to poll for answers; -1 while there is none."""
        return self._channel.fileno() if self._channel is not None else -1

    @property
    def awaits_answers(self) -> bool:
        """Whether there are children whose pid is not known yet."""
        return bool(self._outstanding)

    def order(self, order: dict[str, Any]) -> None:
        """Have a child started."""
        data = json.dumps(order).encode()
        assert len(data) < ORDER_BYTES_MAX
        self._outstanding[order["name"]] = self._unsent[order["name"]] = data
        self.retry()

    def retry(self) -> None:
        """Send the orders for which the socket had no room, or for which there was no zygote."""
        if self._channel is None:
            self._start_again()
        channel = self._channel
        if channel is None:
            return
        for name, data in tuple(self._unsent.items()):
            try:
                channel.send(data)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                return  # the zygote is dead; end-of-file brings a new one and all orders
            del self._unsent[name]

    def answers(self) -> list[tuple[str, int, int]]:
        """Return (name, incarnation, pid) of children started; a dead zygote is replaced."""
        found: list[tuple[str, int, int]] = []
        while self._channel is not None:
            try:
                data = self._channel.recv(65536)
            except BlockingIOError:
                return found
            except ConnectionResetError:
                continue  # it ended with orders unread; its answers and end-of-file come after this
            if not data:
                self._channel.close()
                self._channel = None
                self.pid = 0
                self._unsent = dict(self._outstanding)
                self.retry()
                return found
            answer = json.loads(data)
            self._outstanding.pop(answer["name"], None)
            found.append((answer["name"], answer["incarnation"], answer["pid"]))
        return found

    def _start_again(self) -> None:
        try:
            self._start()
        except OSError as error:
            if not self._told_failure:
                self._told_failure = True
                self._failed(error)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ORDER_BYTES_MAX)
        arguments = [str(theirs.fileno()), str(os.getpid()), self._member_name, *self._modules]
        program = BROKEN if self._broken() else ["-m", "supervisor.zygote", *arguments]
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", *program],
                pass_fds=(theirs.fileno(), *self._descriptors),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = ours
        self._told_failure = False
        self.pid = process.pid
        self.pids.add(process.pid)
        self.restarts += 1
        process.returncode = 0  # root's own waitpid reaps it, not this object
