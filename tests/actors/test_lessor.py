"""The lessor alone, over a real database: what it sends is caught, time is handed to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import lessor as lessor_module
from actors.lease_peers import Asked, Told, decode_lease_peer, encode_asked, encode_told
from actors.lessor import LessorActor
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
from etcdpb.rpc_pb2 import LeaseGrantRequest, LeaseRevokeRequest
from kv.batch import Op, decode_batch, encode_batch
from kv.lease import AGAIN, SECOND_NS, UNKNOWN
from kv.lease_ops import encode_checkpoints, encode_expiry
from kv.machine import Machine
from storage.database import open_or_create
from storage.store import SqliteStore
from tests.actors.boards import context, make_board
from transport.counters import Cell
from transport.lanes import Lane
from transport.links import Welcome
from transport.mailbox import Flush, Tick

CONFIG = {"election_timeout_ms": 1000, "feature_gates": {"LeaseCheckpoint": True}}
ME, OTHER = 11, 22
TERM = 3
START = 5000 * SECOND_NS
OPS = {LeaseGrantRequest: Op.LEASE_GRANT, LeaseRevokeRequest: Op.LEASE_REVOKE}


class Bench:
    """A lessor, the database it reads and the state machine that writes it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr(lessor_module, "boottime_ns", lambda: self.now)
        self.folder = folder
        self.board = make_board(folder)
        self._word("raft-node", RaftMetric.MEMBER_ID, ME)
        self._word("raft-node", RaftMetric.LEADER, ME)
        (folder / "member").mkdir()
        self.store = SqliteStore(open_or_create(folder / "member" / "db"))
        self.machine = Machine(self.store)
        self.sent: list[tuple[str, Any]] = []
        self.start()

    def start(self, incarnation: int = 1) -> None:
        """Start the actor, or a successor of it."""
        self.actor = LessorActor(context(self.folder, "lessor", CONFIG, incarnation))
        self.actor.send = self._catch  # type: ignore[method-assign]
        self.actor.links.is_open = lambda receiver: True  # type: ignore[method-assign]

    def _word(self, actor: str, word: int, value: int) -> None:
        self.board.set(actor, Cell.METRICS + word, value)

    def _catch(self, receiver: str, message: object, items: int = 1) -> bool:
        self.sent.append((receiver, message))
        return True

    def apply(self, *requests: Any, ops: bytes = b"", tell: bool = True) -> LeaseFacts:
        """Apply requests as one entry; tell the lessor as the applier does."""
        machine = self.machine
        ops = ops or bytes(OPS[type(request)] for request in requests)
        datas = [r if isinstance(r, bytes) else r.SerializeToString() for r in requests]
        self.store.begin()
        machine.apply(machine.applied_index + 1, TERM, encode_batch(0, 0, 0, ops, datas))
        machine.flush()
        self.store.commit()
        facts = machine.take_lease_facts()
        self._word("applier", ApplierMetric.APPLIED_INDEX, machine.applied_index)
        if facts:
            self._word("applier", ApplierMetric.LEASE_INDEX, machine.applied_index)
        events, leases, seconds, granted = zip(*facts, strict=True) if facts else ((),) * 4
        message = LeaseFacts(
            machine.applied_index, bytes(events), list(leases), list(seconds), list(granted)
        )
        if tell:
            self.actor.facts(message)
        return message

    def grant(self, lease: int, ttl: int = 10, *, tell: bool = True) -> int:
        """Grant a lease; return the index of its entry."""
        self.apply(LeaseGrantRequest(ID=lease, TTL=ttl), tell=tell)
        return self.machine.applied_index

    def lead(self, term: int = TERM, seconds: float = 3600.0, first_index: int = 0) -> None:
        """Grant leadership and let the lessor act."""
        self.actor.granted(Grant(term, first_index, self.now + int(seconds * SECOND_NS)))
        self.flush()

    def flush(self, at: float | None = None) -> None:
        """Let the lessor act, as if nothing had stopped it in between."""
        if at is not None:
            self.now = START + int(at * SECOND_NS)
            self.actor._worked_at = self.now
        self.actor.flush(Flush())

    def ask(self, *leases: int, kind: LeaseKind = LeaseKind.RENEW) -> list[int]:
        """Ask as a gateway does; return the answers."""
        self.sent = []
        count = len(leases)
        self.actor.asked(
            LeaseAsk("gateway-0", list(range(count)), list(leases), bytes([kind]) * count)
        )
        self.flush()
        return [s for _, m in self.sent if isinstance(m, LeaseTold) for s in m.seconds]

    def proposed(self) -> list[tuple[int, bytes]]:
        """Return (op, request) of what was proposed, and forget it."""
        found = []
        for receiver, message in self.sent:
            if isinstance(message, Propose):
                assert receiver == "raft-node"
                batch = decode_batch(message.batch)
                assert batch.session == 0
                found += list(zip(batch.ops, batch.requests, strict=True))
        self.sent = []
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.store.close()


