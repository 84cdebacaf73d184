"""A gateway without its sockets: real sessions and retries (Proposals), real reads (Reads, Early).

What holds them together is actors.gateway's, told again here in as many lines as it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgpack

from actors.early import Early
from actors.gateway import OPENING_SECONDS
from actors.messages import Applied, LeaderIs, Propose, ReadIndex, ReadStates
from actors.metrics import ApplierMetric, RaftMetric
from actors.proposals import Proposals
from actors.reads import Reads
from kv.batch import Op
from kv.range import range_response
from tests.sim.database import SimReader, View
from tests.sim.model import Delete, Put, Range, Txn
from tests.sim.translate import range_request, to_message
from transport.links import Welcome
from transport.mailbox import Flush, Tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.clients import Call
    from tests.sim.process import Process

OPS = {Put: Op.PUT, Delete: Op.DELETE_RANGE, Txn: Op.TXN}
SLOT = 0


class SimGateway:
    """See the module docstring."""

    tick_seconds = 0.1

    def __init__(self, process: Process) -> None:
        self._process = process
        self._member = process.member
        self._world = process.world
        self._invariants = process.member.cluster.invariants
        self._session = self._world.chance.getrandbits(63) | 1
        self._reader = SimReader(self._member.database)
        timeout = 5.0 + 2 * self._member.config["election_timeout_ms"] / 1000
        self._proposals = Proposals(self._session, self._send, _deliver, timeout=timeout)
        incarnation = process.incarnation
        self._reads = Reads(cast("Any", self._reader), self._ask, timeout, incarnation=incarnation)
        board = cast("Any", self._member.board)
        self._early = Early(board, self._applied, self._later)
        self._next_opening = 0.0
        self._asked = 0
        self.calls: set[Call] = set()

    def on_start(self) -> None:
        """Nothing is to be read before the first message."""

    def have(self, sender: str) -> int:
        """Tell the applier the session."""
        return self._session if sender == "applier" else 0

    def welcome(self, receiver: str, have: int) -> list[int]:
        """Nothing to tell."""
        return []

    # --- clients ----------------------------------------------------------------------------------

    def call(self, call: Call) -> None:
        """Take one call of a client."""
        self.calls.add(call)
        request = call.request
        if isinstance(request, Range):
            sole = self._member.board.word("raft-node", RaftMetric.SOLE_VOTER)
            if sole:
                self._world.point("read of the only voter")
                self._invariants.reads_at_once(self._member)
            serializable = call.serializable or bool(sole)
            self._reads.add(cast("Any", call), cast("Any", self._serve), serializable=serializable)
        else:
            data = to_message(request).SerializeToString()
            self._proposals.add(OPS[type(request)], data, call)
        self._process.poke()

    def compact(self, call: Any, revision: int) -> None:
        """Propose a compaction."""
        from etcdpb.rpc_pb2 import CompactionRequest

        data = CompactionRequest(revision=revision).SerializeToString()
        self._proposals.add(Op.COMPACT, data, call)
        self._process.poke()

    def lost(self) -> None:
        """The process is dead: every connection is closed."""
        for call in sorted(self.calls, key=lambda call: call.number):
            call.disconnected()

    def _serve(self, view: View, call: Call) -> None:
        assert isinstance(call.request, Range)
        response = range_response(
            view.store, range_request(call.request), view.revision, view.compact_revision
        )
        call.answered(view.revision, response.SerializeToString())

    # --- messages ---------------------------------------------------------------------------------

    def on_receive(self, message: object) -> None:
        """Handle one message, as actors.gateway does."""
        now = self._member.local_now()
        if isinstance(message, Flush):
            spacing = self._world.chance.choice((0.0, 0.005))
            pause = max(self._proposals.flush(now, spacing), self._reads.flush(now, spacing))
            if pause:
                self._world.point("gateway waits for more")
                self._world.after(pause, self._process.poke)
        elif isinstance(message, Tick):
            self._tick(now)
        elif isinstance(message, Applied):
            if message.ahead and message.index > self.applied_word():
                self._world.point("results before their commit")
            self._early.add(message)
        elif isinstance(message, ReadStates):
            self._invariants.confirmed(self._session, message.id, message.index)
            self._reads.confirmed(message.id, message.index)
        elif isinstance(message, LeaderIs):
            if message.leader:
                if self._proposals.open:
                    self._recover_unanswered(now)
                self._reads.ask_again()
        else:
            assert isinstance(message, Welcome), message
            self._welcomed(message, now)

    def _welcomed(self, message: Welcome, now: float) -> None:
        if not self._proposals.open:
            self._open_session(now)
        elif message.sender in ("raft-node", "applier"):
            self._recover_unanswered(now)
        if message.sender == "raft-node":
            self._reads.ask_again()

    def _applied(self, message: Applied) -> None:
        for session, first_id, results in message.batches:
            if session != self._session:
                continue
            if first_id:
                self._proposals.applied(first_id, results)
            elif results:
                self._proposals.check(results)
                self._proposals.open = True
        self._reads.wake()

    def _tick(self, now: float) -> None:
        self._reader.reopen()
        due = self._proposals.late(now)
        if due:
            self._world.point("proposal late")
            self._look_up(due)
            for first_id, _ in due:
                self._proposals.retry(first_id, now)
        if not self._proposals.open:
            self._open_session(now)
        self._proposals.tell_mark(now)
        self._reads.late(now)

    def _open_session(self, now: float) -> None:
        leader = self._member.board.word("raft-node", RaftMetric.LEADER)
        if now < self._next_opening or not leader:
            return
        edges = self._member.edges
        if edges.is_open("gateway-0", "raft-node"):
            self._next_opening = now + OPENING_SECONDS
            with self._reader.view() as view:
                session = view.store.committed.state.sessions.get(self._session)
            if session is not None and not session.closed:
                self._proposals.open = True
            else:
                self._proposals.open_session(msgpack.packb((self._member.id, SLOT)))

    def _recover_unanswered(self, now: float) -> None:
        self._look_up(list(self._proposals.unanswered()))
        if self._proposals.propose_again(now):
            self._world.point("proposed again")
        self._reads.wake()

    def _look_up(self, batches: list[tuple[int, int]]) -> None:
        if not batches:
            return
        with self._reader.view() as view:
            found = {
                first_id: view.store.session_results(
                    self._session, range(first_id, first_id + count)
                )
                for first_id, count in batches
            }
        for first_id, count in batches:
            results = found[first_id]
            if len(results) == count:
                self._world.point("answer looked up")
                answers: Any = [results[first_id + place] for place in range(count)]
                self._proposals.applied(first_id, answers)

    def applied_word(self) -> int:
        """Return the applied index as the board tells it."""
        return self._member.board.word("applier", ApplierMetric.APPLIED_INDEX)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._world.after(seconds, self._due, self._process.incarnation, callback)

    def _due(self, incarnation: int, callback: Callable[[], None]) -> None:
        process = self._process
        if incarnation != process.incarnation or not process.alive:
            return
        if process.frozen_until > self._world.now:
            self._world.at(process.frozen_until, self._due, incarnation, callback)
            return
        with process.running():
            callback()
            process.poke()

    def _send(self, message: Propose) -> bool:
        self._process.moment()
        return self._member.edges.send("gateway-0", "raft-node", message)

    def _ask(self, read_id: int) -> None:
        self._process.moment()
        self._invariants.asks(self._session, read_id)
        self._member.edges.send("gateway-0", "raft-node", ReadIndex("gateway-0", read_id))


def _deliver(answer: Any, revision: int, body: bytes) -> None:
    answer.answered(revision, body)
