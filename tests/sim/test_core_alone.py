"""Seeded runs of raft's core alone, apart from the raft node that drives it: both modes of storage.

The simulation of whole members (cluster.py) knows only asynchronous writes, as the raft node does.

Safety: messages are lost, repeated and reordered, members crash and lose what was not synced,
leadership and membership change. After each step:
- at most one leader per term (election safety);
- whatever any member has applied at an index, all others have applied there too;
- what a member has promised (its term and vote) it keeps.

Liveness: the world is well again; then somebody leads and everybody applies the same.
"""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from raft.change import ConfChangeV2, as_v2, decode, parse_changes
from raft.conf_change import next_conf_state
from raft.config import Config
from raft.errors import ConfChangeError, RaftError, SnapshotTemporarilyUnavailableError
from raft.messages import (
    AFTER_APPEND,
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    Message,
    MsgSnap,
    MsgStorageAppend,
    MsgStorageApply,
)
from raft.raw_node import RawNode
from raft.size import NO_LIMIT
from raft.state import ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage

MEMBERS = 5
VOTERS = (1, 2, 3)
STEPS = 1500


class Disk(MemoryStorage):
    """What survives a crash: everything synced, and the commit index perhaps."""

    __slots__ = ("applied", "applied_index", "applying", "conf_state")

    def __init__(self) -> None:
        super().__init__(conf_state=ConfState(voters=VOTERS))
        self.applied_index = 0
        self.conf_state = ConfState(voters=VOTERS)
        self.applied: dict[int, tuple[int, bytes]] = {}
        self.applying = False

    def snapshot(self) -> Snapshot:
        """Return a snapshot of now: an older one may lack the member it is sent to."""
        if self.applying:
            raise SnapshotTemporarilyUnavailableError
        index = self.applied_index
        return Snapshot(b"", SnapshotMetadata(index, self.term(index), self.conf_state))


