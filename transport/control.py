"""The control mailbox: questions to an actor that are answered while it is busy or stuck.

A ROUTER socket at `<run-dir>/<name>.ctl`, served by a thread of its own that does little per turn.
A request is a MessagePack map with `cmd`; the answer is a map, with `error` if it was refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

Handler = Callable[[dict[str, Any]], dict[str, Any]]
REQUEST_BYTES_MAX: Final = 64 << 10
LOOK_SECONDS: Final = 0.05


class ControlTimeoutError(Exception):
    """Nobody answered in time: the process is frozen, dead or not up yet."""


class ControlServer:
    """Answers requests on a daemon thread. `ping` is built in.

    A handler runs on that thread: it reads, or hands a request to the actor's own thread, and
    takes at most a millisecond. It may find the actor half made: that is answered with an error.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._handlers: dict[str, Handler] = {"ping": lambda _: {}, **handlers}
        self._path = path
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def start(self) -> None:
        """Bind (an old socket file of the same name goes) and serve."""
        self._path.unlink(missing_ok=True)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, REQUEST_BYTES_MAX)
        self._socket.bind(f"ipc://{self._path}")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, *_, body = self._socket.recv_multipart()
            except zmq.ContextTerminated:
                self._socket.close(linger=0)
                return
            try:
                self._socket.send_multipart([peer, b"", self._answer(body)], zmq.NOBLOCK)
            except zmq.Again:
                continue  # the one who asked does not read

    def _answer(self, body: bytes) -> bytes:
        try:
            request = msgpack.unpackb(body)
            handler = self._handlers.get(request["cmd"])
        except (ValueError, TypeError, KeyError):
            return self._pack({"error": "not a request"})
        if handler is None:
            return self._pack({"error": f"unknown command {request['cmd']!r}"})
        try:
            return self._pack(handler(request))
        except (RuntimeError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The actor's thread changed what was being looked at, or has not made it yet.
            return self._pack({"error": f"try again: {error}"})

    @staticmethod
    def _pack(answer: dict[str, Any]) -> bytes:
        packed: bytes = msgpack.packb(answer, default=str)
        return packed


class ControlClient:
    """Asks one actor. Not shared between threads."""

    def __init__(self, path: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")

    def tell(self, cmd: str, **arguments: Any) -> None:
        """Ask without waiting for an answer; never blocks."""
        try:
            self._socket.send_multipart([b"", self._request(cmd, arguments)], zmq.NOBLOCK)
        except zmq.Again:
            return

    def ask(
        self,
        cmd: str,
        timeout: float = 1.0,
        *,
        may_answer: Callable[[], bool] = lambda: True,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Return the answer. Raises ControlTimeoutError after `timeout` seconds.

        Or as soon as it is seen that whoever was asked can answer no more: `may_answer()`.
        """
        self.tell(cmd, **arguments)
        until = time.monotonic() + timeout
        while not self._socket.poll(int(min(LOOK_SECONDS, timeout) * 1000)):
            timeout = until - time.monotonic()
            if timeout <= 0.0 or not may_answer():
                raise ControlTimeoutError(cmd)
        answer: dict[str, Any] = msgpack.unpackb(self._socket.recv_multipart()[-1])
        return answer

    def close(self) -> None:
        """Close without waiting."""
        self._socket.close(linger=0)

    @staticmethod
    def _request(cmd: str, arguments: dict[str, Any]) -> bytes:
        packed: bytes = msgpack.packb({"cmd": cmd, **arguments})
        return packed
