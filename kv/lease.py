"""The lessor: clocks of leases, who expires when. Pure: time comes in as nanoseconds.

Rules (etcd's lessor, RULES A6):
1. Only a primary lessor has clocks. It is promoted once per term, from the leases in the database;
   that gives every lease its (checkpointed) TTL again and `extend` more, and spreads out those that
   would expire together. Demoted, it knows nothing.
2. A lease never expires early: its clock starts when its grant is known to be applied, and an
   expiry is only ever moved back, for all leases when no keep-alive could be heard. It is proposed
   for revocation, not removed: it is gone when the state machine says so.
3. At most PENDING_MAX revocations are under way and REVOKE_RATE begin in a second; one without an
   answer is begun again after RETRY_NS.
4. A renewal of a lease with a stored checkpoint has that reset through the log first.

The heap holds a time for each lease that is not later than its expiry; what comes up too early goes
back in. So a renewal, by far the most frequent thing, only sets a number.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from kv.store import Lease

SECOND_NS: Final = 1_000_000_000
PENDING_MAX: Final = 16
REVOKE_RATE: Final = 1000
"""Per second, etcd's defaultLeaseRevokeRate; half of it may come at once."""
RETRY_NS: Final = 3 * SECOND_NS
CHECKPOINT_NS: Final = 300 * SECOND_NS
CHECKPOINTS_MAX: Final = 1000
SPARE: Final = 1000

UNKNOWN: Final = -1
"""There is no such lease, or it has expired and its revocation is under way: look it up."""
AGAIN: Final = -2
"""Not to be answered here and now: ask again."""
EXPIRIES_LOOKED_AT: Final = 255


@dataclass(slots=True, eq=False)
class Clock:
    """A lease as the primary lessor has it; `expiry` and `checkpoint_at` (0: none) in ns.

    `slot` is for whoever keeps clocks.
    """

    id: int
    ttl: int
    remaining_ttl: int
    granted_index: int
    expiry: int = 0
    pending: bool = False
    checkpoint_at: int = 0
    slot: int = -1


class Keeper(Protocol):
    """Keeps clocks where a successor finds them."""

    def keep(self, clock: Clock) -> None:
        """Keep a clock that is new or has changed."""
        ...

    def drop(self, clock: Clock) -> None:
        """Forget a clock: the lease is gone."""
        ...


class NoKeeper:
    """Keeps nothing."""

    def keep(self, clock: Clock) -> None:
        """See Keeper."""

    def drop(self, clock: Clock) -> None:
        """See Keeper."""


