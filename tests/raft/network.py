"""A cluster in memory whose network loses, delays and repeats as it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raft.change import decode
from raft.config import Config
from raft.errors import RaftError
from raft.messages import Message
from raft.raw_node import RawNode, Ready
from raft.roles import ReadState
from raft.state import ConfState, Entry, EntryType, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage

ELECTION_TICK = 10


def never(_: Message) -> bool:
    """Lose nothing."""
    return False


class Server:
    """One member: a node, what it has stored, and what it has applied."""

    def __init__(self, id_: int, voters: Sequence[int], **settings: Any) -> None:
        self.id = id_
        self.settings = settings
        self.storage = MemoryStorage(conf_state=ConfState(voters=tuple(voters)))
        self.applied: list[Entry] = []
        self.applied_index = 0
        self.conf_state = ConfState(voters=tuple(voters))
        self.reads: list[ReadState] = []
        self.node = self._start()

    def _start(self) -> RawNode:
        settings = {"rng": lambda n: (self.id * 3) % n, **self.settings}
        return RawNode(
            Config(
                id=self.id,
                election_tick=ELECTION_TICK,
                heartbeat_tick=1,
                storage=self.storage,
                applied=self.applied_index,
                **settings,
            )
        )

    def restart(self) -> None:
        """Begin again from what is stored and applied, as after a crash."""
        self.storage.set_conf_state(self.conf_state)
        self.node = self._start()

    def datas(self) -> list[bytes]:
        """Return what was applied, without empty entries and configuration changes."""
        return [e.data for e in self.applied if e.data and e.type == EntryType.NORMAL]

    def pump(self) -> list[Message]:
        """Do what Readys ask for until there is none; return the messages."""
        messages: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            self.store(ready)
            messages.extend(ready.messages)
            self.reads.extend(ready.read_states)
            for entry in ready.committed_entries:
                self.apply(entry)
            self.node.advance(ready)
        return messages

    def store(self, ready: Ready) -> None:
        """Write a Ready."""
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        if ready.snapshot is not None:
            metadata = ready.snapshot.metadata
            self.storage.apply_snapshot(ready.snapshot)
            self.applied_index, self.conf_state = metadata.index, metadata.conf_state
            self.applied = [Entry(metadata.term, metadata.index, ready.snapshot.data)]
        self.storage.append(ready.entries)

    def apply(self, entry: Entry) -> None:
        """Apply one committed entry; they come without gaps."""
        assert entry.index == self.applied_index + 1, f"{entry} after {self.applied_index}"
        self.applied.append(entry)
        self.applied_index = entry.index
        if entry.type != EntryType.NORMAL:
            change = decode(entry.type, entry.data)
            self.conf_state = self.node.apply_conf_change(change)

    def compact(self) -> None:
        """Make a snapshot of all that is applied and drop the log before it."""
        self.storage.create_snapshot(self.applied_index, self.conf_state, b"snapshot")
        self.storage.compact(self.applied_index)


class Network:
    """Servers 1..n and the messages between them."""

    def __init__(self, count: int, **settings: Any) -> None:
        ids = range(1, count + 1)
        self.servers = {i: Server(i, ids, **settings) for i in ids}
        self.lose: Callable[[Message], bool] = never
        self.errors: list[RaftError] = []

    def __getitem__(self, id_: int) -> Server:
        return self.servers[id_]

    def settle(self) -> None:
        """Deliver what is not lost until nobody has anything to say."""
        waiting = self.collect()
        while waiting:
            for message in waiting:
                if not self.lose(message):
                    self.deliver(message)
            waiting = self.collect()

    def collect(self) -> list[Message]:
        """Let everybody work and return their messages."""
        return [m for server in self.servers.values() for m in server.pump()]

    def deliver(self, message: Message) -> None:
        """Deliver one message."""
        try:
            self.servers[message.to].node.step(message)
        except RaftError as error:
            self.errors.append(error)

    def elect(self, id_: int) -> RawNode:
        """Let a member campaign and win."""
        self.servers[id_].node.campaign()
        self.settle()
        assert self.leaders() == [id_]
        return self.servers[id_].node

    def tick(self, times: int = 1, *ids: int) -> None:
        """Let time pass, for all or for some, and messages with it."""
        for _ in range(times):
            for id_ in ids or self.servers:
                self.servers[id_].node.tick()
            self.settle()

    def isolate(self, *ids: int) -> None:
        """Cut these members off from everybody."""
        self.lose = lambda m: m.to in ids or m.from_ in ids

    def heal(self) -> None:
        """Lose nothing any more."""
        self.lose = never

    def leaders(self) -> list[int]:
        """Return who leads in the highest term there is."""
        term = max(server.node.raft.term for server in self.servers.values())
        return [i for i, s in self.servers.items() if s.node.is_leader and s.node.raft.term == term]

    def snapshot_of(self, id_: int) -> Snapshot:
        """Return a snapshot of what a member has applied."""
        server = self.servers[id_]
        last = server.applied[-1]
        return Snapshot(b"state", SnapshotMetadata(last.index, last.term, server.conf_state))
