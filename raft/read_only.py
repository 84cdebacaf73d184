"""Reads that wait until the leader knows that it still leads (Raft thesis, 6.4).

Each read gets the next position; a heartbeat carries the position of the newest read as its
context, and a follower's answer acknowledges all reads up to it. What a quorum has acknowledged
is confirmed. Positions begin anew with every term, and messages of another term never get here,
so a context can't be mistaken for an older one.

A follower's own request (MsgReadIndex) is such a word too, beyond what etcd's raft takes from it:

- For the read it asks for: the follower was in our term when it asked, so it had voted for no later
  leader, and neither have we until now. If we two are a quorum, nobody led a later term when the
  read began, and our commit index holds all that was acknowledged by then: no round is needed.
- For the reads it has heard of: our answers tell the newest position, and its next request gives
  that back, as an answer to a heartbeat does. Like a heartbeat, our answer has begun the follower's
  lease anew. It says nothing of reads it had not heard of, however late it arrives.
"""

from __future__ import annotations

from collections import deque

from raft.config import ReadOnlyOption
from raft.errors import InvariantError
from raft.messages import MsgReadIndex
from raft.quorum import joint_committed_index
from raft.tracker import TrackerConfig


class ReadOnly:
    """See the module.

    Invariants:
    - Positions confirmed+1 .. confirmed+len(unconfirmed) wait, in this order.
    - An acknowledgement never exceeds the last position.
    """

    __slots__ = ("_acks", "_confirmed", "_unconfirmed", "heard", "option")

    def __init__(self, option: ReadOnlyOption) -> None:
        self.option = option
        self._acks: dict[int, int] = {}
        self._confirmed = 0
        self._unconfirmed: deque[tuple[MsgReadIndex, int]] = deque()
        self.heard = b""
        """As follower: the newest read our leader has told us of, in this term."""

    @property
    def confirmed(self) -> int:
        """The position up to which reads are confirmed."""
        return self._confirmed

    def check(self) -> None:
        """Raise InvariantError if an acknowledgement exceeds the last position."""
        last = self._confirmed + len(self._unconfirmed)
        if self._acks and max(self._acks.values()) > last:
            raise InvariantError(f"acknowledged {self._acks}, but the last position is {last}")

    @property
    def asked(self) -> int:
        """The position of the newest read."""
        return self._confirmed + len(self._unconfirmed)

    def add_request(self, index: int, request: MsgReadIndex) -> None:
        """Note a read that came while the commit index was `index`."""
        self._unconfirmed.append((request, index))

    def newest(self) -> bytes:
        """Return what heartbeats and answers carry: the newest position, nothing if none waits."""
        if not self._unconfirmed:
            return b""
        return (self._confirmed + len(self._unconfirmed)).to_bytes(8, "little")

    def recv_ack(self, from_: int, context: bytes) -> None:
        """Note that a member knew of reads up to this position; one never sent is ignored."""
        position = int.from_bytes(context, "little")
        if position <= self._confirmed + len(self._unconfirmed):
            self._acks[from_] = max(self._acks.get(from_, 0), position)

    def maybe_advance(self, config: TrackerConfig) -> list[tuple[MsgReadIndex, int]]:
        """Return the reads a quorum of `config` has confirmed since, with their indexes."""
        confirmed = joint_committed_index(config.voters, config.voters_outgoing, self._acks)
        count = confirmed - self._confirmed
        if count <= 0:
            return []
        self._confirmed = confirmed
        return [self._unconfirmed.popleft() for _ in range(count)]
