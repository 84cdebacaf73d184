"""The pure lessor: clocks that are handed their time."""

from __future__ import annotations

from random import Random

import pytest

from kv.lease import (
    AGAIN,
    CHECKPOINT_NS,
    PENDING_MAX,
    RETRY_NS,
    REVOKE_RATE,
    SECOND_NS,
    UNKNOWN,
    Lessor,
    spread,
)
from kv.lease import Clock as LeaseClock
from kv.store import Lease

START = 1000 * SECOND_NS


def lease(number: int, ttl: int = 10, remaining: int = 0, granted_index: int = 5) -> Lease:
    return Lease(number, ttl, remaining, granted_index)


def primary(*leases: Lease, extend: int = 0, checkpoint_ns: int = 0) -> Lessor:
    lessor = Lessor(checkpoint_ns=checkpoint_ns)
    lessor.promote(leases, START, extend)
    return lessor


def due(lessor: Lessor, now: int) -> list[int]:
    return [clock.id for clock in lessor.due_revocations(now)]


def test_a_lease_is_due_at_its_ttl_and_not_a_nanosecond_before() -> None:
    lessor = primary(lease(1), lease(2, ttl=20))

    assert due(lessor, START + 10 * SECOND_NS - 1) == []
    assert due(lessor, START + 10 * SECOND_NS) == [1]
    assert due(lessor, START + 20 * SECOND_NS) == [1, 2]  # 1 was not answered in time


def test_a_renewal_starts_the_clock_anew() -> None:
    lessor = primary(lease(1))

    assert lessor.renew(1, START + 9 * SECOND_NS) == 10

    assert due(lessor, START + 18 * SECOND_NS) == []
    assert due(lessor, START + 19 * SECOND_NS) == [1]


def test_an_expired_lease_cannot_be_renewed_even_before_its_revocation_is_proposed() -> None:
    lessor = primary(lease(1))

    assert lessor.renew(1, START + 10 * SECOND_NS) == UNKNOWN

    assert due(lessor, START + 10 * SECOND_NS) == [1]
    assert lessor.renew(1, START + 11 * SECOND_NS) == UNKNOWN


def test_a_lease_under_revocation_stays_until_the_state_machine_says_it_is_gone() -> None:
    lessor = primary(lease(1))
    now = START + 10 * SECOND_NS
    assert due(lessor, now) == [1]

    assert due(lessor, now + RETRY_NS - 1) == []
    assert due(lessor, now + RETRY_NS) == [1]
    lessor.revoked(1, 5)

    assert due(lessor, now + 9 * RETRY_NS) == []
    assert lessor.expired == 1
    assert lessor.clocks == {}


def test_a_revocation_of_an_earlier_lease_of_that_id_takes_nothing_away() -> None:
    lessor = primary(lease(1, granted_index=7))

    lessor.revoked(1, 5)

    assert lessor.renew(1, START) == 10


def test_a_lease_granted_again_has_the_new_ttl_and_its_old_place_does_not_end_it() -> None:
    lessor = primary(lease(1, ttl=10, granted_index=5))
    lessor.revoked(1, 5)

    lessor.granted(lease(1, ttl=30, granted_index=9), START + SECOND_NS)

    assert due(lessor, START + 10 * SECOND_NS) == []
    assert due(lessor, START + 31 * SECOND_NS - 1) == []
    assert due(lessor, START + 31 * SECOND_NS) == [1]


def test_a_grant_that_is_told_late_changes_nothing() -> None:
    lessor = primary(lease(1, granted_index=9))
    assert lessor.renew(1, START + 5 * SECOND_NS) == 10

    lessor.granted(lease(1, ttl=2, granted_index=5), START + 6 * SECOND_NS)

    assert lessor.remaining(1, START + 6 * SECOND_NS) == 9


def test_at_most_sixteen_revocations_are_under_way() -> None:
    lessor = primary(*(lease(number) for number in range(1, 41)))
    now = START + 10 * SECOND_NS

    first = due(lessor, now)
    assert len(first) == PENDING_MAX
    assert due(lessor, now + 1) == []
    for number in first[:3]:
        lessor.revoked(number, 5)

    assert len(due(lessor, now + 2)) == 3


