"""A member: processes, a board, a disk, a database; and how all of it dies and comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.metrics import TransportMetric
from actors.proposals import SessionClosedError
from actors.recovery import Recovered
from kv.cluster import Member as MemberFacts
from kv.cluster import encode_member_change
from raft.change import ConfChange, ConfChangeType, encode
from raft.state import ConfState, Entry, HardState, Snapshot
from raft.storage import MemoryStorage
from storage.database import snapshot_name
from storage.wal import Wal
from storage.wal_errors import WalDiskError
from tests.sim.database import Database
from tests.sim.disk import SimFiles
from tests.sim.edges import Edges
from tests.sim.gateway import SimGateway
from tests.sim.node import SimRaftNode
from tests.sim.process import MACHINE, Process, ProcessKilledError, SimBoard, context_of
from tests.sim.snapshotter import SimSnapshotter, SimTransport

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

LOG: Final = Path("/wal")
SEGMENT_BYTES: Final = (1 << 14, 768)
"""One of these; with small ones the log often rolls while what it leaves is not synced."""


class Member:
    """One member of the cluster."""

    def __init__(self, cluster: Cluster, id_: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.id = id_
        self.config = cluster.config
        self._segment_bytes = self.world.chance.choice(SEGMENT_BYTES)
        self.rate = 1.0
        self._began = (0.0, 0.0)
        self.slow_sync = 0.0
        self.epoch_of_log = 0
        """Grows whenever the raft node ends: syncs under way are nobody's then."""
        self.power = True
        self.lose_power_in = -1
        self.board = SimBoard()
        self.files = SimFiles(self.world.chance, self._before_change)
        self.database = Database(self.world)
        self.database.on_rows = cluster.invariants.rows
        self.database.on_commit = self._around_commit
        self.edges = Edges(self)
        makers: dict[str, Callable[[Process], Any]] = {
            "raft-node": lambda p: cluster.raft_node(context_of(p, self.config)),
            "applier": lambda p: cluster.applier(context_of(p, self.config)),
            "gateway-0": SimGateway,
            "snapshotter": SimSnapshotter,
            "transport": SimTransport,
        }
        self.processes = {name: Process(self, name, make) for name, make in makers.items()}
        self.board.set_word("transport", TransportMetric.ACTIVE_PEERS, 1)

    def __repr__(self) -> str:
        return f"m{self.id}"

    # --- time -------------------------------------------------------------------------------------

    def local_now(self) -> float:
        """Return the member's own CLOCK_MONOTONIC, which may run fast or slow."""
        world_then, local_then = self._began
        return local_then + (self.world.now - world_then) * self.rate

    def world_time(self, local: float) -> float:
        """Return when the member's clock will show `local`."""
        world_then, local_then = self._began
        return world_then + (local - local_then) / self.rate

    def set_rate(self, rate: float) -> None:
        """Let the clock run faster or slower from now on."""
        self._began = self.world.now, self.local_now()
        self.rate = rate

    # --- life -------------------------------------------------------------------------------------

    def create(self, founders: Sequence[int]) -> None:
        """Make the data directory: with the initial configuration, or empty for one that joins."""
        with self.processes["raft-node"].running():
            wal = Wal.create(LOG, b"", self.files, segment_bytes=self._segment_bytes)
            entries = []
            for index, member in enumerate(founders, start=1):
                context = encode_member_change(("add", MemberFacts(member)))
                kind, data = encode(ConfChange(ConfChangeType.ADD_NODE, member, context))
                entries.append(Entry(term=1, index=index, data=data, type=kind))
            if entries:
                wal.append(entries, HardState(term=1, vote=0, commit=len(entries)))
            wal.close()

    def start_all(self) -> None:
        """Start whatever does not run."""
        self.power = True
        for process in self.processes.values():
            if not process.alive and self.power:
                process.start()

    def recover(self, resume_at: int) -> Recovered:
        """Open the log and see what the database has: actors.recovery.recover, in memory."""
        self.files.forget_descriptors()
        wal, replay = Wal.open(
            LOG, self.files, segment_bytes=self._segment_bytes, resume_at=resume_at
        )
        if replay.resumed:
            self.world.point("log resumed behind its beginning")
        if replay.cut_bytes:
            self.world.point("torn tail cut off")
        progress = self.database.store.committed.state.progress
        applied_index, conf_state = progress.applied_index, self.database.store.load().conf_state
        storage = MemoryStorage()
        if replay.snapshot.index:
            storage.apply_snapshot(Snapshot(b"", replay.snapshot))
        storage.set_hard_state(replay.hard_state)
        storage.append(replay.entries)
        if storage.first_index() > applied_index + 1:
            name = snapshot_name(replay.snapshot.term, replay.snapshot.index)
            assert name in self.database.files, f"the log begins behind the database: no {name}"
            self.world.point("log ahead of the database at start")
            applied_index, conf_state = replay.snapshot.index, replay.snapshot.conf_state
        assert storage.last_index() >= applied_index, (
            f"{self}: log ends at {storage.last_index()}, database has {applied_index}"
        )
        if applied_index:
            storage.set_conf_state(conf_state)
        else:
            conf_state = ConfState()
        self.cluster.invariants.recovered(self, storage, wal)
        return Recovered(self.id, 1, wal, storage, applied_index, replay.snapshot, conf_state)

    def died(self, process: Process, actor: Any) -> None:
        """A process has ended; its supervisor starts it again if the member lives."""
        if process.name == "gateway-0" and actor is not None:
            actor.lost()
        if process.name == "raft-node":
            self.epoch_of_log += 1
        if process.name == "transport":
            self.cluster.network.forget(self.id)
        if self.power:
            delay = self.world.chance.uniform(0.005, 0.05)
            self.world.after(delay, self._restart, process)

    def _restart(self, process: Process) -> None:
        if self.power and not process.alive:
            process.start()

    def failed(self, process: Process, error: BaseException) -> bool:
        """A process raised; return whether that may be: anything else ends the run."""
        if isinstance(error, WalDiskError):
            self.world.point("member ended by its disk")
            self.kill(power=False)
            self.world.after(0.1, self.start_all)
            return True
        if isinstance(error, SessionClosedError):
            self.world.point("session closed under a gateway")
            process.kill()
            return True
        return False

    def kill(self, *, power: bool) -> None:
        """Kill all processes at once; with `power`, lose what is not durable."""
        self.power = False
        for process in self.processes.values():
            if process.alive:
                process.kill()
        self.cluster.lost(self)
        if power:
            before = self.files.torn
            self.files.lose_power()
            if self.files.torn > before:
                self.world.point("write torn by a power loss")
            self.database.lose_power()
            self.board = SimBoard()
            self.board.set_word("transport", TransportMetric.ACTIVE_PEERS, 1)

    def lose_power_soon(self, moments: int) -> None:
        """Lose power before the member's next changes of files, after so many of them."""
        self.lose_power_in = moments

    def _before_change(self, operation: str) -> None:
        MACHINE.process.moment()
        if self.lose_power_in >= 0 and MACHINE.process.member is self:
            self.lose_power_in -= 1
            if self.lose_power_in < 0:
                self.world.point(f"power lost before a {operation}")
                self.world.after(0.0, self._lose_power)
                raise ProcessKilledError

    def _lose_power(self) -> None:
        if self.power:
            self.kill(power=True)
            self.world.after(self.world.chance.uniform(0.1, 3.0), self.start_all)

    def _around_commit(self, operation: str) -> None:
        self.processes["applier"].moment()

    # --- the disk's speed -------------------------------------------------------------------------

    def sync_seconds(self) -> float:
        """Return how long the next fdatasync takes."""
        chance = self.world.chance
        if chance.random() < 0.98:
            return chance.uniform(1e-4, 1e-3) + self.slow_sync * chance.random()
        return chance.uniform(1e-3, 0.1)

    def syncer_has_news(self, process: Process) -> bool:
        """Tell whether the sync thread has woken the raft node."""
        syncer = process.actor._log.syncer
        return bool(syncer is not None and syncer.news)

    # --- looking in -------------------------------------------------------------------------------

    @property
    def node(self) -> SimRaftNode | None:
        """The raft node, if it lives."""
        node: SimRaftNode | None = self.processes["raft-node"].actor
        return node

    def checked(self, process: Process) -> None:
        """A turn is over."""
        if process.name == "raft-node":
            self.cluster.invariants.raft_turn(self)
        elif process.name == "applier":
            self.cluster.invariants.applied(self)
