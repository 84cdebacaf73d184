"""A cluster in a simulated world: a phase that tries to break safety, then one that must live.

    report = run_seed(7)

Phase one: clients work while the nemesis does its worst. Phase two: everything is healed; within a
bounded time somebody must lead, every call of every client be answered, and all members of the
configuration hold the same. In the end the clients' history must be linearizable, and every write
that was acknowledged be in it once.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from actors.applier import Applier
from actors.messages import PeerLinks
from kv.store import Session
from raft.errors import RaftError
from tests.sim.clients import Client
from tests.sim.invariants import Invariants, require
from tests.sim.linearizability import check
from tests.sim.member import Member
from tests.sim.model import Put, Range
from tests.sim.nemesis import Nemesis
from tests.sim.network import Network
from tests.sim.node import SimRaftNode
from tests.sim.process import installed, set_sizes
from tests.sim.verdict import Operation, UndecidedError
from tests.sim.world import World

MEMBERS_MAX = 6
RECOVERY_SECONDS_MAX = 40.0
CLIENTS = 4
JUDGE_STEPS_MAX = 500_000  # seconds; whoever is not through by then would take for ever


@dataclass(slots=True)
class Report:
    """What became of one seed."""

    seed: int
    error: str = ""
    seconds: float = 0.0
    """Simulated."""
    events: int = 0
    operations: int = 0
    unknown: int = 0
    undecided: bool = False
    """Whether the history was too tangled to be judged in the time there is."""
    elections: int = 0
    recovery_seconds: float = 0.0
    """From healing until all members agreed."""
    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)


class Cluster:
    """Everything of one run."""

    raft_node: Callable[[Any], Any] = SimRaftNode
    applier: Callable[[Any], Any] = Applier

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.world = World(seed, tracing=tracing)
        chance = self.world.chance
        self.invariants = Invariants(self.world)
        self.config: dict[str, Any] = {
            "heartbeat_interval_ms": 100,
            "election_timeout_ms": 1000,
            "snapshot_count": chance.choice((3, 15, 60)),
            "snapshot_catchup_entries": chance.choice((0, 0, 5, 40)),
            "max_wals": chance.choice((0, 1, 3)),
            "pre_vote": chance.random() < 0.8,
            "initial_election_tick_advance": chance.random() < 0.7,
        }
        set_sizes(
            chance.choice((1, 300, 512 << 10)),
            chance.choice((2, 20, 512)),
        )
        self.members: dict[int, Member] = {}
        self.network = Network(self)
        self.history: list[Operation] = []
        self.undecided = False
        self.calls = 0
        self.values = 0
        self.big_values = chance.random() < 0.05
        self.think_seconds = chance.choice((0.05, 0.15, 0.4))
        founders = list(range(1, chance.choice((1, 3, 3, 3, 5)) + 1))
        for id_ in founders:
            self.add_member(id_, founders)
        self.clients = [Client(self, number) for number in range(1, CLIENTS + 1)]
        self.nemesis = Nemesis(self)
        self._final = False

    def add_member(self, id_: int, founders: list[int]) -> Member:
        """Make a member and start it."""
        member = self.members[id_] = Member(self, id_)
        member.create(founders)
        member.start_all()
        return member

    def lost(self, member: Member) -> None:
        """All of a member's processes are gone: others may see their connections close."""
        for other in self.members.values():
            if other is not member and self.world.often(0.7):
                other.processes["raft-node"].deliver(PeerLinks([], [member.id]))

    def leader(self) -> Member | None:
        """Return the member that leads the highest term, if any does."""
        leading = [m for m in self.members.values() if m.node is not None and m.node.core.is_leader]
        return max(leading, key=_term_of, default=None)

    def voters(self) -> set[int]:
        """Return all members of the leader's configuration, learners as well."""
        leader = self.leader()
        if leader is None or leader.node is None:
            return set()
        config = leader.node.core.raft.tracker.config
        return set(config.all_voters() | config.learners)

    def serving(self) -> list[int]:
        """Return the members that a client may turn to."""
        return sorted(self.voters() or self.members) if self._final else sorted(self.members)

    # --- phases -----------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run both phases. Raises InvariantBrokenError and whatever an actor raises."""
        world = self.world
        for client in self.clients:
            client.start()
        self.nemesis.start()
        world.run(world.chance.choice((4.0, 8.0, 16.0)))
        self.nemesis.stop()
        healed = world.now
        self.nemesis.heal()
        self._final = True
        world.run(healed + world.chance.uniform(0.5, 3.0))
        for client in self.clients:
            client.stopped = True
        deadline = healed + RECOVERY_SECONDS_MAX
        while not self.agreed():
            require(world.now < deadline, f"no recovery: {self._why_not()}")
            self._leave_joint()
            world.run(world.now + 0.25)
        recovered = world.now - healed
        self._last_calls()
        self._judge()
        report = self.report()
        report.recovery_seconds = recovered
        return report

    def report(self) -> Report:
        """Return what has been counted so far."""
        world = self.world
        return Report(
            seed=world.seed,
            seconds=world.now,
            events=world.events,
            operations=len(self.history),
            unknown=sum(op.returned is None for op in self.history),
            undecided=self.undecided,
            elections=self.invariants.elections,
            faults=world.faults,
            points=world.points,
            log=world.log,
        )

    def agreed(self) -> bool:
        """Tell whether somebody leads, all is applied everywhere, and no client waits."""
        leader = self.leader()
        if leader is None or leader.node is None or any(client.busy for client in self.clients):
            return False
        raft = leader.node.core.raft
        if raft.tracker.config.voters_outgoing:
            return False
        last = raft.log.last_index()
        return all(
            self.members[id_].database.store.committed.state.progress.applied_index == last
            for id_ in self.voters()
        )

    def _why_not(self) -> str:
        leader = self.leader()
        busy = [client.id for client in self.clients if client.busy]
        lines = [f"leader {leader}, clients waiting: {busy}"]
        for member in self.members.values():
            progress = member.database.store.committed.state.progress
            node = member.node
            said = str(node.core.status()) if node is not None else "no raft node"
            lines.append(f"{member} applied {progress.applied_index} {said}")
        return "\n".join(lines)

    def _leave_joint(self) -> None:
        leader = self.leader()
        if leader is None or leader.node is None:
            return
        config = leader.node.core.raft.tracker.config
        if config.voters_outgoing and not config.auto_leave:
            with leader.processes["raft-node"].running(), suppress(RaftError):
                leader.node.core.propose_conf_change(None)
            leader.processes["raft-node"].poke()

    def _last_calls(self) -> None:
        """Every client writes and reads once more, and is answered.

        A gateway may find only now that its session was closed, its member having been removed
        and added again: then it starts anew, and so does the call.
        """
        for is_read in (False, True):
            waiting = list(self.clients)
            for _ in range(3):
                for client in waiting:
                    self.values += 1
                    put = Put(b"k%d" % client.id, b"%d" % self.values)
                    client.act(Range(b"k", b"l") if is_read else put)
                deadline = self.world.now + 15.0
                while any(client.busy for client in waiting):
                    text = "a call in a healthy cluster is not answered"
                    require(self.world.now < deadline, text)
                    self.world.run(self.world.now + 0.05)
                waiting = [client for client in waiting if not client.answered_last]
                self.world.run(self.world.now + 0.3 * bool(waiting))
            require(not waiting, "calls in a healthy cluster fail")

    def _judge(self) -> None:
        """Check the history, and that members which have applied the same are the same."""
        for op in self.history:
            if op.returned is not None and isinstance(op.request, Put):
                assert op.answer is not None
                put_at = self.invariants.put_at(op.request.value)
                text = f"acknowledged at {op.answer.revision}, applied at {put_at}: {op.request}"
                require(put_at == op.answer.revision, text)
        try:
            verdict = check(self.history, steps_max=JUDGE_STEPS_MAX)
        except UndecidedError:
            self.undecided = True
        else:
            require(bool(verdict), verdict.text)
        states: dict[int, Any] = {}
        for member in self.members.values():
            data = member.database.store.committed
            state = data.state
            answers = _answers(data.kept, state.sessions)
            now = data.latest, state.conf_state, state.sessions, state.members, answers
            index = data.state.progress.applied_index
            require(states.setdefault(index, now) == now, f"{member} differs at {index}")


def _answers(kept: dict[int, Any], sessions: dict[int, Session]) -> dict[tuple[int, int], Any]:
    """Return every result that is kept and still asked for, by session and request."""
    return {
        (session, first + place): result
        for session, by_index in kept.items()
        for runs in by_index.values()
        for first, results in runs
        for place, result in enumerate(results)
        if session in sessions and first + place >= sessions[session].mark
    }


def _term_of(member: Member) -> int:
    assert member.node is not None
    return member.node.core.raft.term


def run_seed(seed: int, *, tracing: bool = False, make: Callable[..., Cluster] = Cluster) -> Report:
    """Run one seed; an error is in the report, with its traceback, never raised."""
    with installed():
        cluster = make(seed, tracing=tracing)
        run = _Run(cluster)
        with run:
            run.report = cluster.run()
    return run.report


class _Run:
    """Whatever a run raises becomes the error of its report."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.report = Report(cluster.world.seed)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trail: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.report = self._cluster.report()
        lines = "".join(traceback.format_tb(trail))
        self.report.error = f"{type(error).__name__}: {error}\n{lines}"
        return True
