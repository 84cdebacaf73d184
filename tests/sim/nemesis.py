"""Whoever does all the harm: faults at random times, of kinds that each run chooses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from actors.messages import TransferLeader
from kv.cluster import Kind, encode_member_change
from kv.cluster import Member as MemberFacts
from raft.change import (
    Change,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
)
from raft.conf_change import next_conf_state
from raft.errors import RaftError
from tests.sim.clients import Compacting

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.member import Member
    from tests.sim.process import Process

MEMBERS_MAX = 6
STALKED = ("snapshot recorded", "snapshot received", "leader elected")
ACTORS = ("raft-node", "applier", "gateway-0", "snapshotter", "transport")


class Nemesis:
    """Does one thing after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._chance = cluster.world.chance
        self._stopped = False
        everything: list[Callable[[], None]] = [
            self._partition,
            self._cut_one_way,
            self._weather,
            self._kill_actor,
            self._kill_actor,
            self._kill_soon,
            self._kill_soon,
            self._kill_member,
            self._lose_power,
            self._lose_power_soon,
            self._lose_power_soon,
            self._black_out,
            self._freeze,
            self._slow_disk,
            self._fail_sync,
            self._skew,
            self._break_stream,
            self._transfer,
            self._leave_behind,
            self._leave_behind,
            self._compact,
            self._change_members,
            self._change_members,
            self._isolate_leader,
            self._kill_leader_node,
            self._stalk,
            self._stalk,
            self._echo,
        ]
        count = self._chance.choice((4, 10, len(everything)))
        self._actions = self._chance.sample(everything, count)
        self._pause = self._chance.choice((0.15, 0.5, 1.5))
        self._stalked = ""
        self._world.on_point = self._reached

    def start(self) -> None:
        """Begin. A cluster of one is often given a learner at once: a case of its own."""
        self._later()
        if len(self._cluster.members) == 1 and self._world.often(0.6):
            self._actions += [self._freeze]
            self._world.after(0.5, self._learner)

    def stop(self) -> None:
        """Do nothing any more."""
        self._stopped = True

    def _later(self) -> None:
        self._world.after(self._chance.expovariate(1 / self._pause), self._act)

    def _act(self) -> None:
        if not self._stopped:
            self._chance.choice(self._actions)()
            self._later()

    def heal(self) -> None:
        """Undo every fault."""
        self._cluster.network.calm()
        for member in self._cluster.members.values():
            member.set_rate(1.0)
            member.slow_sync = 0.0
            member.files.failing_syncs = 0
            member.lose_power_in = -1
            for process in member.processes.values():
                process.die_in = -1
            member.start_all()

    # --- choosing ---------------------------------------------------------------------------------

    def _member(self) -> Member:
        return self._chance.choice(list(self._cluster.members.values()))

    def _process(self, name: str = "") -> Process:
        return self._member().processes[name or self._chance.choice(ACTORS)]

    # --- the network ------------------------------------------------------------------------------

    def _partition(self) -> None:
        members = list(self._cluster.members)
        side = self._chance.sample(members, self._chance.randint(1, max(1, len(members) - 1)))
        self._world.fault("partition", f"{sorted(side)}")
        self._cluster.network.holding = self._chance.choice((0.0, 0.0, 0.3))
        self._cluster.network.partition(side)
        self._world.after(self._chance.uniform(0.1, 5.0), self._cluster.network.mend)

    def _isolate_leader(self) -> None:
        leader = self._cluster.leader()
        if leader is not None:
            self._world.fault("leader isolated", f"{leader}")
            self._cluster.network.partition([leader.id])
            self._world.after(self._chance.uniform(0.5, 5.0), self._cluster.network.mend)
            if self._world.often(0.6):
                self._cluster.lost(leader)  # its connections were reset, and it does not know

    def _cut_one_way(self) -> None:
        one, other = self._member(), self._member()
        if one is not other:
            self._world.fault("one-way cut", f"{one} -> {other}")
            self._cluster.network.cut(one.id, other.id)
            self._world.after(self._chance.uniform(0.1, 4.0), self._cluster.network.mend)

    def _weather(self) -> None:
        network = self._cluster.network
        network.loss = self._chance.choice((0.0, 0.01, 0.1, 0.5))
        network.repeats = self._chance.choice((0.0, 0.01, 0.2))
        network.slowness = self._chance.choice((0.0, 0.01, 0.1, 0.6))
        text = f"loss {network.loss} repeats {network.repeats} slowness {network.slowness}"
        self._world.fault("weather", text)

    # --- processes and machines -------------------------------------------------------------------

    def _kill_actor(self) -> None:
        process = self._process()
        if process.alive:
            self._world.fault(f"kill {process.name}", f"{process.member}")
            process.kill()

    def _kill_leader_node(self) -> None:
        leader = self._cluster.leader()
        if leader is not None:
            self._world.fault("kill raft-node", f"{leader} that leads")
            leader.processes["raft-node"].kill()

    def _kill_soon(self) -> None:
        process = self._process(self._chance.choice(("raft-node", "raft-node", "applier", "")))
        if process.alive:
            self._world.fault(f"kill {process.name}", f"{process.member}, soon")
            process.die_in = self._chance.randrange(12)

    def _kill_member(self) -> None:
        member = self._member()
        if member.power:
            self._world.fault("kill member", f"{member}")
            member.kill(power=False)
            self._world.after(self._chance.uniform(0.1, 3.0), member.start_all)

    def _lose_power(self) -> None:
        member = self._member()
        if member.power:
            self._world.fault("power loss", f"{member}")
            member.kill(power=True)
            self._world.after(self._chance.uniform(0.1, 3.0), member.start_all)

    def _lose_power_soon(self) -> None:
        member = self._member()
        if member.power:
            self._world.fault("power loss", f"{member}, soon")
            member.lose_power_soon(self._chance.randrange(15))

    def _black_out(self) -> None:
        self._world.fault("power loss of all")
        for member in self._cluster.members.values():
            if member.power:
                member.kill(power=True)
            self._world.after(self._chance.uniform(0.1, 2.0), member.start_all)

    def _freeze(self) -> None:
        seconds = self._chance.choice((0.05, 0.5, 2.0))
        member = self._member()
        whole = self._world.often(0.3)
        self._world.fault("freeze", f"{member} for {seconds} s, whole: {whole}")
        alone = self._chance.choice((*ACTORS, "applier", ""))
        for process in member.processes.values():
            if whole or process.name == alone or (not alone and self._world.often(0.3)):
                process.freeze(seconds)

    def _slow_disk(self) -> None:
        member = self._member()
        member.slow_sync = self._chance.choice((0.0, 0.05, 0.5))
        self._world.fault("slow disk", f"{member} {member.slow_sync} s")

    def _fail_sync(self) -> None:
        member = self._member()
        self._world.fault("failing sync", f"{member}")
        member.files.failing_syncs = 1

    def _skew(self) -> None:
        member = self._member()
        member.set_rate(self._chance.choice((0.5, 0.9, 1.0, 1.1, 2.0)))
        self._world.fault("clock skew", f"{member} runs {member.rate}")

    def _break_stream(self) -> None:
        self._member().edges.break_one()

    def _echo(self) -> None:
        """Kill a gateway whose proposals are to come once more, when another has its slot."""
        member = self._member()
        self._world.fault("gateway killed, its proposals echo", f"{member}")
        echoing = self._cluster.network.echoing
        echoing.add(member.id)
        self._world.after(0.8, echoing.discard, member.id)
        self._world.after(0.8, self._kill_gateway, member)

    def _kill_gateway(self, member: Member) -> None:
        process = member.processes["gateway-0"]
        if process.alive:
            process.kill()

    def _stalk(self) -> None:
        """Wait for somebody to get somewhere, and strike then."""
        self._stalked = self._chance.choice(STALKED)

    def _reached(self, name: str, member: Member) -> None:
        if name != self._stalked or self._stopped or not member.power:
            return
        self._stalked = ""
        dice = self._chance.random()
        if dice < 0.4:
            self._world.fault("power loss", f"{member}, after: {name}")
            member.lose_power_soon(self._chance.randrange(4))
        elif dice < 0.7:
            self._world.fault("kill raft-node", f"{member}, after: {name}")
            member.processes["raft-node"].die_in = self._chance.randrange(4)
        else:
            self._world.fault("partition", f"{member}, after: {name}")
            self._cluster.network.partition([member.id])
            self._world.after(self._chance.uniform(0.5, 4.0), self._cluster.network.mend)

    # --- what operators do ------------------------------------------------------------------------

    def _transfer(self) -> None:
        leader, to = self._cluster.leader(), self._member()
        if leader is not None:
            self._world.fault("leader transfer", f"{leader} -> {to}")
            leader.processes["raft-node"].deliver(TransferLeader(to.id))

    def _leave_behind(self) -> None:
        """Cut a follower off for long, and have the leader let go of its log meanwhile."""
        leader, member = self._cluster.leader(), self._member()
        if leader is None or leader is member:
            return
        self._world.fault("follower left behind", f"{member}")
        self._cluster.network.partition([member.id])
        seconds = self._chance.uniform(1.0, 4.0)
        self._world.after(seconds * 0.9, self._checkpoint, leader)
        self._world.after(seconds, self._cluster.network.mend)

    def _checkpoint(self, member: Member) -> None:
        process = member.processes["snapshotter"]
        if process.alive:
            with process.running():
                process.actor.checkpoint()

    def _compact(self) -> None:
        member = self._member()
        process = member.processes["gateway-0"]
        if process.alive:
            revision = member.database.store.committed.state.progress.revision
            self._world.fault("compaction", f"{member} at {revision}")
            with process.running():
                process.actor.compact(Compacting(), max(1, revision - self._chance.randrange(20)))

    # --- members ----------------------------------------------------------------------------------

    def _change_members(self) -> None:
        leader = self._cluster.leader()
        if leader is None or leader.node is None:
            return
        config = leader.node.core.raft.tracker.config
        change: Change | None
        if config.voters_outgoing:
            change = None
        elif len(self._cluster.members) < MEMBERS_MAX and self._world.often(0.3):
            change = self._join()
        elif self._world.often(0.4):
            change = self._joint()
        else:
            change = self._single(config.voters, config.learners)
        if change is not None and not self._is_bearable(config, change):
            return
        self._world.fault("membership change", f"{change}")
        process = self._process("raft-node") if self._world.often(0.2) else None
        if process is None or not process.alive:
            process = leader.processes["raft-node"]
        with process.running(), suppress(RaftError):
            process.actor.core.propose_conf_change(change)
        process.poke()

    def _join(self) -> Change:
        id_ = max(self._cluster.members) + 1
        self._cluster.add_member(id_, [])
        kind = self._chance.choice((ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE))
        facts = MemberFacts(id_, is_learner=kind == ConfChangeType.ADD_LEARNER_NODE)
        return ConfChange(kind, id_, encode_member_change(("add", facts)))

    def _learner(self) -> None:
        leader = self._cluster.leader()
        if leader is None or leader.node is None or self._stopped:
            return
        id_ = max(self._cluster.members) + 1
        self._cluster.add_member(id_, [])
        context = encode_member_change(("add", MemberFacts(id_, is_learner=True)))
        change = ConfChange(ConfChangeType.ADD_LEARNER_NODE, id_, context)
        process = leader.processes["raft-node"]
        with process.running(), suppress(RaftError):
            process.actor.core.propose_conf_change(change)
        process.poke()

    def _single(self, voters: frozenset[int], learners: frozenset[int]) -> Change:
        id_ = self._member().id
        kind: Kind
        if id_ in learners:
            kind, type_ = "promote", ConfChangeType.ADD_NODE
        elif id_ in voters:
            kind, type_ = "remove", ConfChangeType.REMOVE_NODE
        else:
            kind, type_ = "add", ConfChangeType.ADD_NODE
        return ConfChange(type_, id_, encode_member_change((kind, MemberFacts(id_))))

    def _joint(self) -> Change:
        chance = self._chance
        ids = chance.sample(
            list(self._cluster.members), min(len(self._cluster.members), chance.randint(1, 3))
        )
        kinds = (
            ConfChangeType.ADD_NODE,
            ConfChangeType.ADD_NODE,
            ConfChangeType.ADD_LEARNER_NODE,
            ConfChangeType.REMOVE_NODE,
        )
        changes = tuple(ConfChangeSingle(chance.choice(kinds), id_) for id_ in ids)
        transition = chance.choice(list(ConfChangeTransition))
        return ConfChangeV2(changes, transition)

    def _is_bearable(self, config: object, change: Change) -> bool:
        """Tell whether a change leaves a cluster that can go on.

        Who is removed may stop to take part before the others know, so no more voters go at once
        than the configuration can lose.
        """
        voters = config.voters  # type: ignore[attr-defined]
        try:
            after = set(next_conf_state(config.conf_state(), change).voters)  # type: ignore[attr-defined]
        except RaftError:
            return False
        lost = len(voters - after)
        return not lost or (len(after) >= 3 and lost <= (len(voters) - 1) // 2)
