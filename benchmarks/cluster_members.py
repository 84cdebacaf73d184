"""Clusters for the benchmark: some members of one server on loopback, seen as one thing to load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.members import Member, MemberError, Server
from benchmarks.payloads import frame
from benchmarks.unary import CallError, call, put
from etcdpb import rpc_pb2

STATUS_PATH: Final = "/etcdserverpb.Maintenance/Status"
LEADER_TIMEOUT: Final = 30.0
_PROBE_PAUSE: Final = 0.05


@dataclass(slots=True)
class Node(Member):
    """A member of a cluster. `peers` is its --initial-cluster, known when all have their ports."""

    name: str = ""
    peers: str = ""

    def command(self) -> list[str]:
        """Return the command line: the same flags for every server."""
        given = Member.command(self)
        given[given.index("--name") + 1] = self.name
        given[given.index("--initial-cluster") + 1] = self.peers
        return [*given, "--initial-cluster-token", self.server.label.replace(" ", "-")]


@dataclass(slots=True)
class Cluster:
    """Members of one server. `target` is "all" endpoints, or the "leader" alone."""

    server: Server
    nodes: list[Node]
    target: str = "all"
    _leader: Node | None = field(default=None)

    @classmethod
    def of(cls, server: Server, folder: Path, size: int, target: str) -> Cluster:
        """Prepare a cluster whose data is below a folder; nothing is started."""
        nodes = []
        for number in range(1, size + 1):
            home = folder / f"m{number}"
            home.mkdir(parents=True)
            nodes.append(Node(server, home, name=f"m{number}"))
        listed = ",".join(f"{node.name}=http://127.0.0.1:{node.peer_port}" for node in nodes)
        for node in nodes:
            node.peers = listed
        return cls(server, nodes, target)

    def start(self) -> None:
        """Start all members and wait for a leader. Raises MemberError."""
        began = [start_soon(node) for node in self.nodes]
        for wait in began:
            wait()
        self._leader = self.find_leader()

    def stop(self) -> None:
        """Stop all members."""
        for node in self.nodes:
            node.stop()

    def find_leader(self) -> Node:
        """Ask until one member says that it leads. Raises MemberError."""
        deadline = time.monotonic() + LEADER_TIMEOUT
        while time.monotonic() < deadline:
            for node in self.nodes:
                status = status_of(node.endpoint)
                if status is not None and status.leader == status.header.member_id:
                    return node
            time.sleep(_PROBE_PAUSE)
        raise MemberError(f"three members of {self.server.label} have no leader")

    @property
    def leader(self) -> Node:
        """The leader when it was last looked for. Raises MemberError before the start."""
        if self._leader is None:
            raise MemberError(f"{self.server.label} is not running")
        return self._leader

    @property
    def endpoint(self) -> str:
        """The endpoints to load, the leader's first."""
        if self.target == "leader":
            return self.leader.endpoint
        others = [node for node in self.nodes if node is not self.leader]
        return ",".join(node.endpoint for node in [self.leader, *others])

    def cpu_seconds(self) -> float:
        """Return user and system time of all members since they started."""
        return sum(node.cpu_seconds() for node in self.nodes)

    def pss_bytes(self) -> int:
        """Return the proportional set size of all members."""
        return sum(node.pss_bytes() for node in self.nodes)

    def metrics(self) -> dict[str, float]:
        """Return the leader's samples of /metrics."""
        return self.leader.metrics()


def start_soon(node: Node) -> Callable[[], object]:
    """Start a process; the function returned waits until it answers. Raises MemberError then."""
    node.spawn()
    return lambda: node.wait(put)


def status_of(endpoint: str) -> rpc_pb2.StatusResponse | None:
    """Return a member's status, None if it has no answer."""
    try:
        answer = call(endpoint, STATUS_PATH, frame(b""))
    except (CallError, OSError):
        return None
    return rpc_pb2.StatusResponse.FromString(answer)


@contextmanager
def clusters(
    servers: Sequence[Server], size: int, target: str, parent: Path | None = None
) -> Iterator[list[Cluster]]:
    """Give a started cluster of each server; stop and delete at the end. Raises MemberError."""
    with tempfile.TemporaryDirectory(prefix="trouped-bench-", dir=parent) as folder:
        made: list[Cluster] = []
        try:
            for number, server in enumerate(servers):
                home = Path(folder) / f"{number}-{server.label.replace(' ', '-')}"
                cluster = Cluster.of(server, home, size, target)
                made.append(cluster)
                cluster.start()
            yield made
        finally:
            for cluster in made:
                cluster.stop()