def test_an_expired_lease_is_proposed_with_the_term_and_the_granting_entry(bench: Bench) -> None:
    bench.lead()
    index = bench.grant(1)

    bench.flush(at=9.999)
    assert bench.proposed() == []
    bench.flush(at=10)

    assert bench.proposed() == [(Op.LEASE_EXPIRE, encode_expiry(TERM, 1, index))]


def test_leases_of_before_are_taken_from_the_database_and_extended(bench: Bench) -> None:
    bench.grant(1, tell=False)

    bench.lead()

    assert bench.ask(1, kind=LeaseKind.REMAINING) == [11]  # one election timeout more


def test_it_is_not_primary_before_the_database_has_what_earlier_terms_left(bench: Bench) -> None:
    bench.grant(1, tell=False)

    bench.lead(first_index=2)
    assert bench.ask(1) == [AGAIN]
    bench.grant(2, tell=False)
    bench.flush()

    assert bench.ask(1, 2) == [10, 10]


def test_the_database_and_not_the_board_says_what_has_been_applied(bench: Bench) -> None:
    bench.grant(1, tell=False)
    bench._word("applier", ApplierMetric.APPLIED_INDEX, 99)

    bench.lead(first_index=2)

    assert bench.ask(1) == [AGAIN]


def test_without_a_valid_grant_it_answers_and_proposes_nothing(bench: Bench) -> None:
    bench.lead(seconds=5)
    bench.grant(1, ttl=2)

    bench.now += 5 * SECOND_NS

    assert bench.ask(1) == [AGAIN]
    assert bench.proposed() == []


def test_a_grant_that_lay_in_a_frozen_mailbox_gives_no_right(bench: Bench) -> None:
    stale = Grant(TERM, 0, bench.now + SECOND_NS)
    bench.grant(1, ttl=2, tell=False)
    bench.now += 10 * SECOND_NS

    bench.actor.granted(stale)
    bench.flush()

    assert bench.ask(1) == [AGAIN]


def test_a_member_that_no_longer_leads_forgets_its_clocks(bench: Bench) -> None:
    bench.lead()
    bench.grant(1, ttl=2)

    bench.actor.granted(Grant(TERM, 0, 0))
    bench.flush(at=60)

    assert bench.proposed() == []
    assert bench.actor.stats()["leases"] == 0


def test_an_old_grant_does_not_undo_a_newer_one(bench: Bench) -> None:
    bench.lead(term=TERM + 1)

    bench.actor.granted(Grant(TERM, 0, bench.now + 9999 * SECOND_NS))
    bench.actor.granted(Grant(TERM, 0, 0))
    bench.grant(1)

    assert bench.ask(1) == [10]


def test_a_lease_whose_grant_was_not_told_yet_is_found_in_the_database(bench: Bench) -> None:
    bench.lead()
    bench.grant(1, ttl=7, tell=False)

    assert bench.ask(1, 2) == [7, UNKNOWN]


def test_facts_that_the_database_has_told_already_are_skipped(bench: Bench) -> None:
    facts = bench.apply(LeaseGrantRequest(ID=1, TTL=5), tell=False)
    bench.apply(LeaseRevokeRequest(ID=1), tell=False)
    bench.lead()

    bench.actor.facts(facts)

    assert bench.ask(1) == [UNKNOWN]


