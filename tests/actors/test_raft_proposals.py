"""What waits to be proposed, and how a follower forwards it."""

from __future__ import annotations

from pathlib import Path

from actors.messages import PeerMessages, Propose
from actors.peer_codec import decode_peer
from actors.raft_proposals import PORTION_BYTES_MAX, WAITING_BYTES_MAX, Proposals
from raft.errors import ProposalDroppedError
from raft.messages import MsgProp
from tests.actors.test_raft_cluster import Bench
from transport.mailbox import Flush

MEGABYTE = bytes(1 << 20)


class Core:
    """Takes `room` proposals of any size."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[list[bytes]] = []

    def propose(self, datas: list[bytes], /) -> None:
        """See RawNode."""
        if len(self.taken) == self.room:
            raise ProposalDroppedError
        self.taken.append(datas)


def waiting(*batches: bytes) -> Proposals:
    proposals = Proposals()
    for batch in batches:
        proposals.add(batch)
    return proposals


def test_what_is_urgent_goes_before_all_that_waits() -> None:
    core = Core(99)
    proposals = waiting(b"a", b"b")

    proposals.add(b"expiry", urgent=True)
    proposals.propose(core)

    assert core.taken == [[b"expiry", b"a", b"b"]]


def test_what_came_is_proposed_in_order_and_in_portions() -> None:
    core = Core(99)
    batches = [bytes([number]) * (1 << 20) for number in range(30)]
    proposals = waiting(*batches)

    assert proposals.propose(core) == 0

    assert not proposals
    assert [batch for portion in core.taken for batch in portion] == batches
    assert max(sum(map(len, portion)) for portion in core.taken) <= PORTION_BYTES_MAX


def test_a_batch_longer_than_a_portion_goes_alone() -> None:
    core, long = Core(99), bytes(PORTION_BYTES_MAX + 1)

    waiting(b"first", long, b"last").propose(core)

    assert core.taken == [[b"first"], [long], [b"last"]]


def test_what_can_not_be_proposed_waits_behind_what_could() -> None:
    proposals = waiting(*[MEGABYTE] * 9)

    assert proposals.propose(Core(1)) == 0
    rest = Core(99)
    proposals.propose(rest)

    assert sum(map(len, rest.taken)) == 5


def test_what_waits_is_dropped_when_there_is_no_room() -> None:
    count = WAITING_BYTES_MAX // len(MEGABYTE) + 1
    proposals = waiting(*[MEGABYTE] * count)

    assert proposals.propose(Core(0)) == count

    assert not proposals


def test_a_follower_forwards_no_message_longer_than_a_frame(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    follower = bench.others(bench.elect())[0]
    for _ in range(24):
        follower.actor.propose(Propose(1, 1, 1, MEGABYTE))

    follower.actor.flush(Flush())

    payloads = [payload for order in follower.take(PeerMessages) for payload in order.payloads]
    forwarded = [message for message in map(decode_peer, payloads) if isinstance(message, MsgProp)]
    assert sum(len(message.entries) for message in forwarded) == 24
    assert max(map(len, payloads)) < 2 * PORTION_BYTES_MAX
    for node in bench.nodes.values():
        node.kill()
