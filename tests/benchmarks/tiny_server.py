"""A gRPC server of a few lines on a socket: counts what it is asked, answers as it is told."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from types import TracebackType

from ngh2 import Connection, Role
from ngh2.events import DataReceived, RequestReceived

from benchmarks.payloads import frame

_HEADERS = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_OK = ((b"grpc-status", b"0"), (b"grpc-message", b""))
_FAILED = ((b"grpc-status", b"8"), (b"grpc-message", b"etcdserver: too many requests"))


class TinyServer:
    """Answers every unary call with an empty message, a thread for each connection.

    The `stall_at`-th call (from 1) is answered `stall_seconds` late, and so is whatever is behind
    it on its connection; every `fail_every`-th call fails; from the `cut_at`-th on the connection
    is closed instead.
    """

    def __init__(
        self, *, stall_at: int = 0, stall_seconds: float = 0, fail_every: int = 0, cut_at: int = 0
    ) -> None:
        self.paths: Counter[str] = Counter()
        self.bodies: set[bytes] = set()
        self.connections = 0
        self._stall_at, self._stall_seconds = stall_at, stall_seconds
        self._fail_every, self._cut_at = fail_every, cut_at
        self._calls = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> TinyServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(link,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, link: socket.socket) -> None:
        engine = Connection(Role.SERVER)
        engine.initiate_connection({})
        with link:
            while data := link.recv(65536):
                engine.receive_data(data)
                for event in engine.events():
                    if isinstance(event, RequestReceived):
                        self.paths[dict(event.headers)[b":path"].decode()] += 1
                    elif isinstance(event, DataReceived) and event.end_stream:
                        self.bodies.add(event.data)
                        if not self._answer(engine, event.stream_id):
                            return
                link.sendall(engine.data_to_send())

    def _answer(self, engine: Connection, stream_id: int) -> bool:
        with self._lock:
            self._calls += 1
            number = self._calls
        if number == self._stall_at:
            time.sleep(self._stall_seconds)
        if self._cut_at and number >= self._cut_at:
            return False
        failed = bool(self._fail_every) and number % self._fail_every == 0
        if failed:
            engine.send_response(stream_id, _HEADERS + _FAILED, end_stream=True)
        else:
            engine.send_response(stream_id, _HEADERS)
            engine.send_data(stream_id, frame(b""))
            engine.send_trailers(stream_id, _OK)
        return True