def test_revocations_keep_to_their_rate() -> None:
    lessor = primary(*(lease(number, ttl=2) for number in range(1, 5001)), extend=0)
    began = 0
    now = START + 60 * SECOND_NS
    for _ in range(1000):  # a second in milliseconds, every revocation answered at once
        for clock in lessor.due_revocations(now):
            began += 1
            lessor.revoked(clock.id, 5)
        now += SECOND_NS // 1000

    assert REVOKE_RATE <= began <= REVOKE_RATE * 3 // 2


def test_a_lessor_that_is_not_primary_answers_nothing_and_has_nothing_due() -> None:
    lessor = primary(lease(1))

    lessor.demote()

    assert lessor.renew(1, START) == AGAIN
    assert lessor.remaining(1, START) == AGAIN
    assert due(lessor, START + 99 * SECOND_NS) == []
    assert lessor.next_due(START) is None


def test_a_promotion_gives_every_lease_its_ttl_again_and_more() -> None:
    lessor = primary(lease(1), lease(2, ttl=100, remaining=40), extend=SECOND_NS)

    assert lessor.remaining(1, START) == 11
    assert lessor.remaining(2, START) == 41


def test_a_successor_in_the_same_term_goes_on_with_the_clocks_it_finds() -> None:
    lessor = Lessor()
    kept = {(1, 5): START + 3 * SECOND_NS, (2, 4): START + 3 * SECOND_NS}

    lessor.promote([lease(1), lease(2)], START, SECOND_NS, kept)

    assert lessor.remaining(1, START) == 3
    assert lessor.remaining(2, START) == 11  # granted anew since: not the lease that was kept


def test_leases_that_would_expire_together_are_spread_out() -> None:
    clocks = [LeaseClock(number, 10, 0, 5, START) for number in range(4000)]

    spread(clocks, START, 0)

    expiries = sorted(clock.expiry for clock in clocks)
    assert expiries[0] == START
    per_second = [
        sum(START + second * SECOND_NS <= expiry < START + (second + 1) * SECOND_NS
            for expiry in expiries)
        for second in range(8)
    ]  # fmt: skip
    assert max(per_second) <= REVOKE_RATE
    assert sum(per_second) == 4000


def test_few_leases_are_not_spread() -> None:
    clocks = [LeaseClock(number, 10, 0, 5, START) for number in range(REVOKE_RATE - 1)]

    spread(clocks, START, 0)

    assert {clock.expiry for clock in clocks} == {START}


def test_a_long_lease_is_checkpointed_and_its_renewal_waits_for_the_reset() -> None:
    lessor = primary(lease(1, ttl=1000), lease(2, ttl=10), checkpoint_ns=CHECKPOINT_NS)
    now = START + CHECKPOINT_NS

    assert lessor.due_checkpoints(now - 1) == []
    assert lessor.due_checkpoints(now) == [(1, 5, 700)]
    lessor.checkpointed(1, 5, 700, now)
    assert lessor.renew(1, now) == AGAIN
    assert lessor.due_checkpoints(now) == [(1, 5, 0)]
    assert lessor.due_checkpoints(now + 1) == []
    lessor.checkpointed(1, 5, 0, now + 2)

    assert lessor.renew(1, now + 3) == 1000
    assert lessor.due_checkpoints(now + 2 + CHECKPOINT_NS) == [(1, 5, 701)]


def test_a_checkpoint_under_way_does_not_come_after_a_renewal() -> None:
    """Who is told its whole TTL must have it from a later leader, too."""
    lessor = primary(lease(1, ttl=1000), checkpoint_ns=CHECKPOINT_NS)
    now = START + CHECKPOINT_NS
    assert lessor.due_checkpoints(now) == [(1, 5, 700)]

    assert lessor.renew(1, now + 1) == AGAIN  # the reset goes through the log, behind it
    assert lessor.due_checkpoints(now + 1) == [(1, 5, 0)]
    lessor.checkpointed(1, 5, 700, now + 2)
    lessor.checkpointed(1, 5, 0, now + 3)

    assert lessor.renew(1, now + 4) == 1000


