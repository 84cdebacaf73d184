"""Keeps leases alive through some members of a cluster, whatever happens to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from tests.lease.leases import KeepAlives


class Keeper:
    """A thread per endpoint. `lost` holds leases that were answered with TTL 0."""

    def __init__(self, endpoints: Sequence[str], leases: Sequence[int], pause: float) -> None:
        self.lost: set[int] = set()
        self.renewed = 0
        self.failed = 0
        self._leases = leases
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(endpoint,), daemon=True)
            for endpoint in endpoints
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, endpoint: str) -> None:
        while not self._stop.is_set():
            stream = KeepAlives(endpoint)
            try:
                while not self._stop.is_set():
                    self._renew_all(stream)
                    self._stop.wait(self._pause)
            except grpc.RpcError:
                self.failed += 1
                time.sleep(0.05)
            finally:
                stream.close()

    def _renew_all(self, stream: KeepAlives) -> None:
        for lease in self._leases:
            stream.send(lease)
        for _ in self._leases:
            answer = stream.receive()
            if answer.TTL > 0:
                self.renewed += 1
            else:
                self.lost.add(answer.ID)


@contextmanager
def kept(endpoints: Sequence[str], leases: Sequence[int], pause: float = 0.2) -> Iterator[Keeper]:
    """Keep leases alive for the length of the block."""
    keeper = Keeper(endpoints, leases, pause)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.stop()
