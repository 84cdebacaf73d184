"""Lease clocks: who expires when; keep-alives of the whole cluster while this member leads.

Owns      the clocks (kv.lease), kept in a file of the run directory too.
Receives  Grant from the raft node; LeaseFacts from the applier; LeaseAsk from gateways;
          PeerReceived (questions and answers of other lessors) from the transport; Flush, Tick.
Sends     Propose of expiries and checkpoints to the raft node; LeaseTold to gateways;
          PeerMessages to the transport.
Crashes   on a message of any other type. A successor takes leases from the database and, in the
          same term, clocks from the file.

It acts only under a grant that is still valid when it acts, as primary of just that grant's term
(RULES A6). What it is not primary for it passes on to the leader's lessor. Facts may be lost: the
board says up to which index there are some, and the database has them all.
"""

from __future__ import annotations

import time
from typing import Any, Final

from actors.base import NANOSECONDS, Actor, handles, run
from actors.lease_clocks import ClockFile
from actors.lease_peers import (
    Asked,
    LeasePeerError,
    decode_lease_peer,
    encode_asked,
    encode_told,
)
from actors.messages import (
    Grant,
    LeaseAsk,
    LeaseFacts,
    LeaseKind,
    LeaseTold,
    PeerMessages,
    PeerReceived,
    Propose,
)
from actors.metrics import ApplierMetric, LessorMetric, RaftMetric
from kv.batch import Op, encode_batch
from kv.lease import AGAIN, CHECKPOINT_NS, SECOND_NS, UNKNOWN, Clock, Lessor
from kv.lease_ops import LeaseEvent, encode_checkpoints, encode_expiry
from kv.store import Lease
from storage.database import exists
from storage.leases import LeaseReader
from transport.context import ActorContext
from transport.counters import Cell
from transport.lanes import Lane
from transport.links import Welcome
from transport.mailbox import Flush, Tick

EXPIRIES_SHOWN: Final = 5
STALL_NS: Final = SECOND_NS // 2
MISSED_NS: Final = SECOND_NS // 4