def test_facts_that_never_come_are_read_from_the_database(bench: Bench) -> None:
    bench.lead()
    bench.grant(1)
    bench.apply(LeaseRevokeRequest(ID=1), tell=False)
    bench.grant(2, ttl=5, tell=False)

    bench.flush(at=1)
    assert bench.actor.stats()["leases"] == 1
    bench.flush(at=1.5)

    assert bench.ask(2, kind=LeaseKind.REMAINING) == [5]
    assert bench.actor.stats()["leases"] == 1


def test_after_a_new_applier_the_database_is_read(bench: Bench) -> None:
    bench.lead()
    bench.grant(1)
    bench.apply(LeaseRevokeRequest(ID=1), tell=False)

    bench.actor.welcomed(Welcome("applier", 2, []))
    bench.flush()

    assert bench.actor.stats()["leases"] == 0


def test_what_a_dead_raft_node_was_told_is_proposed_again(bench: Bench) -> None:
    bench.lead()
    bench.grant(1)
    bench.flush(at=10)
    first = bench.proposed()
    bench.flush(at=10.1)
    assert bench.proposed() == []

    bench.actor.welcomed(Welcome("raft-node", 2, []))
    bench.flush()

    assert bench.proposed() == first


def test_a_successor_in_the_same_term_goes_on_with_the_same_clocks(bench: Bench) -> None:
    bench.lead()
    index = bench.grant(1)
    bench.grant(2)
    bench.now += 4 * SECOND_NS
    assert bench.ask(2) == [10]
    bench.actor._worked_at = bench.now
    bench.actor.tick(Tick(0.0))

    bench.start(incarnation=2)
    bench.lead()

    assert bench.ask(1, 2, kind=LeaseKind.REMAINING) == [6, 10]
    bench.flush(at=10)
    assert bench.proposed() == [(Op.LEASE_EXPIRE, encode_expiry(TERM, 1, index))]


def test_clocks_of_another_term_are_not_believed(bench: Bench) -> None:
    bench.lead()
    bench.grant(1)
    bench.now += 4 * SECOND_NS

    bench.start(incarnation=2)
    bench.lead(term=TERM + 1)

    assert bench.ask(1, kind=LeaseKind.REMAINING) == [11]


def test_a_lessor_that_was_frozen_hears_keep_alives_before_anything_expires(bench: Bench) -> None:
    bench.lead()
    bench.grant(1, ttl=10)
    bench.actor.tick(Tick(0.0))

    bench.now += int(9.9 * SECOND_NS)  # nothing ran meanwhile
    bench.actor.tick(Tick(0.0))
    assert bench.ask(1) == [10]
    bench.now += SECOND_NS // 5
    bench.flush()

    assert bench.proposed() == []


@pytest.mark.parametrize("stalled", ["lessor", "grants"])
def test_a_lease_that_expired_during_a_stall_can_still_be_kept_alive(
    bench: Bench, stalled: str
) -> None:
    bench.lead(seconds=1.5 if stalled == "grants" else 3600)
    bench.grant(1, ttl=2)
    bench.actor.tick(Tick(0.0))

    bench.now += 3 * SECOND_NS
    if stalled == "grants":
        bench.actor._worked_at = bench.now
        bench.actor.granted(Grant(TERM, 0, bench.now + SECOND_NS * 3600))
    else:
        bench.actor.tick(Tick(0.0))
    assert bench.ask(1) == [2]
    bench.now += int(1.5 * SECOND_NS)
    bench.flush()

    assert bench.proposed() == []


def test_a_lease_whose_revocation_is_under_way_is_not_saved_by_a_stall(bench: Bench) -> None:
    bench.lead()
    bench.grant(1, ttl=2)
    bench.flush(at=2)
    assert bench.proposed()

    bench.now += 3 * SECOND_NS
    bench.actor.tick(Tick(0.0))

    assert bench.ask(1) == [UNKNOWN]