class Machine:
    """A member: a node, a disk, and in asynchronous mode two queues of work."""

    def __init__(self, id_: int, chance: random.Random, is_async: bool) -> None:
        self.id = id_
        self.chance = chance
        self.is_async = is_async
        self.disk = Disk()
        self.append_work: list[MsgStorageAppend] = []
        self.apply_work: list[MsgStorageApply] = []
        self.node = self._start()

    def _start(self) -> RawNode:
        return RawNode(
            Config(
                id=self.id,
                election_tick=10,
                heartbeat_tick=2,
                storage=self.disk,
                applied=self.disk.applied_index,
                rng=self.chance.randrange,
                async_storage_writes=self.is_async,
                max_size_per_msg=self.chance.choice([0, 50, NO_LIMIT]),
                max_committed_size_per_ready=40,
                max_inflight_msgs=3,
                pre_vote=self.chance.random() < 0.5,
                check_quorum=self.chance.random() < 0.5,
            )
        )

    def crash(self) -> None:
        """Lose everything that is not on disk, and come back."""
        self.append_work.clear()
        self.apply_work.clear()
        hard_state, _ = self.disk.initial_state()
        if self.chance.random() < 0.5:
            # A commit index alone is not synced.
            floor = self.disk.first_index() - 1
            commit = self.chance.randint(min(floor, hard_state.commit), hard_state.commit)
            self.disk.set_hard_state(HardState(hard_state.term, hard_state.vote, commit))
        self.disk.set_conf_state(self.disk.conf_state)
        self.node = self._start()

    def work(self) -> list[Message]:
        """Take one Ready and do its work, or queue it; return what leaves the member."""
        if not self.node.has_ready():
            return []
        ready = self.node.ready()
        if self.is_async:
            return self._queue(ready.messages)
        early = [m for m in ready.messages if type(m) not in AFTER_APPEND]
        if self.chance.random() < 0.03:
            # Crashes between sending and writing: only what need not wait has left.
            self.crash()
            return early
        self.write(ready.hard_state, ready.entries, ready.snapshot)
        self.apply(ready.committed_entries)
        self.node.advance(ready)
        return list(ready.messages)

    def _queue(self, messages: tuple[Message, ...]) -> list[Message]:
        leaving: list[Message] = []
        for message in messages:
            if message.to == LOCAL_APPEND_THREAD:
                assert isinstance(message, MsgStorageAppend)
                self.append_work.append(message)
            elif message.to == LOCAL_APPLY_THREAD:
                assert isinstance(message, MsgStorageApply)
                self.apply_work.append(message)
            else:
                leaving.append(message)
        return leaving

    def storage_threads(self) -> list[Message]:
        """Do one piece of each queue's work; what is for ourselves is delivered at once."""
        responses: list[Message] = []
        if self.append_work and self.chance.random() < 0.5:
            append = self.append_work.pop(0)
            self.write(append.hard_state, append.entries, append.snapshot)
            responses.extend(append.responses)
        if self.apply_work and self.chance.random() < 0.5:
            apply = self.apply_work.pop(0)
            self.apply(apply.entries)
            responses.extend(apply.responses)
        for response in responses:
            if response.to == self.id:
                self.node.step(response)
        return [r for r in responses if r.to != self.id]

    def write(
        self,
        hard_state: HardState | None,
        entries: tuple[Entry, ...],
        snapshot: Snapshot | None,
    ) -> None:
        """Make it durable."""
        storage = self.disk
        if hard_state is not None:
            before, _ = storage.initial_state()
            assert hard_state.term >= before.term
            if hard_state.term == before.term:
                assert before.vote in (0, hard_state.vote), "voted twice in a term"
            storage.set_hard_state(hard_state)
        if snapshot is not None:
            metadata = snapshot.metadata
            storage.apply_snapshot(snapshot)
            self.disk.applied_index, self.disk.conf_state = metadata.index, metadata.conf_state
        storage.append(entries)

    def apply(self, entries: tuple[Entry, ...]) -> None:
        """Apply committed entries; they are durable here and come without gaps."""
        disk = self.disk
        for entry in entries:
            if self.is_async and entry.index <= disk.applied_index:
                continue  # A snapshot was installed while this waited.
            assert entry.index == disk.applied_index + 1
            assert disk.term(entry.index) == entry.term
            disk.applied_index = entry.index
            disk.applied[entry.index] = (entry.term, entry.data)
            if entry.type != EntryType.NORMAL:
                change = decode(entry.type, entry.data)
                disk.applying = True
                try:
                    disk.conf_state = self.node.apply_conf_change(change)
                except ConfChangeError:
                    assert as_v2(change).changes
                disk.applying = False

    def compact(self) -> None:
        """Drop the log up to what is applied."""
        if self.disk.applied_index >= self.disk.first_index():
            self.disk.compact(self.disk.applied_index)