def boottime_ns() -> int:
    """Return CLOCK_BOOTTIME: grants and clocks go on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class LessorActor(Actor):
    """See the module docstring."""

    tick_seconds = 0.1

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        config = context.config
        self._extend = int(config["election_timeout_ms"]) * (NANOSECONDS // 1000)
        gates = config.get("feature_gates", {})
        self._file = ClockFile(context.run_dir / "leases")
        self._core = Lessor(
            self._file, checkpoint_ns=CHECKPOINT_NS if gates.get("LeaseCheckpoint") else 0
        )
        self._grant = Grant(term=0, first_index=0, deadline_ns=0)
        self._term = 0  # the one it is primary in, 0 for none
        self._synced = 0  # index up to which it has everything
        self._told = (0, 0)  # an index with facts, and when the board was seen to tell it
        self._must_read = False
        self._worked_at = boottime_ns()
        self._quiet_until = 0
        self._left_out_until = 0  # one stall may be noticed twice
        self._reader: LeaseReader | None = None
        self._generation = 0
        self._answers: dict[str, tuple[list[int], list[int]]] = {}
        self._raft = self.board.block("raft-node") + Cell.METRICS
        self._applier = self.board.block("applier") + Cell.METRICS
        words = self._metrics
        self._before = (
            self._words[words + LessorMetric.RENEWED],
            self._words[words + LessorMetric.EXPIRED],
        )

    # --- the grant --------------------------------------------------------------------------------

    @handles(Grant)
    def granted(self, message: Grant) -> None:
        """Take the newest grant; its deadline is absolute, so a late one is harmless."""
        known = self._grant
        if message.term < known.term:
            return
        if message.term > known.term:
            self._demote()
        elif message.deadline_ns and message.deadline_ns <= known.deadline_ns:
            return
        elif self._term and known.deadline_ns < (now := boottime_ns()):
            self._be_quiet(now, now - known.deadline_ns)
        self._grant = message
        if not message.deadline_ns:
            self._demote()

    def _demote(self) -> None:
        self._term = 0
        self._core.demote()

    def _is_primary(self, now: int) -> bool:
        """Whether to act: the grant is valid now and the clocks are of its term."""
        return bool(self._term) and self._term == self._grant.term and now < self._grant.deadline_ns

    def _promote(self, now: int) -> None:
        """Take the leases from the database, once it holds what the terms before have left."""
        grant = self._grant
        if self._words[self._applier + ApplierMetric.APPLIED_INDEX] < grant.first_index:
            return
        reader = self._database()
        if reader is None:
            return
        index, leases = reader.leases()
        if index < grant.first_index:
            return
        kept, worked_at = self._file.load(grant.term)
        self._file.begin(grant.term)
        self._core.promote(leases, now, self._extend, kept)
        self._term, self._synced = grant.term, index
        self._must_read = False
        if kept:
            self._be_quiet(now, now - worked_at)
        self.log.info("lessor is primary", term=grant.term, leases=len(leases), kept=len(kept))

    def _be_quiet(self, now: int, gap: int) -> None:
        """Nobody could be heard for a while: it does not count, and keep-alives come first now."""
        if gap > STALL_NS:
            self._quiet_until = max(self._quiet_until, now + min(gap, self._extend))
            self._core.postpone(min(gap, now - self._left_out_until))
            self._left_out_until = now

    # --- the database -----------------------------------------------------------------------------

    def _database(self) -> LeaseReader | None:
        generation = self._words[self._applier + ApplierMetric.GENERATION]
        directory = self.context.data_dir / "member" / "db"
        if self._reader is None:
            if not exists(directory):
                return None
            self._generation = generation
            self._reader = LeaseReader(directory)
        elif generation != self._generation:
            self._generation = generation
            self._must_read |= self._reader.reopen()
        return self._reader

    @handles(LeaseFacts)
    def facts(self, message: LeaseFacts) -> None:
        """Follow what the applier has committed; what the database has told already is skipped."""
        if not self._term or message.index <= self._synced:
            return
        now, core = boottime_ns(), self._core
        for event, lease_id, seconds, granted_index in zip(
            message.events, message.leases, message.seconds, message.granted_indexes, strict=True
        ):
            if event == LeaseEvent.GRANTED:
                core.granted(Lease(lease_id, seconds, 0, granted_index), now)
            elif event == LeaseEvent.REVOKED:
                core.revoked(lease_id, granted_index)
            elif event == LeaseEvent.CHECKPOINTED:
                core.checkpointed(lease_id, granted_index, seconds, now)
        self._synced = message.index

    @handles(Welcome)
    def welcomed(self, message: Welcome) -> None:
        """Facts of an applier, or proposals to a raft node, may have been lost."""
        if message.sender == "applier":
            self._must_read = True
        elif message.sender == "raft-node":
            self._core.retry_all()

    def _catch_up(self, now: int) -> None:
        """Read the database if facts are missing: the board tells when there have been some."""
        index, since = self._told
        missed = index > self._synced and now - since >= MISSED_NS
        if index <= self._synced:
            self._told = (self._words[self._applier + ApplierMetric.LEASE_INDEX], now)
        reader = self._database()
        if reader is None or not (missed or self._must_read):
            return
        self._must_read = False
        self._synced, leases = reader.leases()
        self._core.reconcile(leases, now)

    # --- questions --------------------------------------------------------------------------------

    @handles(LeaseAsk)
    def asked(self, message: LeaseAsk) -> None:
        """Answer a gateway, or pass its questions on to the leader's lessor."""
        now = boottime_ns()
        gateway = message.gateway
        if self._is_primary(now):
            seconds = self._answer(message.leases, message.kinds, now)
        else:
            leader = self._words[self._raft + RaftMetric.LEADER]
            if leader not in (0, self._words[self._raft + RaftMetric.MEMBER_ID]):
                payload = encode_asked(gateway, message.ids, message.leases, message.kinds)
                if self._tell_peer(leader, payload):
                    self.count(LessorMetric.FORWARDED, len(message.ids))
                    return
            seconds = [AGAIN] * len(message.ids)
        self._note_answers(gateway, message.ids, seconds)

    @handles(PeerReceived)
    def peer_received(self, message: PeerReceived) -> None:
        """Answer other members' lessors; hand on what they answered."""
        now = boottime_ns()
        for sender, payload in zip(message.senders, message.payloads, strict=True):
            try:
                received = decode_lease_peer(payload)
            except LeasePeerError:
                self.count(LessorMetric.REFUSED)
                continue
            if isinstance(received, Asked):
                if self._is_primary(now):
                    seconds = self._answer(received.leases, received.kinds, now)
                else:
                    seconds = [AGAIN] * len(received.ids)
                self._tell_peer(sender, encode_told(received.gateway, received.ids, seconds))
            elif received.gateway.startswith("gateway-") and received.gateway in self.board.names:
                self._note_answers(received.gateway, received.ids, received.seconds)
            else:
                self.count(LessorMetric.REFUSED)

    def _tell_peer(self, member: int, payload: bytes) -> bool:
        return self.links.is_open("transport") and self.send(
            "transport", PeerMessages([member], [Lane.LEASE], [payload])
        )

    def _note_answers(self, gateway: str, ids: list[int], seconds: list[int]) -> None:
        columns = self._answers.setdefault(gateway, ([], []))
        columns[0].extend(ids)
        columns[1].extend(seconds)

    def _answer(self, leases: list[int], kinds: bytes, now: int) -> list[int]:
        """Return seconds for each lease; what is new in the database is found there."""
        core = self._core
        if not leases:
            return []
        if kinds.count(LeaseKind.RENEW) == len(kinds):
            renew = core.renew
            seconds = [renew(lease_id, now) for lease_id in leases]
        else:
            seconds = [
                core.renew(lease_id, now)
                if kind == LeaseKind.RENEW
                else core.remaining(lease_id, now)
                for lease_id, kind in zip(leases, kinds, strict=True)
            ]
        if UNKNOWN in seconds:
            self._look_up(leases, kinds, seconds, now)
        return seconds

    def _look_up(self, leases: list[int], kinds: bytes, seconds: list[int], now: int) -> None:
        """A grant's fact may still be on its way: leases not known are looked for once more."""
        unknown = [
            place
            for place, told in enumerate(seconds)
            if told == UNKNOWN and leases[place] not in self._core.clocks
        ]
        reader = self._database()
        if not unknown or reader is None:
            return
        found = reader.some([leases[place] for place in unknown])
        for lease in found.values():
            self._core.granted(lease, now)
        for place in unknown:
            if leases[place] in found:
                seconds[place] = (
                    self._core.renew(leases[place], now)
                    if kinds[place] == LeaseKind.RENEW
                    else self._core.remaining(leases[place], now)
                )

    # --- acting -----------------------------------------------------------------------------------

    @handles(Flush)
    def flush(self, _: Flush) -> None:
        """Everything that came has been heard: answer, and do what is due."""
        answers, self._answers = self._answers, {}
        for gateway, (ids, seconds) in answers.items():
            if self.links.is_open(gateway):
                self.send(gateway, LeaseTold(ids, seconds), len(ids))
        self._act(boottime_ns())

    @handles(Tick)
    def tick(self, _: Tick) -> None:
        """Time has passed, maybe more than it should have."""
        now = boottime_ns()
        self._be_quiet(now, now - self._worked_at)
        self._worked_at = now
        self._file.at_work(now)
        if self._reader is not None:
            self._database()  # lets go of a file that is no longer in use
        core = self._core
        self.metric(LessorMetric.PRIMARY, self._is_primary(now))
        self.metric(LessorMetric.LEASES, len(core.clocks))
        self.metric(LessorMetric.RENEWED, self._before[0] + core.renewed)
        self.metric(LessorMetric.EXPIRED, self._before[1] + core.expired)

    def _act(self, now: int) -> None:
        """Propose what is due, if this lessor may. Not in a Tick: that comes before its batch."""
        if now >= self._grant.deadline_ns:
            return
        if self._term != self._grant.term:
            self._promote(now)
        if not self._is_primary(now):
            return
        self._catch_up(now)
        if now >= self._quiet_until:
            self._propose_expiries(self._core.due_revocations(now))
        checkpoints = self._core.due_checkpoints(now)
        if checkpoints:
            self._propose(Op.LEASE_CHECKPOINT, [encode_checkpoints(self._term, checkpoints)])
        due = self._core.next_due(now)
        if due is not None:
            wait = max(due, self._quiet_until) - now
            self.actor_inbox.wake_at(time.monotonic() + wait / NANOSECONDS)

    def _propose_expiries(self, clocks: list[Clock]) -> None:
        if clocks:
            term = self._term
            self._propose(
                Op.LEASE_EXPIRE,
                [encode_expiry(term, clock.id, clock.granted_index) for clock in clocks],
            )

    def _propose(self, op: Op, requests: list[bytes]) -> None:
        count = len(requests)
        batch = encode_batch(0, 0, 0, bytes([op]) * count, requests)
        self.send("raft-node", Propose(session=0, first_id=0, count=count, batch=batch), count)

    def stats(self) -> dict[str, Any]:
        """Return the grant, what the clocks are, and which run out next."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return {
            "term": self._grant.term,
            "deadline_ns": self._grant.deadline_ns,
            "primary": bool(self._term),
            "leases": len(self._core.clocks),
            "synced_index": self._synced,
            "renewed": self._core.renewed,
            "expired": self._core.expired,
            "next_expiries": [
                {"lease": f"{clock.id:x}", "seconds": round((clock.expiry - now) / 1e9, 3)}
                for clock in self._core.next_expiries(EXPIRIES_SHOWN)
            ],
        }


def main(context: ActorContext) -> None:
    """Run the lessor of one member."""
    run(LessorActor, context)