def test_a_lease_has_left_after_a_stall_what_it_had_before(bench: Bench) -> None:
    bench.lead()
    index = bench.grant(1, ttl=10)
    bench.now += 4 * SECOND_NS
    bench.actor._worked_at = bench.now

    bench.now += 11 * SECOND_NS
    bench.actor.tick(Tick(0.0))
    assert bench.ask(1, kind=LeaseKind.REMAINING) == [6]
    bench.now += int(5.9 * SECOND_NS)
    bench.flush()
    assert bench.proposed() == []
    bench.now += SECOND_NS
    bench.flush()

    assert bench.proposed() == [(Op.LEASE_EXPIRE, encode_expiry(TERM, 1, index))]


def test_a_checkpoint_is_proposed_and_taken_back_before_a_renewal(bench: Bench) -> None:
    bench.lead()
    index = bench.grant(1, ttl=1000)

    bench.flush(at=300)
    checkpoint = encode_checkpoints(TERM, [(1, index, 700)])
    assert bench.proposed() == [(Op.LEASE_CHECKPOINT, checkpoint)]
    bench.apply(checkpoint, ops=bytes([Op.LEASE_CHECKPOINT]))
    assert bench.ask(1) == [AGAIN]
    reset = encode_checkpoints(TERM, [(1, index, 0)])
    assert (Op.LEASE_CHECKPOINT, reset) in bench.proposed()
    bench.apply(reset, ops=bytes([Op.LEASE_CHECKPOINT]))

    assert bench.ask(1) == [1000]


# --- other members ------------------------------------------------------------------------------


def test_a_follower_passes_questions_on_to_the_leader(bench: Bench) -> None:
    bench._word("raft-node", RaftMetric.LEADER, OTHER)

    assert bench.ask(5, 6) == []

    assert bench.sent == [
        (
            "transport",
            PeerMessages(
                [OTHER],
                [Lane.LEASE],
                [encode_asked("gateway-0", [0, 1], [5, 6], bytes([LeaseKind.RENEW] * 2))],
            ),
        )
    ]


def test_without_a_leader_gateways_are_told_to_ask_again(bench: Bench) -> None:
    bench._word("raft-node", RaftMetric.LEADER, 0)

    assert bench.ask(5) == [AGAIN]


def test_the_leader_answers_other_members(bench: Bench) -> None:
    bench.lead()
    bench.grant(1)
    payload = encode_asked("gateway-1", [70, 71], [1, 2], bytes([LeaseKind.RENEW] * 2))

    bench.actor.peer_received(PeerReceived([OTHER], [Lane.LEASE], [payload]))

    answer = encode_told("gateway-1", [70, 71], [10, UNKNOWN])
    assert ("transport", PeerMessages([OTHER], [Lane.LEASE], [answer])) in bench.sent


def test_answers_of_the_leader_go_to_the_gateway_that_asked(bench: Bench) -> None:
    payload = encode_told("gateway-1", [70], [10])

    bench.actor.peer_received(PeerReceived([OTHER], [Lane.LEASE], [payload]))
    bench.flush()

    assert bench.sent == [("gateway-1", LeaseTold([70], [10]))]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x01", encode_told("raft-node", [1], [1]), encode_told("gateway-9", [1], [1])],
)
def test_what_no_lessor_says_is_counted_and_dropped(bench: Bench, payload: bytes) -> None:
    bench.actor.peer_received(PeerReceived([OTHER], [Lane.LEASE], [payload]))
    bench.flush()

    assert bench.sent == []
    assert bench.board.get("lessor", Cell.METRICS + LessorMetric.REFUSED) == 1


def test_what_lessors_say_to_each_other_can_be_read_again() -> None:
    asked = decode_lease_peer(encode_asked("gateway-0", [1, 2], [-5, 1 << 62], b"\x01\x02"))
    told = decode_lease_peer(encode_told("gateway-0", [1], [-1]))

    assert asked == Asked("gateway-0", [1, 2], [-5, 1 << 62], b"\x01\x02")
    assert told == Told("gateway-0", [1], [-1])


def test_its_summary_names_the_leases_that_run_out_next(bench: Bench) -> None:
    bench.lead()
    bench.grant(0x1A, ttl=60)

    (told,) = bench.actor.stats()["next_expiries"]

    assert told["lease"] == "1a"
    assert isinstance(told["seconds"], float)
