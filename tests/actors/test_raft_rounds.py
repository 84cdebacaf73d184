"""What clients ask for waits for the round that is under way, and never for long."""

from __future__ import annotations

from math import inf
from typing import Any

from actors.gathering import WAIT_SECONDS_MAX
from actors.raft_reads import READS_ASKED_MAX, ReadsAsked
from actors.raft_rounds import HOLD_SECONDS, Intake, Rounds
from kv.batch import Op, batch_name, encode_batch
from raft.errors import ProposalDroppedError
from raft.messages import Message, MsgProp, MsgReadIndex
from raft.state import Entry

NOW = 100.0
SOON = NOW + HOLD_SECONDS / 2
LATE = NOW + HOLD_SECONDS


class Core:
    """A raft core as far as it is asked here: its log grows by what is proposed."""

    def __init__(self, *, leads: bool = True, refuses: bool = False) -> None:
        self.is_leader = leads
        self.refuses = refuses
        self.raft = self.log = self.read_only = self.tracker = self
        self.singleton = 0
        self.committed = self.last = 5
        self.applied = 0
        self.term = 2
        self.held: list[Entry] = [Entry(1, index, b"") for index in range(1, 6)]
        self.confirmed = self.asked = 0
        self.proposed: list[bytes] = []
        self.contexts: list[bytes] = []
        self.stepped: list[Message] = []
        self.contexts_at_step = 0

    def last_index(self) -> int:
        return self.last

    def propose(self, datas: list[bytes]) -> None:
        if self.refuses:
            raise ProposalDroppedError
        self.proposed += datas
        self.append(datas)

    def append(self, datas: list[bytes]) -> None:
        for data in datas:
            self.last += 1
            self.held.append(Entry(self.term, self.last, data))

    def slice(self, low: int, high: int, _: int) -> list[Entry]:
        return self.held[low - 1 : high - 1]

    def step(self, message: Message) -> None:
        self.stepped.append(message)
        self.contexts_at_step = len(self.contexts)
        if self.is_leader:
            if isinstance(message, MsgProp):
                self.append([entry.data for entry in message.entries])
            else:
                self.asked += 1

    def needs_round(self, request: MsgReadIndex) -> bool:
        return request.follows != self.term

    def read_index(self, context: bytes) -> None:
        self.contexts.append(context)
        self.asked += 1


