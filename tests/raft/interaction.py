"""A whole cluster driven step by step from a script, as etcd-io/raft's InteractionEnv does.

Commands: add-nodes, campaign, compact, deliver-msgs, process-ready, process-append-thread,
process-apply-thread, log-level, raft-log, raft-state, set-randomized-election-timeout, stabilize,
status, tick-election, tick-heartbeat, transfer-leadership, forget-leader, send-snapshot, propose,
propose-conf-change, report-unreachable, read-index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from raft.change import ConfChange, ConfChangeTransition, ConfChangeV2, as_v2, decode, parse_changes
from raft.config import Config, ReadOnlyOption
from raft.describe import describe_entries, describe_message, describe_ready
from raft.errors import RaftError
from raft.messages import (
    Message,
    MsgSnap,
    MsgStorageAppend,
    MsgStorageApply,
    is_local_target,
)
from raft.raw_node import RawNode
from raft.size import NO_LIMIT
from raft.state import ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage
from tests.datadriven import Command

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
ELECTION_TICK = 3
HEARTBEAT_TICK = 1


class SnapshottingStorage(MemoryStorage):
    """Its snapshot is always of the newest state applied."""

    __slots__ = ("history",)

    def __init__(self, first: Snapshot) -> None:
        super().__init__()
        self.history = [first]

    def snapshot(self) -> Snapshot:
        return self.history[-1]


@dataclass
class Member:
    """One node with its storage and its storage threads' work."""

    id: int
    node: RawNode
    storage: SnapshottingStorage
    is_async: bool
    append_work: list[MsgStorageAppend] = field(default_factory=list)
    apply_work: list[MsgStorageApply] = field(default_factory=list)


def is_local(message: Message) -> bool:
    """Tell whether a message can't get lost, since it never leaves its member."""
    return (
        message.from_ == message.to or is_local_target(message.from_) or is_local_target(message.to)
    )


