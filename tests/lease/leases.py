"""What the tests of this folder do to leases of a running member."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from etcdpb import rpc_pb2 as pb
from tests.client import OPTIONS, Answer, Client
from tests.cluster import Cluster, ClusterMember

KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"


def grant(client: Client, ttl: int, lease: int = 0) -> int:
    """Grant a lease; return its id. Raises CallError."""
    request = pb.LeaseGrantRequest(ID=lease, TTL=ttl)
    return client.call(request, pb.LeaseGrantResponse).ID


def attach(client: Client, key: bytes, lease: int) -> int:
    """Put a key with a lease; return the revision. Raises CallError."""
    request = pb.PutRequest(key=key, value=b"v", lease=lease)
    return client.call(request, pb.PutResponse).header.revision


def left(client: Client, lease: int) -> pb.LeaseTimeToLiveResponse:
    """Return a lease's TimeToLive with its keys. Raises CallError."""
    request = pb.LeaseTimeToLiveRequest(ID=lease, keys=True)
    return client.call(request, pb.LeaseTimeToLiveResponse)


def leases(client: Client) -> list[int]:
    """Return the ids of all leases. Raises CallError."""
    found = client.call(pb.LeaseLeasesRequest(), pb.LeaseLeasesResponse)
    return [status.ID for status in found.leases]


def transfer(cluster: Cluster, to: ClusterMember) -> None:
    """Make a member the leader. Raises CallError."""
    request = pb.MoveLeaderRequest(targetID=cluster.status(to).header.member_id)
    cluster.client(cluster.leader()).call(request, pb.MoveLeaderResponse)
    cluster.wait_for(lambda: cluster.leader_now() is to, "leadership is not transferred")


class KeepAlives:
    """One stream of keep-alives. `renew` sends and waits; `send` only sends."""

    def __init__(self, endpoint: str, *metadata: tuple[str, str]) -> None:
        self._channel = grpc.insecure_channel(endpoint, options=OPTIONS)
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = self._channel.stream_stream(
            KEEP_ALIVE, response_deserializer=pb.LeaseKeepAliveResponse.FromString
        )
        self._call = method(iter(self._requests.get, None), metadata=metadata)

    def send(self, lease: int) -> None:
        self._requests.put(pb.LeaseKeepAliveRequest(ID=lease).SerializeToString())

    def receive(self) -> Any:
        """Return the next answer. Raises grpc.RpcError."""
        return next(self._call)

    def renew(self, lease: int) -> int:
        """Renew a lease and return its TTL. Raises grpc.RpcError."""
        self.send(lease)
        answer = self.receive()
        assert lease == answer.ID
        return int(answer.TTL)

    def finish(self) -> None:
        """Send no more."""
        self._requests.put(None)

    def rest(self) -> list[Any]:
        """Return all answers up to the end of the stream. Raises grpc.RpcError."""
        return list(self._call)

    def close(self) -> None:
        self.finish()
        self._call.cancel()
        self._channel.close()


@contextmanager
def keep_alives(endpoint: str, *metadata: tuple[str, str]) -> Iterator[KeepAlives]:
    """Open a stream of keep-alives for the length of the block."""
    stream = KeepAlives(endpoint, *metadata)
    try:
        yield stream
    finally:
        stream.close()


@contextmanager
def puts(endpoint: str, in_flight: int) -> Iterator[list[int]]:
    """Put random keys with many in flight for the length of the block; counts them in [0]."""
    count = [0]
    stop = threading.Event()

    def run() -> None:
        with Client(endpoint) as client:
            waiting: list[Callable[[], Answer]] = []
            number = 0
            while not stop.is_set():
                while len(waiting) < in_flight:
                    number += 1
                    key = b"load/%06d" % (number * 7919 % 100_000)
                    waiting.append(client.begin(pb.PutRequest(key=key, value=b"x" * 128)))
                count[0] += waiting.pop(0)().ok

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join(30)
