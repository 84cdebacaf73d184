"""What a leader knows of one follower's log.

probe      one MsgApp at a time: it is not known where the logs part
replicate  a stream of MsgApps within the inflight window
snapshot   nothing is sent: the follower needs what the log no longer holds

          reject                            MsgSnap sent
probe <------------ replicate     probe ------------------> snapshot
probe ------------> replicate     probe <------------------ snapshot
          accept                      the snapshot's end
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from raft.errors import InvariantError
from raft.inflights import Inflights


class ProgressState(IntEnum):
    """See the module."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2

    def __str__(self) -> str:
        return f"State{self.name.capitalize()}"


PROBE: Final = ProgressState.PROBE
REPLICATE: Final = ProgressState.REPLICATE
SNAPSHOT: Final = ProgressState.SNAPSHOT


class Progress:
    """See the module.

    Invariants:
    - match < next: what is acknowledged is never sent again.
    - Inflights hold something only in replicate.
    - pending_snapshot is not 0 only in snapshot.
    """

    __slots__ = (
        "inflights",
        "is_learner",
        "match",
        "msg_app_flow_paused",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(
        self,
        match: int,
        next_: int,
        inflights: Inflights,
        *,
        is_learner: bool = False,
        recent_active: bool = False,
    ) -> None:
        self.match = match
        """Highest index known to equal the leader's."""
        self.next = next_
        """Index of the next entry to send; those between were sent and not acknowledged."""
        self.sent_commit = 0
        """Highest commit index sent."""
        self.state: ProgressState = PROBE
        self.pending_snapshot = 0
        """Index of the snapshot under way."""
        self.recent_active = recent_active
        """Was heard of since the last check of the quorum."""
        self.msg_app_flow_paused = False
        """Nothing more is sent until an answer or a heartbeat's comes."""
        self.inflights = inflights
        self.is_learner = is_learner
        self._check()

    def check(self) -> None:
        """Raise InvariantError if an invariant is broken."""
        self._check()
        if self.state is not REPLICATE and len(self.inflights):
            raise InvariantError(f"{len(self.inflights)} in flight in {self.state}")
        if self.pending_snapshot and self.state is not SNAPSHOT:
            raise InvariantError(f"snapshot {self.pending_snapshot} pending in {self.state}")

    def _check(self) -> None:
        if self.match >= self.next:
            raise InvariantError(f"match {self.match} is not below next {self.next}")

    def clone(self, *, inflights: bool = False) -> Progress:
        """Return a copy; the window is shared unless `inflights`."""
        copy = Progress(
            self.match,
            self.next,
            self.inflights.clone() if inflights else self.inflights,
            is_learner=self.is_learner,
            recent_active=self.recent_active,
        )
        copy.sent_commit = self.sent_commit
        copy.state = self.state
        copy.pending_snapshot = self.pending_snapshot
        copy.msg_app_flow_paused = self.msg_app_flow_paused
        return copy

    def _reset_state(self, state: ProgressState) -> None:
        self.msg_app_flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def become_probe(self) -> None:
        """Find out anew where the logs part; after a snapshot, begin behind it."""
        self.next = max(self.match, self.pending_snapshot) + 1
        self._reset_state(PROBE)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self._check()

    def become_replicate(self) -> None:
        """Stream what follows `match`."""
        self._reset_state(REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Send nothing: a snapshot at `index` is on its way."""
        self._reset_state(SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index
        self._check()

    def sent_entries(self, count: int, size: int) -> None:
        """Note a MsgApp sent, with `count` entries of `size` bytes of data."""
        if self.state is REPLICATE:
            if count > 0:
                self.next += count
                self.inflights.add(self.next - 1, size)
            self.msg_app_flow_paused = self.inflights.full()
        elif self.state is PROBE:
            if count > 0:
                self.msg_app_flow_paused = True
        else:
            raise InvariantError(f"sending append in unhandled state {self.state}")

    def can_bump_commit(self, index: int) -> bool:
        """Tell whether sending the commit index `index` could tell the follower anything."""
        return self.sent_commit < index and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """Take the follower's acknowledgement up to `index`; False if that was known."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.msg_app_flow_paused = False
        return True

    def maybe_decr_to(self, rejected: int, match_hint: int) -> bool:
        """Take the rejection of `rejected` and its hint; False if that is out of date."""
        if self.state is REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        elif self.next - 1 != rejected:
            return False
        else:
            self.next = max(min(rejected, match_hint + 1), self.match + 1)
            self.msg_app_flow_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self._check()
        return True

    def is_paused(self) -> bool:
        """Tell whether MsgApps are held back."""
        return self.msg_app_flow_paused or self.state is SNAPSHOT

    def __str__(self) -> str:
        parts = [f"{self.state} match={self.match} next={self.next}"]
        if self.is_learner:
            parts.append("learner")
        if self.is_paused():
            parts.append("paused")
        if self.pending_snapshot > 0:
            parts.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            parts.append("inactive")
        if count := len(self.inflights):
            parts.append(f"inflight={count}" + ("[full]" if self.inflights.full() else ""))
        return " ".join(parts)