class Environment:
    """The cluster, the messages under way, and what is said meanwhile."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.messages: list[Message] = []
        self.level = 0
        self.output: list[str] = []

    # Output

    def say(self, text: str) -> None:
        """Add lines to the output."""
        if self.level < len(LEVELS) - 1:
            self.output.append(text if text.endswith("\n") else text + "\n")

    def trace(self, level: int, text: str) -> None:
        """Take what a node tells."""
        if level >= self.level:
            self.say(f"{LEVELS[level]} {text}")

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """Indent what is said within, under a title."""
        self.say(f"> {title}")
        outer, self.output = self.output, []
        yield
        inner = "".join(self.output)
        self.output = outer + [f"  {line}\n" for line in inner.splitlines()]

    # Commands

    def handle(self, command: Command) -> str:
        """Run one command and return what was said."""
        self.output = []
        name = command.name.replace("-", "_")
        run: Callable[[Command], None] = getattr(self, f"on_{name}")
        try:
            run(command)
        except RaftError as error:
            if self.level == len(LEVELS) - 1:
                return str(error)
            self.output.append(str(error))
        return "".join(self.output)

    def member(self, command: Command, place: int = 0) -> Member:
        """Return the member an argument names."""
        return self.members[int(command.args[place])]

    def each(self, command: Command, what: str, run: Callable[[Member], None]) -> None:
        """Run for each member named; with a title if there are several."""
        members = [self.members[int(arg)] for arg in command.args]
        for member in members:
            if len(members) > 1:
                with self.section(f"{member.id} {what}"):
                    run(member)
            else:
                run(member)

    def on_log_level(self, command: Command) -> None:
        self.level = LEVELS.index(command.args[0].upper())

    def on_add_nodes(self, command: Command) -> None:
        def ids(key: str) -> tuple[int, ...]:
            return tuple(int(value) for value in command.options.get(key, []))

        index = int(command.option("index", "0"))
        conf_state = ConfState(voters=ids("voters"), learners=ids("learners"))
        metadata = SnapshotMetadata(index, 1 if index else 0, conf_state)
        snapshot = Snapshot(command.option("content").encode(), metadata)
        for _ in range(int(command.args[0])):
            self._add_node(command, snapshot)

    def _add_node(self, command: Command, snapshot: Snapshot) -> None:
        def flag(key: str) -> bool:
            return command.option(key) == "true"

        id_ = len(self.members) + 1
        storage = SnapshottingStorage(snapshot)
        if snapshot.metadata.index:
            storage.apply_snapshot(snapshot)
        lease_based = command.option("read-only", "safe") == "lease-based"
        config = Config(
            id=id_,
            election_tick=ELECTION_TICK,
            heartbeat_tick=HEARTBEAT_TICK,
            storage=storage,
            rng=lambda n: 0,
            applied=snapshot.metadata.index,
            async_storage_writes=flag("async-storage-writes"),
            max_committed_size_per_ready=int(command.option("max-committed-size-per-ready", "0")),
            max_inflight_msgs=int(command.option("inflight", str(1 << 31))),
            check_quorum=flag("checkquorum"),
            pre_vote=flag("prevote"),
            read_only_option=ReadOnlyOption.LEASE_BASED if lease_based else ReadOnlyOption.SAFE,
            disable_conf_change_validation=flag("disable-conf-change-validation"),
            step_down_on_removal=flag("step-down-on-removal"),
            trace=self.trace,
        )
        member = Member(id_, RawNode(config), storage, config.async_storage_writes)
        self.members[id_] = member

    def on_campaign(self, command: Command) -> None:
        self.member(command).node.campaign()

    def on_propose(self, command: Command) -> None:
        self.member(command).node.propose((command.args[1].encode(),))

    def on_propose_conf_change(self, command: Command) -> None:
        changes = parse_changes(command.input)
        node = self.member(command).node
        if command.option("v1") == "true":
            (single,) = changes
            node.propose_conf_change(ConfChange(single.type, single.node_id))
            return
        transition = {
            "auto": ConfChangeTransition.AUTO,
            "implicit": ConfChangeTransition.JOINT_IMPLICIT,
            "explicit": ConfChangeTransition.JOINT_EXPLICIT,
        }[command.option("transition", "auto")]
        node.propose_conf_change(ConfChangeV2(changes, transition))

    def on_read_index(self, command: Command) -> None:
        self.member(command).node.read_index(command.args[1].encode())

    def on_transfer_leadership(self, command: Command) -> None:
        self.members[int(command.option("from"))].node.transfer_leader(int(command.option("to")))

    def on_forget_leader(self, command: Command) -> None:
        self.member(command).node.forget_leader()

    def on_report_unreachable(self, command: Command) -> None:
        self.member(command).node.report_unreachable(self.member(command, 1).id)

    def on_send_snapshot(self, command: Command) -> None:
        sender, receiver = self.member(command), self.member(command, 1)
        term = sender.node.status().term
        message = MsgSnap(receiver.id, sender.id, term, sender.storage.snapshot())
        self.messages.append(message)
        self.say(describe_message(message))

    def on_set_randomized_election_timeout(self, command: Command) -> None:
        raft = self.member(command).node.raft
        raft.randomized_election_timeout = int(command.option("timeout"))

    def on_tick_election(self, command: Command) -> None:
        for _ in range(ELECTION_TICK):
            self.member(command).node.tick()

    def on_tick_heartbeat(self, command: Command) -> None:
        for _ in range(HEARTBEAT_TICK):
            self.member(command).node.tick()

    def on_compact(self, command: Command) -> None:
        self.member(command).storage.compact(int(command.args[1]))
        self.on_raft_log(command)

    def on_raft_log(self, command: Command) -> None:
        storage = self.member(command).storage
        first, last = storage.first_index(), storage.last_index()
        if last < first:
            self.say(f"log is empty: first index={first}, last index={last}")
        else:
            self.say(describe_entries(storage.entries(first, last + 1, NO_LIMIT)))

    def on_raft_state(self, command: Command) -> None:
        for member in self.members.values():
            status = member.node.status()
            kind = "Voter" if member.id in status.config.all_voters() else "Non-Voter"
            self.say(
                f"{member.id}: {status.raft_state} ({kind}) Term:{status.term} Lead:{status.lead}"
            )

    def on_status(self, command: Command) -> None:
        for id_, progress in self.member(command).node.status().progress.items():
            self.say(f"{id_}: {progress}")

    # The network

    def on_deliver_msgs(self, command: Command) -> None:
        kind = command.option("type")
        count = 0
        for id_ in map(int, command.args):
            count += self.deliver(id_, kind=kind)
        for id_ in map(int, command.options.get("drop", [])):
            count += self.deliver(id_, kind=kind, drop=True)
        if not count:
            self.say("no messages")

    def deliver(self, to: int, *, kind: str = "", drop: bool = False) -> int:
        """Deliver (or drop) what is under way to a member; return how many messages."""
        chosen = [m for m in self.messages if self._concerns(m, to, kind, drop)]
        self.messages = [m for m in self.messages if not self._concerns(m, to, kind, drop)]
        for message in chosen:
            self.say(("dropped: " if drop else "") + describe_message(message))
            if drop:
                continue
            try:
                self.members[to].node.step(message)
            except RaftError as error:
                self.say(str(error))
        return len(chosen)

    @staticmethod
    def _concerns(message: Message, to: int, kind: str, drop: bool) -> bool:
        if message.to != to or (kind and type(message).__name__ != kind):
            return False
        return not (drop and is_local(message))

    # The members' work

    def on_process_ready(self, command: Command) -> None:
        self.each(command, "handling Ready", self.process_ready)

    def on_process_append_thread(self, command: Command) -> None:
        self.each(command, "processing append thread", self.process_append)

    def on_process_apply_thread(self, command: Command) -> None:
        self.each(command, "processing apply thread", self.process_apply)

    def process_ready(self, member: Member) -> None:
        """Take a Ready and do what it asks for, or queue it for the storage threads."""
        ready = member.node.ready()
        self.say(describe_ready(ready))
        if not member.is_async:
            self._append(member, ready.hard_state, ready.entries, ready.snapshot)
            self._apply(member, ready.committed_entries)
        for message in ready.messages:
            if isinstance(message, MsgStorageAppend):
                member.append_work.append(message)
            elif isinstance(message, MsgStorageApply):
                member.apply_work.append(message)
            else:
                self.messages.append(message)
        if not member.is_async:
            member.node.advance(ready)

    def process_append(self, member: Member) -> None:
        """Do one piece of the append thread's work."""
        if not member.append_work:
            self.say("no append work to perform")
            return
        message = member.append_work.pop(0)
        self.say("Processing:\n" + describe_message(replace(message, responses=())))
        self._append(member, message.hard_state, message.entries, message.snapshot)
        self._respond(message.responses)

    def process_apply(self, member: Member) -> None:
        """Do one piece of the apply thread's work."""
        if not member.apply_work:
            self.say("no apply work to perform")
            return
        message = member.apply_work.pop(0)
        self.say("Processing:\n" + describe_message(replace(message, responses=())))
        self._apply(member, message.entries)
        self._respond(message.responses)

    def _respond(self, responses: Sequence[Message]) -> None:
        self.say("Responses:")
        for response in responses:
            self.say(describe_message(response))
        self.messages.extend(responses)

    @staticmethod
    def _append(
        member: Member,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: Snapshot | None,
    ) -> None:
        if hard_state is not None:
            member.storage.set_hard_state(hard_state)
        if snapshot is not None:
            assert not entries, "can't apply snapshot and entries at the same time"
            member.storage.apply_snapshot(snapshot)
        member.storage.append(entries)

    @staticmethod
    def _apply(member: Member, entries: Sequence[Entry]) -> None:
        history = member.storage.history
        for entry in entries:
            last = history[-1]
            conf_state, update = last.metadata.conf_state, entry.data
            if entry.type != EntryType.NORMAL:
                change = decode(entry.type, entry.data)
                update = as_v2(change).context
                conf_state = member.node.apply_conf_change(change)
            metadata = SnapshotMetadata(entry.index, entry.term, conf_state)
            history.append(Snapshot(last.data + update, metadata))

    def on_stabilize(self, command: Command) -> None:
        before = self.level
        if level := command.option("log-level"):
            self.level = LEVELS.index(level.upper())
        ids = [int(arg) for arg in command.args] or list(self.members)
        members = [self.members[id_] for id_ in ids]
        while self._stabilize_once(members):
            pass
        self.level = before

    def _stabilize_once(self, members: Sequence[Member]) -> bool:
        """Let everybody work once; False if there was nothing to do."""
        busy = False
        for member in members:
            if member.node.has_ready():
                busy = True
                with self.section(f"{member.id} handling Ready"):
                    self.process_ready(member)
        for member in members:
            if any(message.to == member.id for message in self.messages):
                busy = True
                with self.section(f"{member.id} receiving messages"):
                    self.deliver(member.id)
        for member in members:
            if member.append_work:
                busy = True
                with self.section(f"{member.id} processing append thread"):
                    while member.append_work:
                        self.process_append(member)
        for member in members:
            if member.apply_work:
                busy = True
                with self.section(f"{member.id} processing apply thread"):
                    while member.apply_work:
                        self.process_apply(member)
        return busy
