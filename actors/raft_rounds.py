"""When a leader begins its next round: of entries, or of a quorum's word that it still leads.

A round costs every member the same messages and syncs, however much it carries. So what comes while
one is under way waits for its end, as batches wait for the fdatasync of a single member: the busier
the cluster, the more each round carries. Nothing waits for long, since a round may be slow for
reasons that further rounds don't add to: distance, or a member that does not answer.

When a round is over, its clients ask again. The next round of entries waits a moment for them
(gathering.py); rounds of reads need not, since gateways do.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from actors.cpu_wait import CpuWait
from actors.gathering import Gathering
from actors.raft_copies import Copies
from actors.raft_outbox import Outbox
from actors.raft_proposals import Proposals
from actors.raft_reads import ReadsAsked
from raft.messages import Message, MsgProp, MsgReadIndex
from raft.raw_node import RawNode

HOLD_SECONDS: Final = 0.005


class Rounds:
    """Rounds of one kind; each is over when what it is after is reached. Knows no clock."""

    __slots__ = ("_goal", "_until")

    def __init__(self) -> None:
        self._goal = 0
        self._until = -inf  # what takes longer is not waited for

    def is_over(self, reached: int) -> bool:
        """Whether the round before has got what it was after."""
        return reached >= self._goal

    def due(self, reached: int) -> float:
        """When the next may begin even if nothing more is reached (CLOCK_MONOTONIC)."""
        return -inf if self.is_over(reached) else self._until

    def begun(self, goal: int, now: float) -> None:
        """A round is under way that is over when `goal` is reached."""
        self._goal = goal
        self._until = now + HOLD_SECONDS


class Intake:
    """What clients ask for, here and through other members, on its way into raft.

    A member that does not lead passes on what it gets, but asks its leader for one read index at a
    time, as etcd does. A leader answers at once where no round is needed (raft/read_only.py).
    """

    def __init__(
        self,
        node: RawNode,
        outbox: Outbox,
        step: Callable[[Message], None],
        remind: Callable[[], None],
        cpu: CpuWait,
    ) -> None:
        """`step(message)` steps what another member sent, refused or not.

        `remind()` is called when copies of what is not applied were left out; `cpu` tells how busy
        the machine is.
        """
        self._node = node
        self._outbox = outbox
        self.proposals = Proposals()
        self.reads = ReadsAsked()
        self._step = step
        self._remind = remind
        self._cpu = cpu
        self._entry_rounds = Rounds()
        self._carried = 0
        """Bytes of proposals in rounds that are not known to be over."""
        self._gathering = Gathering()
        self._read_rounds = Rounds()
        self.copies = Copies()
        self._props: list[MsgProp] = []
        self._asked: list[MsgReadIndex] = []
        self._vouched: list[MsgReadIndex] = []

    def __len__(self) -> int:
        forwarded = len(self._props) + len(self._asked) + len(self._vouched)
        return len(self.proposals) + len(self.reads.new) + forwarded

    @property
    def _in_rounds(self) -> bool:
        """Whether entries go round: the only voter's cost nobody else anything."""
        return self._node.is_leader and not self._node.raft.tracker.singleton

    @property
    def _waiting(self) -> int:
        """Bytes of proposals, copies included."""
        return self.proposals.size + sum(
            len(entry.data) for prop in self._props for entry in prop.entries
        )

    def forwarded(self, received: MsgProp | MsgReadIndex, now: float) -> None:
        """Another member passes on what its clients ask for."""
        leads = self._node.is_leader
        if leads:
            self._outbox.has_clients(received.from_, now)
        if isinstance(received, MsgProp):
            self._props.append(received)
        elif leads and not self._node.needs_round(received):
            self._vouched.append(received)
            self._cpu.look(now)
            if self._cpu.spacing:
                self._outbox.asks(received.from_, now)
        else:
            self._asked.append(received)

    def take_up(self, now: float) -> tuple[int, float]:
        """Give raft what may begin now.

        Returns how many proposals were dropped for lack of room, and when to call again at the
        latest; inf when nothing is held.
        """
        leads = self._node.is_leader
        raft = self._node.raft
        dropped, again = 0, inf
        if self.proposals or self._props:
            due = self._entries_due(now)
            if now >= due:
                dropped = self._take_up_entries(now, leads=leads)
            else:
                again = due
        if self.reads.new or self._asked:
            # Who does not lead knows of its own reads alone: 0 of a goal of 1 while one is asked.
            over = raft.read_only.confirmed if leads else int(not len(self.reads))
            due = self._read_rounds.due(over)
            if now >= due:
                self._take_up_reads(now, leads=leads)
            else:
                again = min(again, due)
        # After our own, so that the answers tell of these.
        vouched, self._vouched = self._vouched, []
        for request in vouched:
            self._step(request)
        return dropped, again

    def _entries_due(self, now: float) -> float:
        """When entries may go on: after the round before, and who was answered by it."""
        rounds, committed = self._entry_rounds, self._node.raft.log.committed
        if not self._in_rounds:
            return now
        if not rounds.is_over(committed):
            return rounds.due(committed)
        if self._carried:  # what comes back may be a little shorter, in fewer batches
            self._gathering.answered(self._carried * 7 // 8)
            self._carried = 0
        return now + self._gathering.pause(self._waiting, now, self._cpu.spacing)

    def _take_up_entries(self, now: float, *, leads: bool) -> int:
        log = self._node.raft.log
        waiting = self._waiting if self._in_rounds else 0
        before, copies = log.last_index(), self.copies.dropped
        if leads:
            self.copies.look(self._node.raft)
            self.proposals.leave_out(self.copies)
        dropped = self.proposals.propose(self._node)
        props, self._props = self._props, []
        for prop in props:
            if leads:
                self._step_new(prop)
                self._outbox.forwarded(prop.from_, log.last_index())
            else:
                self._step(prop)
        if self._in_rounds and log.last_index() > before:
            self._cpu.look(now)
            self._entry_rounds.begun(log.last_index(), now)
            self._carried += waiting
        if self.copies.dropped > copies:
            self._remind()
        return dropped

    def _step_new(self, prop: MsgProp) -> None:
        """As leader step what is new of a proposal."""
        self.copies.look(self._node.raft)
        entries = self.copies.left_out_of(prop.entries)
        if len(entries) == len(prop.entries):
            self._step(prop)
        elif entries:
            self._step(MsgProp(prop.to, prop.from_, prop.term, entries))

    def _take_up_reads(self, now: float, *, leads: bool) -> None:
        asked, self._asked = self._asked, []
        for request in asked:
            self._step(request)
        context = self.reads.round()
        if context is not None:
            self._node.read_index(context)
        self._read_rounds.begun(self._node.raft.read_only.asked if leads else 1, now)