class World:
    """All members, the messages under way, and what must never happen."""

    def __init__(self, seed: int, is_async: bool) -> None:
        self.chance = random.Random(seed)
        self.machines = {
            i: Machine(i, random.Random(seed * 31 + i), is_async) for i in range(1, MEMBERS + 1)
        }
        self.network: list[Message] = []
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.checked: dict[int, int] = dict.fromkeys(self.machines, 0)
        self.proposed = 0

    def step(self) -> None:
        """Let one thing happen."""
        chance = self.chance
        machine = self.machines[chance.randint(1, MEMBERS)]
        dice = chance.random()
        if dice < 0.45:
            self.deliver()
        elif dice < 0.75:
            self.network.extend(machine.work())
            self.network.extend(machine.storage_threads())
        elif dice < 0.88:
            machine.node.tick()
        elif dice < 0.96:
            self.propose(machine)
        elif dice < 0.97:
            machine.crash()
        elif dice < 0.98:
            machine.compact()
        elif dice < 0.99:
            machine.node.transfer_leader(chance.randint(1, MEMBERS))
        else:
            self.change(machine)
        if len(self.network) > 200:
            chance.shuffle(self.network)
            for message in self.network[100:]:
                self.report(message, ok=False)
            del self.network[100:]
        self.check()

    def deliver(self) -> None:
        """Deliver, lose or repeat any message under way."""
        if not self.network:
            return
        place = self.chance.randrange(len(self.network))
        dice = self.chance.random()
        message = self.network[place] if dice < 0.05 else self.network.pop(place)
        if dice < 0.9:
            self.give(message)
        else:
            self.report(message, ok=False)

    def give(self, message: Message) -> None:
        """Deliver one message."""
        # Proposals are dropped, and strangers answer.
        with suppress(RaftError):
            self.machines[message.to].node.step(message)
        self.report(message, ok=True)

    def report(self, message: Message, *, ok: bool) -> None:
        """Tell the sender of a snapshot what became of it."""
        if isinstance(message, MsgSnap):
            self.machines[message.from_].node.report_snapshot(message.to, ok)

    def propose(self, machine: Machine) -> None:
        """Propose something new at any member."""
        self.proposed += 1
        with suppress(RaftError):
            machine.node.propose((b"%d" % self.proposed,))

    def change(self, machine: Machine) -> None:
        """Propose a change of the configuration.

        Who is removed may stop to take part before the others know, so no more voters go at once
        than the configuration can lose.
        """
        chance = self.chance
        ids = chance.sample(range(1, MEMBERS + 1), chance.randint(1, 3))
        text = " ".join(f"{chance.choice('vvvlr')}{id_}" for id_ in ids)
        change = ConfChangeV2(parse_changes(text))
        config = machine.node.raft.tracker.config
        with suppress(RaftError):
            if not config.voters_outgoing:
                voters = set(next_conf_state(config.conf_state(), change).voters)
                if len(voters) < 3 or len(config.voters - voters) > (len(config.voters) - 1) // 2:
                    return
            machine.node.propose_conf_change(change)

    def check(self) -> None:
        """Assert what must hold at any time."""
        for id_, machine in self.machines.items():
            raft = machine.node.raft
            if machine.node.is_leader:
                assert self.leaders.setdefault(raft.term, id_) == id_, f"term {raft.term}"
            log = raft.log
            assert log.applied <= log.applying <= log.committed <= log.last_index()
            applied = machine.disk.applied
            for index in range(self.checked[id_] + 1, machine.disk.applied_index + 1):
                if index in applied:
                    assert self.committed.setdefault(index, applied[index]) == applied[index]
            self.checked[id_] = machine.disk.applied_index

    def heal(self) -> None:
        """Lose nothing any more, until all voters have applied the same."""
        for _ in range(600):
            for machine in self.machines.values():
                machine.node.tick()
            for _ in range(20):
                for machine in self.machines.values():
                    self.network.extend(machine.work())
                    self.network.extend(machine.storage_threads())
                waiting, self.network = self.network, []
                for message in waiting:
                    self.give(message)
                self.check()
            if self.agreed():
                return
        raise AssertionError("no agreement in a world that is well")

    def agreed(self) -> bool:
        """Tell whether all members of the leader's configuration have applied its whole log."""
        leading = [m for m in self.machines.values() if m.node.is_leader]
        if not leading:
            return False
        leader = max(leading, key=lambda m: m.node.raft.term)
        config = leader.node.raft.tracker.config
        last = leader.node.raft.log.last_index()
        members = config.all_voters() | config.learners
        return not config.voters_outgoing and all(
            self.machines[i].disk.applied_index == last for i in members
        )


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_committed_is_lost_and_the_cluster_recovers(seed: int, is_async: bool) -> None:
    world = World(seed, is_async)

    for _ in range(STEPS):
        world.step()
    world.heal()

    assert world.committed


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_worlds(seed: int, is_async: bool) -> None:
    world = World(seed, is_async)

    for _ in range(4 * STEPS):
        world.step()
    world.heal()

    assert world.committed
