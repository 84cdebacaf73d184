"""Clients: each does one thing after the other, and remembers what it was told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kv.errors import Status
from tests.sim.model import Answer, Compare, Delete, Op, Put, Range, Request, Txn
from tests.sim.translate import from_body
from tests.sim.verdict import Operation

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.gateway import SimGateway

KEYS = 6
BIG_BYTES = 66_000


class Call:
    """One call of a client; implements actors.proposals.Answer and what Reads asks of a call."""

    def __init__(self, client: Client, number: int, request: Request) -> None:
        self.client = client
        self.number = number
        self.request = request
        self.closed = False
        self.serializable = False
        self.gateway: SimGateway | None = None
        self.operation = Operation(client.id, client.cluster.world.now, request)

    def answered(self, revision: int, body: bytes) -> None:
        """See Answer."""
        answer = Answer(revision, from_body(self.request, body))
        self._end()
        world = self.client.cluster.world
        world.after(world.chance.uniform(1e-5, 1e-3), self.client.told, self, answer)

    def fail(self, status: Status) -> None:
        """See Answer: the outcome is open."""
        self.client.cluster.world.point(f"call failed: {status.text}")
        self._end()
        self.client.unanswered(self)

    def disconnected(self) -> None:
        """The gateway died: the outcome is open."""
        if not self.closed:
            self._end()
            self.client.unanswered(self)

    def expired(self) -> None:
        """The client has waited long enough."""
        if not self.closed:
            self._end()
            self.client.unanswered(self)

    def _end(self) -> None:
        self.closed = True
        if self.gateway is not None:
            self.gateway.calls.discard(self)


class Compacting:
    """A call nobody keeps account of."""

    closed = False

    def answered(self, revision: int, body: bytes) -> None:
        """See Answer."""

    def fail(self, status: Status) -> None:
        """See Answer."""


class Client:
    """See the module docstring."""

    def __init__(self, cluster: Cluster, id_: int) -> None:
        self.cluster = cluster
        self.id = id_
        self.busy = False
        self.stopped = False
        self.answered_last = True
        self._member = 0

    def start(self) -> None:
        """Do the next thing, in a while."""
        if self.stopped:
            return
        world = self.cluster.world
        pause = world.chance.expovariate(1 / self.cluster.think_seconds)
        world.after(pause, self.act)

    def act(self, request: Request | None = None) -> None:
        """Make one call to some member; if it can't be reached nothing has happened."""
        world = self.cluster.world
        if self.busy:
            return
        if not self._member or world.often(0.2):
            self._member = world.chance.choice(self.cluster.serving())
        process = self.cluster.members[self._member].processes["gateway-0"]
        if not process.alive:
            self._member = 0
            self.answered_last = False
            self.start()
            return
        self.cluster.calls += 1
        call = Call(self, self.cluster.calls, request or self._request())
        if request is None and isinstance(call.request, Range) and world.often(0.15):
            call.serializable = call.operation.serializable = True
        self.cluster.history.append(call.operation)
        self.busy = True
        call.gateway = process.actor
        with process.running():
            process.actor.call(call)
        patience = world.chance.choice((0.5, 2.0, 6.0, 20.0))
        world.after(patience, call.expired)

    def told(self, call: Call, answer: Answer) -> None:
        """An answer has arrived."""
        call.operation.returned = self.cluster.world.now
        call.operation.answer = answer
        self.busy = False
        self.answered_last = True
        self.start()

    def unanswered(self, call: Call) -> None:
        """No answer will come."""
        self.busy = False
        self.answered_last = False
        self._member = 0
        self.start()

    # --- what is asked ----------------------------------------------------------------------------

    def _request(self) -> Request:
        chance = self.cluster.world.chance
        key = b"k%d" % chance.randrange(KEYS)
        dice = chance.random()
        if dice < 0.40:
            return Put(key, self._value(), prev=chance.random() < 0.3)
        if dice < 0.62:
            return Range(key)
        if dice < 0.72:
            return Range(b"k", b"l")
        if dice < 0.80:
            return Delete(key, prev=chance.random() < 0.5)
        if dice < 0.82:
            return Delete(b"k0", b"k3", prev=True)
        return self._txn(key)

    def _txn(self, key: bytes) -> Txn:
        chance = self.cluster.world.chance
        target: Literal["version", "mod"] = chance.choice(("version", "mod"))
        relation: Literal["=", ">", "<", "!="] = chance.choice(("=", ">", "<", "!="))
        compare = Compare(target, key, relation, chance.randrange(4))
        other = b"k%d" % chance.randrange(KEYS)
        success: list[Op] = [Put(key, self._value())]
        if other != key:
            success.append(Delete(other) if chance.random() < 0.3 else Put(other, self._value()))
        failure = (Range(key),) if chance.random() < 0.7 else (Delete(key, prev=True),)
        return Txn((compare,), tuple(success), failure)

    def _value(self) -> bytes:
        self.cluster.values += 1
        if self.cluster.big_values and self.cluster.world.often(0.01):
            return b"%d " % self.cluster.values + bytes(BIG_BYTES)
        return b"%d" % self.cluster.values