def test_without_the_feature_nothing_is_checkpointed() -> None:
    lessor = primary(lease(1, ttl=1000))

    assert lessor.due_checkpoints(START + 2 * CHECKPOINT_NS) == []


def test_what_was_missed_is_taken_from_the_database() -> None:
    lessor = primary(lease(1), lease(2), lease(3))
    now = START + 4 * SECOND_NS

    lessor.reconcile([lease(1), lease(3, granted_index=8), lease(4)], now)

    assert sorted(lessor.clocks) == [1, 3, 4]
    assert lessor.remaining(1, now) == 6
    assert lessor.remaining(3, now) == 10
    assert lessor.remaining(4, now) == 10


def test_proposals_that_may_be_lost_are_due_again_at_once() -> None:
    lessor = primary(lease(1))
    now = START + 10 * SECOND_NS
    assert due(lessor, now) == [1]

    lessor.retry_all()

    assert due(lessor, now + 1) == [1]


def test_next_due_is_never_late_and_never_a_busy_loop() -> None:
    lessor = primary(lease(1), lease(2, ttl=20))

    assert lessor.next_due(START) == START + 10 * SECOND_NS
    assert due(lessor, START + 10 * SECOND_NS) == [1]

    assert lessor.next_due(START + 10 * SECOND_NS) == START + 10 * SECOND_NS + RETRY_NS


def test_leases_that_come_and_go_leave_nothing_behind() -> None:
    lessor = primary(checkpoint_ns=CHECKPOINT_NS)
    for index in range(20_000):
        lessor.granted(lease(1 + index % 3, ttl=10**6, granted_index=index + 1), START + index)
        lessor.revoked(1 + index % 3, index + 1)

    assert len(lessor._heap) < 3000
    assert len(lessor._checkpoints) < 3000


@pytest.mark.parametrize("seed", range(5))
def test_none_ever_expires_early_and_all_expire_in_the_end(seed: int) -> None:
    chance = Random(seed)
    lessor = primary(checkpoint_ns=5 * SECOND_NS)
    now, index = START, 0
    promised: dict[int, int] = {}
    granted: dict[int, int] = {}
    for _ in range(5000):
        now += chance.randrange(SECOND_NS // 5)
        number = chance.randrange(1, 60)
        kind = chance.random()
        if kind < 0.3 and number not in promised:
            index += 1
            ttl = chance.choice((1, 2, 5, 30))
            lessor.granted(lease(number, ttl, granted_index=index), now)
            promised[number], granted[number] = now + ttl * SECOND_NS, index
        elif kind < 0.8:
            told = lessor.renew(number, now)
            if told >= 0:
                promised[number] = now + told * SECOND_NS
        elif kind < 0.85 and number in promised:
            lessor.revoked(number, granted.pop(number))
            del promised[number]
        for clock in lessor.due_revocations(now):
            assert promised[clock.id] <= now, f"lease {clock.id} is early"
            if chance.random() < 0.9:
                lessor.revoked(clock.id, granted.pop(clock.id))
                del promised[clock.id]
        for number, granted_index, seconds in lessor.due_checkpoints(now):
            lessor.checkpointed(number, granted_index, seconds, now)
    now += 100 * SECOND_NS
    for _ in range(200):
        for clock in lessor.due_revocations(now):
            lessor.revoked(clock.id, granted.pop(clock.id))
        now += SECOND_NS

    assert granted == {}


def test_what_runs_out_next_is_told_soonest_first_after_renewals_and_revocations() -> None:
    lessor = primary(lease(1), lease(2, ttl=30), lease(3, ttl=20), lease(4, ttl=15))
    lessor.renew(1, START + 9 * SECOND_NS)
    lessor.revoked(4, 5)

    found = lessor.next_expiries(2)

    assert [(clock.id, (clock.expiry - START) // SECOND_NS) for clock in found] == [
        (1, 19),
        (3, 20),
    ]
    assert Lessor().next_expiries(5) == []
