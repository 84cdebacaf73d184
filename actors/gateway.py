"""The client side: gRPC and HTTP on one port; reads; this gateway's session of proposals.

Owns      its clients' connections, a session, read-only connections to the database.
Receives  Applied from the applier; ReadStates from the raft node; whatever clients send.
Sends     Propose and ReadIndex to the raft node.
Crashes   when its session is closed, on a message of any other type. Its clients reconnect: root
          keeps the listening socket.

The pykka actor loop here *is* the event loop: `_actor_loop_running` runs uvloop, and the mailbox's
socket is one more reader in it. One turn of the loop makes one Propose and one ReadIndex for
everything its clients sent, and one write per connection for everything that was answered.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Any, Final

import msgpack

from actors.base import handles, run
from actors.call_counts import CallCounts
from actors.cluster_version import ClusterVersion
from actors.cpu_wait import CpuWait
from actors.debug_pages import ActorPages
from actors.early import Early
from actors.exposition import MemberCollector
from actors.front import Front
from actors.gateway_http import MemberPages
from actors.gateway_status import MemberWords
from actors.histograms import hash_times
from actors.leadership import Transfers
from actors.lease_calls import LeaseCalls
from actors.lease_clocks import read_expiries
from actors.loop_actor import LoopActor
from actors.memory import ActorMemory
from actors.messages import Applied, LeaderIs, LeaseAsk, LeaseTold, Propose, ReadIndex, ReadStates
from actors.metrics import ApplierMetric, GatewayMetric, RaftMetric
from actors.proposals import Proposals
from actors.publish import Publisher
from actors.quota import SpaceQuota
from actors.reads import OPERATIONS, Reads, Serve
from actors.scans import Scans
from actors.slow_requests import SlowRequests
from actors.timeouts import Timeouts
from actors.unanswered import applier_is_at_work, recover, retry_late
from actors.watching import Watching
from actors.wire import WATCHED_REQUESTS_MAX
from api.auth import AuthService
from api.cluster import ClusterService
from api.grpc import Call
from api.header import HeaderWriter
from api.health import HealthService
from api.interceptors import Interceptor
from api.kv import ROOMLESS_BYTES, KvService
from api.lease import LeaseService, min_ttl_seconds
from api.maintenance import MaintenanceService
from etcdpb.rpc_pb2 import RangeRequest, TxnRequest
from kv.errors import NO_SPACE, REQUEST_TOO_MANY_REQUESTS, Code
from kv.quota import TAKES_SPACE
from storage.database import exists
from storage.reader import Reader
from transport.context import ActorContext
from transport.control import Handler
from transport.counters import Cell
from transport.links import Welcome

TICK_SECONDS: Final = 0.1
SIZES_SECONDS: Final = 1.0
START_SECONDS: Final = 0.002
UNAPPLIED_MAX: Final = 5000
OPENING_SECONDS: Final = 0.2
CURSORS_SHOWN: Final = 5
UNREAD_BYTES_MAX: Final = 256 << 20
"""What a client may leave unread and still be sent results of more than ROOMLESS_BYTES."""
UNREAD: Final = "trouped: request carried out, its response dropped: too much before it is unread"


class Gateway(LoopActor):
    """See the module docstring. Implements api.backend.Backend."""

    header: HeaderWriter

    def __init__(self, context: ActorContext) -> None:
        config = context.config
        self._session = random.SystemRandom().getrandbits(63) | 1
        self._slot = int(context.name.rpartition("-")[2])
        election = int(config["election_timeout_ms"]) / 1000
        super().__init__(context)
        self._timeout = 5.0 + 2 * election
        self._status = MemberWords(self.board, int(config["quota_backend_bytes"]))
        self._directory = context.data_dir / "member" / "db"
        self._timeouts = Timeouts(self.board, self._status, election)
        self._proposals = Proposals(
            self._session,
            self._send_propose,
            self._deliver,
            timeout=self._timeout,
            timed_out=self._timeouts.of_proposal,
        )
        self._early = Early(self.board, self._take_applied, self.later)
        self._next_opening = 0.0
        self._serving = False
        self._started = time.monotonic()
        self._front = Front(context, self.board, self.metric)
        words = self._metrics
        self._events_before = self._words[words + GatewayMetric.WATCH_EVENTS]
        self.metric(GatewayMetric.UNREAD_REVISION, 0)
        self.metric(GatewayMetric.READY, 0)
        self._physical: list[tuple[int, Call, Callable[[], None]]] = []
        self._next_sizes = 0.0
        self._slow = SlowRequests(context, self.board, self.log)
        self._no_space = False
        self._overloaded = False
        self._generation = 0
        self._cpu = CpuWait()
        self._hash_took = hash_times(self.board, self.name)

    def have(self, sender: str) -> int:
        """Return the session: the applier sends its results here."""
        return self._session if sender == "applier" else 0

    # --- a turn --------------------------------------------------------------------------------

    def look_after(self, now: float) -> float:
        """Timers: retries, timeouts, gauges."""
        if self._serving:
            self._look_at_member()
            self._look_at_work(now)
        open_ = self._serving and self._proposals.open
        pause = TICK_SECONDS if open_ else self._start_pause(now)
        return min(pause, max(START_SECONDS, (self.links.next_hello() or inf) - now))

    def _start_pause(self, now: float) -> float:
        """Return a twentieth of what the start took so far: without a quorum it may take hours."""
        return min(TICK_SECONDS, max(START_SECONDS, (now - self._started) / 20))

    def _look_at_member(self) -> None:
        """Decide once a turn what new requests would be refused for; see who leads."""
        status = self._status
        now = time.monotonic()
        if self._timeouts.look(now) or len(self._transfers):
            self._transfers.look(now)
        self._no_space = status.no_space
        self._overloaded = status.committed_index - status.applied_index > UNAPPLIED_MAX
        generation = status.applier(ApplierMetric.GENERATION)
        if generation != self._generation:
            self._generation = generation
            self._go_over()

    def _go_over(self) -> None:
        """A snapshot was installed: read its file from now on, and what it answers already."""
        if not self._reader.reopen():
            return
        self._hub.reopen()
        if self._proposals.open:
            self._recover_unanswered()
        self._reads.wake()

    def end_turn(self) -> float:
        """Send what the turn's clients asked for and answer what is due."""
        if not self._serving:
            return 0.0
        now = time.monotonic()
        self._cpu.look(now)
        spacing = self._cpu.spacing
        pause = self._proposals.flush(now, spacing)
        self._look_at_member()
        self.header.term = self._status.term
        pause = max(pause, self._reads.flush(now, spacing))
        self._lease_calls.flush(now)
        self._hub.read_now()
        self._front.flush()
        return pause

    # --- life ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Wait for the database and the ids of the member and its cluster, then listen."""
        status = self._status
        if not (status.member_id and status.cluster_id and exists(self._directory)):
            self.loop.call_later(self._start_pause(time.monotonic()), self.begin)
            return
        config = self.context.config
        self._generation = self._status.applier(ApplierMetric.GENERATION)  # before CURRENT is read
        self._reader = Reader(self._directory)
        self._reader.keep_scan_connection()
        self.header = HeaderWriter(self._status.cluster_id, self._status.member_id)
        self._reads = Reads(
            self._reader,
            self._ask_index,
            self._timeout,
            self._timeouts.of_read,
            incarnation=self.context.incarnation,
        )
        self._scans = Scans(self._reader, self.header, self.loop.call_soon)
        self._health = HealthService(self.is_ready)
        self._start_watch(config)
        self._start_leases(config)
        self._start_member(config)
        kv = KvService(
            self,
            max_txn_ops=int(config["max_txn_ops"]),
            max_request_bytes=int(config["max_request_bytes"]),
        )
        router = kv.methods() | ClusterService(self).methods() | self._health.methods()
        router |= MaintenanceService(self).methods() | AuthService(self).methods()
        router |= self._watching.methods()
        router |= self._leases.methods()
        for path, operation in OPERATIONS.items():
            router[path].operation = int(operation)
        self._calls = CallCounts(self.board, self.name, router)
        self._front.begin(self.loop, router, Interceptor(self._status), self._make_pages())
        self._serving = True
        self._open_session(time.monotonic())

    def _make_pages(self) -> MemberPages:
        memory = ActorMemory(self.board, self.loop)
        collector = MemberCollector(self.board, self._status, self._calls.total, memory.pss_bytes)
        debug = ActorPages(self.context.run_dir, self.loop, self.log)
        return MemberPages(
            self.read, self._reader, self._status, collector, self.count, debug, memory
        )

    def _start_member(self, config: Mapping[str, Any]) -> None:
        status, reader, proposals = self._status, self._reader, self._proposals
        status.refresh(reader)
        self._publisher = Publisher(
            proposals,
            reader,
            member_id=status.member_id,
            name=self.context.member_name,
            client_urls=config["advertise_client_urls"],
            ready=self._ready,
        )
        self._cluster_version = ClusterVersion(
            proposals, reader, lambda: status.lowest_version, self.log
        )
        self._quota = SpaceQuota(
            status.quota_bytes, reader, self.propose, member_id=status.member_id
        )
        self._transfers = Transfers(
            status, partial(self.send, "raft-node"), self.header, self.log, self._timeout
        )

    def _start_leases(self, config: Mapping[str, Any]) -> None:
        self._lease_calls = LeaseCalls(
            self.name,
            self._send_lessor,
            partial(self.read, serializable=False),
            self.later,
            lambda: self._status.leader != 0,
            timeout=self._timeout,
        )
        self._leases = LeaseService(
            self,
            min_ttl=min_ttl_seconds(
                int(config["heartbeat_interval_ms"]), int(config["election_timeout_ms"])
            ),
        )

    def _start_watch(self, config: Mapping[str, Any]) -> None:
        self._watching = Watching(
            self,
            self._status,
            self.metric,
            directory=self._directory,
            call_soon=self.loop.call_soon,
            call_later=self.loop.call_later,
            config=config,
            events_before=self._events_before,
        )
        self._hub = self._watching.hub

    def _open_session(self, now: float) -> None:
        """Propose the session until it is open; nothing is proposed while there is no leader."""
        if now < self._next_opening or not self._status.leader:
            return
        if self.links.is_open("raft-node") and self.links.is_open("applier"):
            self._next_opening = now + OPENING_SECONDS
            self._look_for_session()
            if not self._proposals.open:
                slot = msgpack.packb((self._status.member_id, self._slot))
                self._proposals.open_session(slot)

    def _session_opened(self) -> None:
        if self._proposals.open:
            return
        self._proposals.open = True
        self._look_at_version(time.monotonic())
        self._publisher.start(publish=self._slot == 0)
        self.schedule_flush()

    def is_ready(self) -> bool:
        """Whether the member is published and this gateway's session is open."""
        return self._publisher.done

    def _ready(self) -> None:
        self.metric(GatewayMetric.READY, 1)
        self._health.changed()
        if self._slot == 0:
            self.log.info(
                "published local member to cluster through raft",
                **{
                    "local-member-id": f"{self._status.member_id:x}",
                    "cluster-id": f"{self._status.cluster_id:x}",
                },
            )
            self.log.info("ready to serve client requests")
        self.log.info("serving client traffic", gateway=self.name)

    def control_verbs(self) -> dict[str, Handler]:
        """Return `slow`: requests that took long, explained."""
        return {"slow": lambda _: dict(self._slow.to_list())}

    def _ask_stop(self) -> dict[str, Any]:
        self.loop.call_soon_threadsafe(self._stop_serving)
        return {}

    def _stop_serving(self) -> None:
        if not self._serving:
            self.loop.stop()
            return
        drained = self.loop.create_task(self._front.shutdown())
        drained.add_done_callback(lambda _: self.loop.stop())

    # --- messages ---------------------------------------------------------------------------------

    @handles(Applied)
    def applied(self, message: Applied) -> None:
        """Answer what was applied, once that is sure; wake the reads that waited for it."""
        if self._serving:
            self._early.add(message)

    def _take_applied(self, message: Applied) -> None:
        self.header.term = self._status.term
        for session, first_id, results in message.batches:
            if session != self._session:
                continue
            if first_id:
                self._proposals.applied(first_id, results)
            elif results:
                self._proposals.check(results)
                self._session_opened()
        if message.revision > self._hub.revision:
            self._hub.notice()
        self._reads.wake()
        if len(self._proposals) <= WATCHED_REQUESTS_MAX:
            self._front.flush()  # a lone client need not wait for the turn's end

    @handles(ReadStates)
    def read_states(self, message: ReadStates) -> None:
        """Leadership was confirmed for every round up to an id."""
        if self._serving:
            self._reads.confirmed(message.id, message.index)

    @handles(LeaseTold)
    def lease_told(self, message: LeaseTold) -> None:
        """The lessor answers questions about leases."""
        if self._serving:
            self._lease_calls.told(message.ids, message.seconds)

    @handles(LeaderIs)
    def leader_is(self, message: LeaderIs) -> None:
        """What the leader before had not answered is looked up, and goes to the new one."""
        if self._serving and message.leader:
            if self._proposals.open:
                self._recover_unanswered()
            self._reads.ask_again()
            self._lease_calls.ask_again(time.monotonic())

    @handles(Welcome)
    def welcomed(self, message: Welcome) -> None:
        """A neighbour is new or a gap was closed: look up what is unanswered, then ask again."""
        if not self._serving:
            return
        if not self._proposals.open:
            self._open_session(time.monotonic())
        elif message.sender in ("raft-node", "applier"):
            self._recover_unanswered()
        if message.sender == "raft-node":
            self._reads.ask_again()
        elif message.sender == "lessor":
            self._lease_calls.ask_again(time.monotonic())

    def welcome(self, receiver: str, have: int) -> list[int]:
        """A stream opens; what was lost in a gap of it is asked for again, behind the Welcome."""
        if receiver == "raft-node":
            self.loop.call_soon(self._ask_lost)
        return super().welcome(receiver, have)

    def _ask_lost(self) -> None:
        if self._serving and self._proposals.open:
            self._recover_unanswered()
            self._reads.ask_again()

    def _look_for_session(self) -> None:
        with self._reader.view() as view:
            opened = view.session_open(self._session)
        if opened:
            self._session_opened()

    def _recover_unanswered(self) -> None:
        again = recover(self._reader, self._proposals, time.monotonic(), self.observer.found)
        self.count(GatewayMetric.REPROPOSED, again)
        self._reads.wake()

    def _look_at_work(self, now: float) -> None:
        at_work = applier_is_at_work(self.board, now)
        found = self.observer.found
        again = retry_late(self._reader, self._proposals, now, found, at_work=at_work)
        self.count(GatewayMetric.REPROPOSED, again)
        if not self._proposals.open:
            self._open_session(now)
        elif not self._publisher.done:
            self._publisher.start(publish=self._slot == 0)
        self._look_at_version(now)
        self._proposals.tell_mark(now)
        failed = self._reads.failed
        self.count(GatewayMetric.SLOW_READ_INDEXES, self._reads.late(now))
        self.count(GatewayMetric.READ_INDEXES_FAILED, self._reads.failed - failed)
        self._lease_calls.late(now)
        self._wake_physical()
        self.metric(GatewayMetric.PENDING, len(self._proposals))
        self._front.look(now, leaderless=self._timeouts.is_leaderless(now))
        self._calls.publish()
        self._slow.look(now)
        self._watching.look(now)
        if now >= self._next_sizes or len(self._scans):
            self._next_sizes = now + SIZES_SECONDS
            self._status.refresh(self._reader)
            self._quota.seen(self._status.db_in_use_bytes)
        self.schedule_flush()

    def _look_at_version(self, now: float) -> None:
        self._cluster_version.look(now, leads=self._slot == 0 and self._status.is_leader)

    def _wake_physical(self) -> None:
        pruned_to = self._status.applier(ApplierMetric.PRUNED_TO)
        waiting, self._physical = self._physical, []
        for revision, call, done in waiting:
            if pruned_to >= revision:
                done()
            elif not call.closed:
                self._physical.append((revision, call, done))

    # --- api.backend.Backend ---------------------------------------------------------------------

    def propose(self, op: int, request: bytes, answer: Any) -> None:
        """Queue a request for the log, unless the member has too much before it or no space."""
        if op in TAKES_SPACE:
            if self._no_space:
                answer.fail(NO_SPACE)
                return
            if self._quota.refuses(op, request, answer):
                self.schedule_flush()
                return
        if self._proposals.refuses(op, overloaded=self._overloaded):
            answer.fail(REQUEST_TOO_MANY_REQUESTS)
            return
        self._proposals.add(op, request, answer)
        self.schedule_flush()

    def read(self, call: Call, serve: Serve, *, serializable: bool) -> None:
        """Queue a read for the end of the turn; the only voter's own view is fresh enough."""
        self._reads.add(call, serve, serializable=serializable or self._status.is_sole_voter)
        self.schedule_flush()

    def scan(self, call: Call, request: RangeRequest, *, serializable: bool, stream: bool) -> None:
        """Start a big range once a fresh enough view is there."""

        def serve(view: Any, call: Call) -> None:
            self._scans.start_range(call, request, view.applied_index, stream=stream)

        self.read(call, serve, serializable=serializable)

    def scan_txn(self, call: Call, request: TxnRequest, *, serializable: bool) -> None:
        """Start a read-only txn over ranges once a fresh enough view is there."""

        def serve(view: Any, call: Call) -> None:
            self._scans.start_txn(call, request, view.applied_index)

        self.read(call, serve, serializable=serializable)

    def hash_kv(
        self, call: Call, revision: int, finished: Callable[[int, int, int, int], None]
    ) -> None:
        """Hash in slices, from a view of this member's own: hashes tell how members differ."""
        began = time.monotonic()

        def hashed(*found: int) -> None:
            self._hash_took.observe(time.monotonic() - began)
            finished(*found)

        def serve(view: Any, call: Call) -> None:
            self._scans.start_hash(call, revision, view.applied_index, hashed)

        self.read(call, serve, serializable=True)

    def when_pruned(self, revision: int, call: Call, done: Callable[[], None]) -> None:
        """Call `done` when the pruning has passed a revision, unless the call is over."""
        self._physical.append((revision, call, done))

    def lease_expiries(self) -> Mapping[int, int]:
        """Return when leases expire, as the lessor keeps it while this member leads."""
        if not self._status.is_leader:
            return {}
        return read_expiries(self.context.run_dir / "leases", self._status.term)

    def ask_lessor(self, kind: int, lease: int, answer: Any, token: Any = None) -> None:
        """Queue a question to the lessor for the end of the turn."""
        self._lease_calls.ask(kind, lease, answer, token)
        self.schedule_flush()

    def move_leader(self, call: Call, target: int) -> None:
        """Hand leadership to a voter; the call is answered when it leads."""
        self._transfers.begin(call, target, time.monotonic())

    def status(self) -> MemberWords:
        """Return this member's words."""
        return self._status

    def _deliver(self, answer: Any, revision: int, body: bytes) -> None:
        if type(answer) is not Call:
            answer.answered(revision, body)
        elif len(body) > ROOMLESS_BYTES and answer.unread_bytes > UNREAD_BYTES_MAX:
            answer.finish(Code.RESOURCE_EXHAUSTED, UNREAD)
        else:
            answer.reply(self.header(revision) + body)

    def _send_propose(self, message: Propose) -> bool:
        return self.send("raft-node", message, message.count)

    def _send_lessor(self, message: LeaseAsk) -> bool:
        return self.links.is_open("lessor") and self.send("lessor", message, len(message.ids))

    def _ask_index(self, read_id: int) -> None:
        self.send("raft-node", ReadIndex(self.name, read_id, self._reads.operations()), 0)

    def stats(self) -> dict[str, Any]:
        """Return what waits here, and for whom."""
        return {
            "pending": len(self._proposals),
            "session": f"{self._session:x}",
            "leader": f"{self._status.raft(RaftMetric.LEADER):x}",
            "connections": self._front.connections,
            "calls": self._calls.open(),
            "watch_streams": self.board.get(self.name, Cell.METRICS + GatewayMetric.WATCH_STREAMS),
            "watchers": {
                "all": len(self._hub),
                "behind": self._hub.slow,
                "slowest": self._hub.slowest(CURSORS_SHOWN),
            },
        }


def main(context: ActorContext) -> None:
    """Run one gateway of a member."""
    run(Gateway, context)