class Lessor:
    """See the module docstring. All times are ns of one clock that never goes back."""

    def __init__(self, keeper: Keeper | None = None, *, checkpoint_ns: int = 0) -> None:
        """`checkpoint_ns` is the pause between checkpoints of a lease, 0 for none at all."""
        self.clocks: dict[int, Clock] = {}
        self.primary = False
        self.renewed = 0
        self.expired = 0
        self._keeper = keeper or NoKeeper()
        self._checkpoint_ns = checkpoint_ns
        self._heap: list[tuple[int, int]] = []
        self._checkpoints: list[tuple[int, int]] = []
        self._pending: dict[int, int] = {}  # lease id -> when to try again
        self._resets: dict[int, int] = {}  # the same for checkpoints to be reset
        self._tokens = REVOKE_RATE / 2
        self._tokens_at = 0

    # --- leadership -------------------------------------------------------------------------------

    def promote(
        self,
        leases: Iterable[Lease],
        now: int,
        extend: int,
        kept: dict[tuple[int, int], int] | None = None,
    ) -> None:
        """Become primary with these leases.

        `extend` in ns is added to every TTL, for what a lessor before may have promised. `kept`
        are expiries by (id, granted index) that a lessor of the same term has left: they hold.
        """
        self.demote()
        self.primary = True
        self._tokens, self._tokens_at = REVOKE_RATE / 2, now
        kept = kept or {}
        fresh: list[Clock] = []
        for lease in leases:
            clock = Clock(lease.id, lease.ttl, lease.remaining_ttl, lease.granted_index)
            self.clocks[lease.id] = clock
            expiry = kept.get((lease.id, lease.granted_index))
            if expiry is None:
                clock.expiry = now + _span(clock) + extend
                fresh.append(clock)
            else:
                clock.expiry = expiry
        spread(fresh, now, extend)
        self._heap = [(clock.expiry, clock.id) for clock in self.clocks.values()]
        heapq.heapify(self._heap)
        for clock in self.clocks.values():
            self._keeper.keep(clock)
            self._schedule_checkpoint(clock, now)

    def demote(self) -> None:
        """Forget all clocks: somebody else has them now."""
        self.primary = False
        self.clocks = {}
        self._heap = []
        self._checkpoints = []
        self._pending = {}
        self._resets = {}

    def postpone(self, gap: int) -> None:
        """Leave out a time in which no keep-alive could be heard: each lease has left what it had.

        A lease whose revocation is under way has expired for good.
        """
        for clock in self.clocks.values():
            if not clock.pending:
                clock.expiry += gap
                self._keeper.keep(clock)

    # --- what the state machine did ---------------------------------------------------------------

    def granted(self, lease: Lease, now: int) -> None:
        """A lease was granted: its clock starts."""
        known = self.clocks.get(lease.id)
        if not self.primary or (known is not None and known.granted_index >= lease.granted_index):
            return
        if known is not None:
            self._forget(known)
        clock = Clock(lease.id, lease.ttl, lease.remaining_ttl, lease.granted_index)
        clock.expiry = now + _span(clock)
        self.clocks[lease.id] = clock
        heapq.heappush(self._heap, (clock.expiry, lease.id))
        self._keeper.keep(clock)
        self._schedule_checkpoint(clock, now)
        self._tidy()

    def revoked(self, lease_id: int, granted_index: int) -> None:
        """A lease is gone."""
        clock = self.clocks.get(lease_id)
        if clock is not None and clock.granted_index == granted_index:
            self.expired += clock.pending
            self._forget(clock)

    def checkpointed(self, lease_id: int, granted_index: int, seconds: int, now: int) -> None:
        """A remaining TTL was stored, or (0) taken away."""
        clock = self.clocks.get(lease_id)
        if clock is None or clock.granted_index != granted_index:
            return
        clock.remaining_ttl = seconds
        self._resets.pop(lease_id, None)
        self._schedule_checkpoint(clock, now)

    def reconcile(self, leases: Iterable[Lease], now: int) -> None:
        """Take over what the database says, when what the state machine did was missed."""
        gone = dict(self.clocks)
        for lease in leases:
            known = gone.get(lease.id)
            if known is not None and known.granted_index == lease.granted_index:
                del gone[lease.id]
                known.remaining_ttl = lease.remaining_ttl
            else:
                self.granted(lease, now)
        for clock in gone.values():
            self.revoked(clock.id, clock.granted_index)

    def _tidy(self) -> None:
        """Throw out places of leases that are gone when they are most of a heap."""
        bound = 2 * len(self.clocks) + SPARE
        if len(self._heap) > bound:
            self._heap = [(c.expiry, c.id) for c in self.clocks.values() if not c.pending]
            heapq.heapify(self._heap)
        if len(self._checkpoints) > bound:
            clocks = self.clocks.values()
            self._checkpoints = [(c.checkpoint_at, c.id) for c in clocks if c.checkpoint_at]
            heapq.heapify(self._checkpoints)

    def _forget(self, clock: Clock) -> None:
        """Drop a clock; its places in the heaps are passed over when they come up."""
        del self.clocks[clock.id]
        self._pending.pop(clock.id, None)
        self._resets.pop(clock.id, None)
        self._keeper.drop(clock)

    # --- what clients ask -------------------------------------------------------------------------

    def renew(self, lease_id: int, now: int) -> int:
        """Start a lease's clock anew; return its TTL in seconds, UNKNOWN or AGAIN."""
        if not self.primary:
            return AGAIN
        clock = self.clocks.get(lease_id)
        if clock is None or clock.pending or clock.expiry <= now:
            return UNKNOWN
        if clock.remaining_ttl:
            self._resets.setdefault(lease_id, now)
            return AGAIN
        clock.expiry = max(clock.expiry, now + clock.ttl * SECOND_NS)
        self._keeper.keep(clock)
        self.renewed += 1
        return clock.ttl

    def remaining(self, lease_id: int, now: int) -> int:
        """Return the whole seconds that a lease has left, UNKNOWN or AGAIN."""
        if not self.primary:
            return AGAIN
        clock = self.clocks.get(lease_id)
        if clock is None:
            return UNKNOWN
        return max(0, clock.expiry - now) // SECOND_NS

    # --- what is due ------------------------------------------------------------------------------

    def due_revocations(self, now: int) -> list[Clock]:
        """Return the leases whose revocation is to be proposed now (rule 3)."""
        pending = self._pending
        found = [self.clocks[lease_id] for lease_id, again in pending.items() if again <= now]
        pending.update((clock.id, now + RETRY_NS) for clock in found)
        rate = (now - self._tokens_at) * REVOKE_RATE / SECOND_NS
        self._tokens = min(REVOKE_RATE / 2, self._tokens + rate)
        self._tokens_at = now
        heap = self._heap
        while heap and heap[0][0] <= now:
            if len(pending) >= PENDING_MAX or self._tokens < 1:
                break
            _, lease_id = heapq.heappop(heap)
            clock = self.clocks.get(lease_id)
            if clock is None or clock.pending:
                continue
            if clock.expiry > now:
                heapq.heappush(heap, (clock.expiry, lease_id))
                continue
            clock.pending = True
            self._tokens -= 1
            pending[lease_id] = now + RETRY_NS
            found.append(clock)
        return found

    def next_expiries(self, count: int) -> list[Clock]:
        """Return the clocks that run out first, soonest first. Any thread may ask; changes nothing.

        Looks at the first EXPIRIES_LOOKED_AT places of the heap only: in there they are all, unless
        very many leases were renewed since they came in.
        """
        leases = {lease_id for _, lease_id in self._heap[:EXPIRIES_LOOKED_AT]}
        found = [clock for each in leases if (clock := self.clocks.get(each)) is not None]
        return sorted(found, key=lambda clock: clock.expiry)[:count]

    def due_checkpoints(self, now: int) -> list[tuple[int, int, int]]:
        """Return (id, granted index, remaining seconds) to be stored now; resets come first."""
        found: list[tuple[int, int, int]] = []
        for lease_id, again in self._resets.items():
            if again <= now:
                self._resets[lease_id] = now + RETRY_NS
                found.append((lease_id, self.clocks[lease_id].granted_index, 0))
        heap = self._checkpoints
        while heap and heap[0][0] <= now and len(found) < CHECKPOINTS_MAX:
            when, lease_id = heapq.heappop(heap)
            clock = self.clocks.get(lease_id)
            if clock is None or clock.checkpoint_at != when or clock.expiry <= now:
                continue
            self._schedule_checkpoint(clock, now)  # once more, should this one be lost
            seconds = -(-(clock.expiry - now) // SECOND_NS)
            if seconds < clock.ttl and lease_id not in self._resets:
                clock.remaining_ttl = seconds  # from now on: it must not come after a renewal
                found.append((lease_id, clock.granted_index, seconds))
        return found

    def next_due(self, now: int) -> int | None:
        """Return when to look again for what is due, None if there is nothing to wait for."""
        if not self.primary:
            return None
        times = list(self._pending.values())
        times += self._resets.values()
        if self._heap and len(self._pending) < PENDING_MAX:
            first = self._heap[0][0]
            short = max(0.0, 1 - self._tokens) * SECOND_NS / REVOKE_RATE
            times.append(max(first, int(self._tokens_at + short)))
        if self._checkpoints:
            times.append(self._checkpoints[0][0])
        return max(now, min(times)) if times else None

    def retry_all(self) -> None:
        """What was proposed may be lost: everything under way is due again."""
        self._pending = dict.fromkeys(self._pending, 0)
        self._resets = dict.fromkeys(self._resets, 0)

    def _schedule_checkpoint(self, clock: Clock, now: int) -> None:
        pause = self._checkpoint_ns
        clock.checkpoint_at = now + pause if pause and _span(clock) > pause else 0
        if clock.checkpoint_at:
            heapq.heappush(self._checkpoints, (clock.checkpoint_at, clock.id))


def _span(clock: Clock) -> int:
    return (clock.remaining_ttl or clock.ttl) * SECOND_NS


def spread(clocks: list[Clock], now: int, extend: int) -> None:
    """Move expiries that pile up apart, so that a promotion's do not use up the revoke rate.

    At most three quarters of the rate expire in a second; the others are moved by as many seconds
    as it takes, and by as much less as they would have come later anyway (etcd's Promote).
    """
    if len(clocks) < REVOKE_RATE:
        return
    per_second = 3 * REVOKE_RATE // 4
    clocks.sort(key=lambda clock: clock.expiry)
    base = clocks[0].expiry
    window = base + SECOND_NS
    expiring = 0
    for clock in clocks:
        if clock.expiry > window:
            base = clock.expiry
            window = base + SECOND_NS
            expiring = 1
            continue
        expiring += 1
        if expiring <= per_second:
            continue
        delay = SECOND_NS * expiring // per_second - (clock.expiry - base)
        window = base + delay
        clock.expiry += max(0, delay)