class Desk:
    """An intake, and what its outbox was told."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.has_clients_at: list[tuple[int, float]] = []
        self.asks_at: list[tuple[int, float]] = []
        self.told: list[tuple[int, int]] = []
        node: Any = core
        outbox: Any = self
        self.reminders = 0
        self.spacing = 0.0
        cpu: Any = self
        self.intake = Intake(node, outbox, core.step, self.remind, cpu)
        self.proposals, self.reads = self.intake.proposals, self.intake.reads

    def look(self, now: float) -> None:
        """Be asked how busy the CPUs are; `spacing` says it."""

    def remind(self) -> None:
        self.reminders += 1

    def has_clients(self, member: int, now: float) -> None:
        self.has_clients_at.append((member, now))

    def asks(self, member: int, now: float) -> None:
        self.asks_at.append((member, now))

    def forwarded(self, member: int, last_index: int) -> None:
        self.told.append((member, last_index))


def prop(member: int, *datas: bytes) -> MsgProp:
    return MsgProp(1, member, 2, tuple(Entry(0, 0, data) for data in datas))


def test_a_round_is_over_when_its_goal_is_reached_or_it_takes_too_long() -> None:
    rounds = Rounds()
    assert rounds.due(0) == -inf

    rounds.begun(7, NOW)

    assert rounds.due(6) == LATE
    assert rounds.due(7) == -inf


def test_a_leader_waits_for_those_whose_round_is_over_to_ask_again() -> None:
    desk = Desk(Core())
    desk.intake.forwarded(prop(2, b"a" * 8, b"b" * 8), NOW)
    desk.proposals.add(b"c" * 8)
    assert desk.intake.take_up(NOW) == (0, inf)
    desk.core.committed = 8
    answered = NOW + 0.25
    desk.proposals.add(b"d" * 8)
    assert desk.intake.take_up(answered) == (0, answered + WAIT_SECONDS_MAX)
    desk.intake.forwarded(prop(2, b"e" * 8), answered)
    assert desk.intake.take_up(answered) == (0, answered + WAIT_SECONDS_MAX)

    desk.intake.forwarded(prop(3, b"f" * 8), answered)
    assert desk.intake.take_up(answered) == (0, inf)

    assert desk.core.proposed == [b"c" * 8, b"d" * 8]
    assert desk.core.stepped == [prop(2, b"a" * 8, b"b" * 8), prop(2, b"e" * 8), prop(3, b"f" * 8)]


def test_a_leader_does_not_wait_for_them_for_long() -> None:
    desk = Desk(Core())
    for data in (b"a" * 8, b"b" * 8):
        desk.proposals.add(data)
    desk.intake.take_up(NOW)
    desk.core.committed = 7
    desk.proposals.add(b"c" * 8)
    _, due = desk.intake.take_up(LATE)
    assert LATE < due <= LATE + WAIT_SECONDS_MAX

    assert desk.intake.take_up(due) == (0, inf)

    assert desk.core.proposed == [b"a" * 8, b"b" * 8, b"c" * 8]


def test_a_leader_waits_for_most_of_what_a_round_carried() -> None:
    desk = Desk(Core())
    desk.proposals.add(b"a" * 80)
    desk.intake.take_up(NOW)
    desk.core.committed = 6
    desk.proposals.add(b"b" * 69)
    assert desk.intake.take_up(LATE)[1] > LATE

    desk.proposals.add(b"b")
    assert desk.intake.take_up(LATE) == (0, inf)


def test_rounds_that_are_not_waited_for_are_owed_together() -> None:
    desk = Desk(Core())
    desk.proposals.add(b"a" * 8)
    desk.intake.take_up(NOW)
    desk.proposals.add(b"b" * 8)
    assert desk.intake.take_up(LATE) == (0, inf), "the first takes too long"
    desk.core.committed = 7
    desk.proposals.add(b"c" * 8)

    assert desk.intake.take_up(LATE + 0.25) == (0, LATE + 0.25 + WAIT_SECONDS_MAX)


def test_the_only_voter_takes_up_at_once_what_comes() -> None:
    desk = Desk(Core())
    desk.spacing = 0.01
    desk.core.singleton = 1
    for data in (b"a", b"b", b"c"):
        desk.proposals.add(data)
        assert desk.intake.take_up(NOW) == (0, inf)

    assert desk.core.proposed == [b"a", b"b", b"c"]


def test_proposals_wait_for_the_commit_of_those_before_and_leave_together() -> None:
    desk = Desk(Core())
    desk.proposals.add(b"a")
    assert desk.intake.take_up(NOW) == (0, inf)
    desk.proposals.add(b"b")
    desk.intake.forwarded(prop(2, b"c", b"d"), SOON)

    assert desk.intake.take_up(SOON) == (0, LATE)
    assert len(desk.intake) == 2
    assert desk.core.proposed == [b"a"]

    desk.core.committed = 6
    assert desk.intake.take_up(SOON) == (0, inf)

    assert desk.core.stepped == [prop(2, b"c", b"d")]
    assert desk.core.proposed == [b"a", b"b"]
    assert desk.has_clients_at == [(2, SOON)]
    assert desk.told == [(2, 9)]
    assert not desk.intake


def test_a_commit_that_does_not_come_holds_nobody_up_for_long() -> None:
    desk = Desk(Core())
    desk.proposals.add(b"a")
    desk.intake.take_up(NOW)
    desk.proposals.add(b"b")

    assert desk.intake.take_up(LATE) == (0, inf)

    assert desk.core.proposed == [b"a", b"b"]


def test_reads_wait_for_the_confirmation_under_way_and_entries_do_not() -> None:
    desk = Desk(Core())
    desk.reads.note("gateway-0", 1)
    assert desk.intake.take_up(NOW) == (0, inf)
    desk.reads.note("gateway-0", 2)
    desk.intake.forwarded(MsgReadIndex(1, 3, 2, b"theirs"), SOON)
    desk.proposals.add(b"a")

    assert desk.intake.take_up(SOON) == (0, LATE)
    assert desk.core.asked == 1
    assert desk.core.proposed == [b"a"]

    desk.core.confirmed = 1
    assert desk.intake.take_up(SOON) == (0, inf)

    assert desk.core.asked == 3
    assert not desk.intake


def test_a_read_that_needs_no_round_is_answered_at_once_and_after_our_own() -> None:
    desk = Desk(Core())
    desk.reads.note("gateway-0", 1)
    desk.intake.take_up(NOW)
    request = MsgReadIndex(1, 3, 0, b"theirs", follows=2)
    desk.intake.forwarded(request, SOON)

    assert len(desk.intake) == 1
    assert desk.intake.take_up(SOON) == (0, inf), "it does not wait for our round"
    assert desk.core.stepped == [request]

    desk.core.confirmed = 2
    desk.reads.note("gateway-0", 2)
    desk.intake.forwarded(request, LATE)
    desk.core.stepped.clear()
    desk.intake.take_up(LATE)
    assert desk.core.contexts_at_step == 2, "our own read is asked first, so the answer tells of it"
    assert desk.asks_at == []


def test_on_busy_cpus_who_asks_for_reads_is_expected_to_ask_again() -> None:
    desk = Desk(Core())
    desk.spacing = 0.01

    desk.intake.forwarded(MsgReadIndex(1, 3, 0, b"theirs", follows=2), NOW)

    assert desk.asks_at == [(3, NOW)]


def test_who_does_not_lead_passes_proposals_on_at_once() -> None:
    desk = Desk(Core(leads=False))
    for data in (b"a", b"b"):
        desk.proposals.add(data)
        desk.intake.forwarded(prop(2, data), NOW)
        assert desk.intake.take_up(NOW) == (0, inf)

    assert desk.core.proposed == [b"a", b"b"]
    assert desk.core.stepped == [prop(2, b"a"), prop(2, b"b")]
    assert desk.has_clients_at == []


def test_who_does_not_lead_asks_for_one_read_index_at_a_time() -> None:
    desk = Desk(Core(leads=False))
    desk.reads.note("gateway-0", 1)
    assert desk.intake.take_up(NOW) == (0, inf)
    (context,) = desk.core.contexts
    desk.reads.note("gateway-0", 2)
    desk.reads.note("gateway-1", 1)

    assert desk.intake.take_up(SOON) == (0, LATE)
    assert desk.core.contexts == [context]

    assert desk.reads.answered(context) == {"gateway-0": 1}
    assert desk.intake.take_up(SOON) == (0, inf)
    assert desk.reads.answered(desk.core.contexts[1]) == {"gateway-0": 2, "gateway-1": 1}


def test_a_leader_that_does_not_answer_is_asked_again() -> None:
    desk = Desk(Core(leads=False))
    desk.reads.note("gateway-0", 1)
    desk.intake.take_up(NOW)
    desk.reads.note("gateway-0", 2)

    desk.intake.take_up(LATE)

    assert len(desk.core.contexts) == 2


def test_without_a_leader_proposals_wait() -> None:
    desk = Desk(Core(leads=False, refuses=True))
    desk.proposals.add(b"a")

    assert desk.intake.take_up(NOW) == (0, inf)

    assert len(desk.intake) == 1


def test_an_answer_is_one_to_all_that_was_asked_before() -> None:
    reads = ReadsAsked()
    contexts = []
    for gateway, read_id in (
        ("gateway-0", 1),
        ("gateway-1", 7),
        ("gateway-0", 2),
        ("gateway-0", 3),
    ):
        reads.note(gateway, read_id)
        contexts.append(reads.round() or b"")

    assert reads.answered(contexts[2]) == {"gateway-0": 2, "gateway-1": 7}
    assert reads.answered(contexts[0]) == {}
    assert reads.answered(b"grant") == {}
    assert len(reads) == 1


def test_reads_that_nobody_answers_are_forgotten_in_the_end() -> None:
    reads = ReadsAsked()

    for number in range(READS_ASKED_MAX + 10):
        reads.note("gateway-0", number)
        reads.round()

    assert len(reads) == READS_ASKED_MAX


def batch(first_id: int, session: int = 1 << 63, value: bytes = b"v") -> bytes:
    return encode_batch(session, first_id, first_id, bytes([Op.PUT]), [value])


def test_a_leader_leaves_out_what_its_log_holds_and_has_not_applied() -> None:
    core = Core()
    desk = Desk(core)
    core.append([batch(1), batch(2)])  # of a leader before, or of itself before a restart
    core.applied = 6
    core.committed = 7

    for data in (batch(1), batch(2), batch(3), batch(3), batch(2, session=7)):
        desk.proposals.add(data)
    desk.intake.forwarded(prop(4, batch(3), batch(4), batch(4)), NOW)
    desk.intake.forwarded(prop(5, batch(4)), NOW)
    desk.intake.take_up(NOW)

    assert core.proposed == [batch(1), batch(3), batch(2, session=7)]
    assert core.stepped == [prop(4, batch(4))]
    assert desk.told == [(4, 11), (5, 11)]  # they hear of the commit of the first copies
    assert desk.intake.copies.dropped == 5
    assert desk.reminders == 1


def test_what_was_applied_or_lost_with_a_leadership_is_no_copy() -> None:
    core = Core()
    desk = Desk(core)
    desk.proposals.add(batch(1))
    desk.proposals.add(batch(2))
    desk.intake.take_up(NOW)
    del core.held[-1]  # another leader had something else there
    core.held.append(Entry(3, core.last, b""))
    core.applied, core.term, core.committed = 6, 4, core.last

    desk.proposals.add(batch(1))
    desk.proposals.add(batch(2))
    desk.intake.take_up(LATE)

    assert core.proposed == [batch(1), batch(2)] * 2
    core.applied = core.committed = core.last
    desk.proposals.add(batch(3))
    _, due = desk.intake.take_up(2 * LATE)  # waits for two to ask again
    desk.intake.take_up(due)
    desk.intake.copies.look(desk.core.raft)  # type: ignore[arg-type]
    assert len(desk.intake.copies) == 1
    assert desk.intake.copies.dropped == 0
    assert not desk.reminders


def test_a_member_that_does_not_lead_leaves_nothing_out() -> None:
    core = Core(leads=False)
    desk = Desk(core)
    core.append([batch(1)])

    desk.proposals.add(batch(1))
    desk.intake.forwarded(prop(4, batch(1)), NOW)
    desk.intake.take_up(NOW)

    assert core.proposed == [batch(1)]
    assert core.stepped == [prop(4, batch(1))]


def test_only_a_batch_of_a_session_has_a_name() -> None:
    wide = encode_batch(2**64 - 1, 2**64 - 1, 2**64 - 2, b"", [])
    other = encode_batch(2**64 - 1, 2**64 - 1, 2**64 - 3, b"", [])

    assert len({batch_name(data) for data in (wide, other, batch(1), batch(2), batch(1, 7))}) == 5
    for unnamed in (batch(1, session=0), b"", b"\x95", b"a configuration change"):
        assert batch_name(unnamed) is None


def test_expiries_have_no_session_and_are_all_proposed() -> None:
    core = Core()
    desk = Desk(core)
    core.append([batch(0, session=0)])

    desk.proposals.add(batch(0, session=0), urgent=True)
    desk.intake.take_up(NOW)

    assert core.proposed == [batch(0, session=0)]
