"""Raft's messages of one turn on their way to the transport, as one message.

Some things are held back for a moment, since most of the time something follows that makes them
needless or takes them along, which saves every member a round of messages:

- news of a commit alone: entries follow soon, and they carry it too;
- entries for a member that a quorum does not need (raft_quorum.py): they leave with the next ones;
- to such a member also heartbeats that only confirm leadership for reads: mostly the others have
  confirmed it before one is due. One leaves in each heartbeat interval all the same;
- where CPUs are busy, such heartbeats also to a member that asks for reads itself: its next request
  confirms ours as well (raft/read_only.py);
- an answer that says what the one before it said, as every answer to news of a commit does.

Entries are not held from a member that has clients, which it says by forwarding proposals or
reads (raft_clients.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from actors import failpoints
from actors.messages import PeerMessages
from actors.peer_codec import encode_peer, lane_of
from raft.messages import MsgApp, MsgAppResp, MsgHeartbeat, PeerMessage

HOLD_SECONDS: Final = 0.002
SPARE_SECONDS: Final = 0.02
CONFIRM_SECONDS: Final = 0.01
REPEAT_SECONDS: Final = 0.01
CLIENTS_SECONDS: Final = 1.0
SPARE_BYTES_MAX: Final = 256 << 10


class Followers(Protocol):
    """What the outbox asks of raft, see raft_quorum.Quorum."""

    @property
    def committed(self) -> int:
        """The commit index."""

    @property
    def confirmed(self) -> int:
        """The position up to which reads are confirmed."""

    def follows(self, member: int) -> bool:
        """Whether a MsgApp for this member is no probe."""

    def is_spare(self, member: int) -> bool:
        """Whether a quorum should come together without this member."""

    def missed(self, member: int) -> None:
        """A spare member was needed."""


@dataclass(slots=True)
class _Held:
    """What is held for one member."""

    append: MsgApp | None = None
    append_bytes: int = 0
    append_due: float = inf
    beat: MsgHeartbeat | None = None
    beat_due: float = inf
    beat_round: int = 0
    beat_sent: float = -inf
    clients_until: float = -inf
    asks_until: float = -inf
    answered: MsgAppResp | None = None
    """The last answer that was sent, if it was no rejection."""
    repeat: MsgAppResp | None = None
    repeat_due: float = inf


class Outbox:
    """Gathers what is for other members.

    Invariants: what is held of MsgApp for a member is one message, of at most SPARE_BYTES_MAX where
    it was put together of several (one that catches up is sent megabytes in a turn, and no link
    takes them as one); it leaves before all that was added later for that member, heartbeats and
    answers excepted (who answers does not lead).
    """

    def __init__(
        self,
        send: Callable[[PeerMessages, int], bool],
        followers: Followers,
        heartbeat_seconds: float,
    ) -> None:
        """`send(message, items)` sends to the transport; False if that is impossible now."""
        self._send = send
        self._followers = followers
        self._beat_seconds = 0.9 * heartbeat_seconds
        self._messages: list[PeerMessage] = []
        self._left: list[PeerMessage] = []  # of what was held, to leave at once
        self._held: dict[int, _Held] = {}
        self._forwarded: dict[int, deque[int]] = {}
        self._again = inf  # nothing that is held leaves before, whatever happens

    def add(self, message: PeerMessage) -> None:
        """Queue one message for the end of the turn."""
        self._messages.append(message)

    def forwarded(self, member: int, last_index: int) -> None:
        """Proposals of a member are in the log up to an index: tell it at once of their commit."""
        self._forwarded.setdefault(member, deque()).append(last_index)

    def has_clients(self, member: int, now: float) -> None:
        """A member asks for its clients: keep it up to date for a while."""
        held = self._held.setdefault(member, _Held())
        held.clients_until = now + CLIENTS_SECONDS
        if held.append is not None:
            held.append_due = self._again = now

    def asks(self, member: int, now: float) -> None:
        """A member asks for reads: it is likely to ask again soon."""
        self._held.setdefault(member, _Held()).asks_until = now + CONFIRM_SECONDS

    def forget(self) -> None:
        """Hold nothing any more: this member does not lead.

        What it held of its log goes. One that leads no more because it was removed has told nobody
        yet, perhaps, that this is committed.
        """
        self._left += [held.append for held in self._held.values() if held.append is not None]
        self._held.clear()
        self._forwarded.clear()
        self._again = inf

    @property
    def holding(self) -> bool:
        """Whether anything is held."""
        return any(held.append or held.beat or held.repeat for held in self._held.values())

    def flush(self, now: float) -> tuple[set[int], float]:
        """Send what may leave at `now` (CLOCK_MONOTONIC in seconds).

        Returns the members whose messages were dropped, and when to flush again at the latest; inf
        while nothing is held.
        """
        if not (self._messages or self._left) and now < self._again:
            return set(), self._again
        leaving, self._left = self._left, []
        # The newest heartbeat of a turn says all that those before it do.
        beats = {each.to: each for each in self._messages if type(each) is MsgHeartbeat}
        for message in self._messages:
            if isinstance(message, MsgHeartbeat):
                if beats[message.to] is message:
                    self._beat(message, now, leaving)
            elif isinstance(message, MsgApp) and self._followers.follows(message.to):
                self._append(message, now, leaving)
            elif isinstance(message, MsgAppResp):
                self._answer(message, now, leaving)
            else:
                held = self._held.get(message.to)
                if held is not None and held.append is not None:
                    self._release(held, leaving)
                leaving.append(message)
        self._messages = []
        again = inf
        for member, held in self._held.items():
            self._look(member, held, now, leaving)
            again = min(again, held.append_due, held.beat_due, held.repeat_due)
        # Whether a heartbeat is still needed is to be asked each time.
        asked = any(held.beat is not None for held in self._held.values())
        self._again = 0.0 if asked else again
        return self._send_all(leaving), again

    # --- entries and news of commits -------------------------------------------------------------

    def _append(self, message: MsgApp, now: float, leaving: list[PeerMessage]) -> None:
        member = message.to
        held = self._held.get(member)
        if held is None:
            held = self._held[member] = _Held()
        before, size = held.append, sum([len(entry.data) for entry in message.entries])
        if before is not None:
            if (
                before.index + len(before.entries) != message.index
                or before.term != message.term
                or held.append_bytes + size > SPARE_BYTES_MAX
            ):
                self._release(held, leaving)
            elif before.entries:
                message = MsgApp(
                    member,
                    before.from_,
                    before.term,
                    before.log_term,
                    before.index,
                    before.entries + message.entries,
                    max(before.commit, message.commit),
                )
        held.append_bytes += size
        waited = self._is_waited_for(member, message.commit)
        if waited or held.append_bytes > SPARE_BYTES_MAX:
            pause = 0.0
        else:
            pause = self._pause(member, held, entries=bool(message.entries), now=now)
        held.append = message
        held.append_due = min(held.append_due, now + pause)

    def _pause(self, member: int, held: _Held, *, entries: bool, now: float) -> float:
        """Return for how long a MsgApp may wait for others to go with."""
        if now < held.clients_until:
            return 0.0 if entries else HOLD_SECONDS
        return 0.0 if entries and not self._followers.is_spare(member) else SPARE_SECONDS

    def _is_waited_for(self, member: int, commit: int) -> bool:
        """Whether a member's own proposals are among what is committed; it is told only once."""
        indexes = self._forwarded.get(member)
        waited = False
        while indexes and indexes[0] <= commit:
            indexes.popleft()
            waited = True
        return waited

    @staticmethod
    def _release(held: _Held, leaving: list[PeerMessage]) -> None:
        assert held.append is not None
        leaving.append(held.append)
        held.append, held.append_bytes, held.append_due = None, 0, inf

    # --- heartbeats ------------------------------------------------------------------------------

    def _beat(self, message: MsgHeartbeat, now: float, leaving: list[PeerMessage]) -> None:
        held = self._held.get(message.to)
        if held is None:
            held = self._held[message.to] = _Held()
        recent = now - held.beat_sent < self._beat_seconds
        spared = now < held.asks_until or self._followers.is_spare(message.to)
        if message.context and recent and spared:
            if held.beat is None:
                held.beat_due = now + CONFIRM_SECONDS
                held.beat_round = int.from_bytes(message.context, "little")
            held.beat = message
            return
        held.beat, held.beat_due, held.beat_sent = None, inf, now
        leaving.append(message)

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, message: MsgAppResp, now: float, leaving: list[PeerMessage]) -> None:
        held = self._held.get(message.to)
        if held is None:
            held = self._held[message.to] = _Held()
        if message == held.answered:
            held.repeat_due = min(held.repeat_due, now + REPEAT_SECONDS)
            held.repeat = message
            return
        held.answered = None if message.reject else message
        held.repeat, held.repeat_due = None, inf
        leaving.append(message)

    # --- what is due -----------------------------------------------------------------------------

    def _look(self, member: int, held: _Held, now: float, leaving: list[PeerMessage]) -> None:
        """Release what is due, and drop a heartbeat whose reads are confirmed."""
        if held.append is not None and now >= held.append_due:
            append = held.append
            if append.entries and append.entries[0].index > self._followers.committed:
                self._missed(member)
            self._release(held, leaving)
        if held.repeat is not None and (
            now >= held.repeat_due or any(message.to == member for message in leaving)
        ):
            leaving.append(held.repeat)
            held.repeat, held.repeat_due = None, inf
        beat = held.beat
        if beat is not None:
            confirmed = self._followers.confirmed
            newest = int.from_bytes(beat.context, "little")
            if confirmed >= newest:
                held.beat, held.beat_due = None, inf
            elif confirmed >= held.beat_round:
                held.beat_round, held.beat_due = newest, now + CONFIRM_SECONDS
            elif now >= held.beat_due:
                self._missed(member)
                held.beat, held.beat_due, held.beat_sent = None, inf, now
                leaving.append(beat)

    def _missed(self, member: int) -> None:
        if self._followers.is_spare(member):
            self._followers.missed(member)

    def _send_all(self, messages: list[PeerMessage]) -> set[int]:
        if not messages:
            return set()
        leads = any(type(message) in (MsgApp, MsgHeartbeat) for message in messages)
        failpoints.hit("raftBeforeLeaderSend" if leads else "raftBeforeFollowerSend")
        to = [message.to for message in messages]
        order = PeerMessages(
            to,
            [int(lane_of(message)) for message in messages],
            [encode_peer(message) for message in messages],
        )
        if self._send(order, len(messages)):
            return set()
        for member in to:
            if member in self._held:
                self._held[member].answered = None
        return set(to)
