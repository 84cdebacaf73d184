"""What actors say to each other inside a member: orders are imperative, facts are participles.

Hot messages are columnar: one message per batch, a list per field, never an object per request.
Peer messages (raft's own) travel as opaque bytes in PeerMessages.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from kv.operations import Operation
from raft.message import message

_AHEAD: Final = int(Operation.AHEAD)


@message
class Propose:
    """gateway -> raft-node: append one entry that carries a batch of `count` requests.

    `batch` is kv.batch's encoding and becomes Entry.data unread. `session` and `first_id` name it.
    `operations` (kv.operations) say for the recorder what is in it.
    """

    session: int
    first_id: int
    count: int
    batch: bytes
    operations: int = 0


@message
class ReadIndex:
    """gateway -> raft-node: confirm leadership for all reads of a turn. Ids grow for ever.

    `operations` (kv.operations) say for the recorder what some of the reads are.
    """

    gateway: str
    id: int
    operations: int = 0


@message
class ReadStates:
    """raft-node -> gateway: reads up to and including `id` may be served at `index`."""

    id: int
    index: int


@message
class Apply:
    """raft-node -> applier: entries from `first_index` on, as columns.

    Those above `committed` are still being made durable: the applier may carry them out in an open
    transaction, and commits it when a later `committed` (here or in CommittedTo) covers it.
    """

    committed: int
    first_index: int
    terms: list[int]
    types: list[int]
    datas: list[bytes]


@message
class CommittedTo:
    """raft-node -> applier: everything up to `index` is durable and committed."""

    index: int


@message
class Applied:
    """applier -> gateway: the database holds everything up to `index`.

    `batches` holds [session, first_id, results] for the gateway's own sessions; a result is a
    revision, [revision, body] or a negative error number (kv.errors). Others wake on `index`.

    With `ahead` it is so only once the applier's words on the board say that it has applied `index`
    and rolled back no more than `ahead` times; until then nobody may be answered.
    """

    index: int
    revision: int
    batches: list[list[Any]]
    ahead: int = 0

    @property
    def operations(self) -> int:
        """What the recorder is told of it (kv.operations)."""
        return _AHEAD if self.ahead else 0


@message
class AppliedTo:
    """applier -> raft-node: entries up to `index` are in the database; the rest may follow."""

    index: int


@message
class Committed:
    """applier -> snapshotter: the database's log has grown to `frames` pages at `applied_index`."""

    applied_index: int
    frames: int


@message
class Checkpointed:
    """snapshotter -> applier: a passive checkpoint left `frames_left` pages to copy."""

    frames_left: int


@message
class Durable:
    """snapshotter -> raft-node: the database file holds `applied_index` of `term`, fsynced."""

    applied_index: int
    term: int


@message
class CompactionScheduled:
    """applier -> compactor: history up to `revision` may be pruned; `pruned_to` is the progress."""

    revision: int
    pruned_to: int


@message
class Prune:
    """compactor -> applier: prune at most `rows` rows of history between two batches.

    Only up to `revision`: what was compacted since may still have to be read for watchers.
    """

    rows: int
    revision: int


@message
class Pruned:
    """applier -> compactor: one slice is done; `finished` when nothing is left to prune."""

    revision: int
    rows: int
    keys: int
    finished: bool


@message
class Grant:
    """raft-node -> lessor, compactor: this member leads `term` until `deadline_ns`.

    The deadline is absolute, CLOCK_BOOTTIME; 0 means not the leader. `first_index` is the index of
    the term's first entry: whoever acts must have seen the state up to it.
    """

    term: int
    first_index: int
    deadline_ns: int


@message
class PeerMessages:
    """raft-node, snapshotter, lessor -> transport: `payloads[i]` goes to member `to[i]`.

    `lanes[i]` is its transport.lanes.Lane: who gets it there, and what it never queues behind.
    """

    to: list[int]
    lanes: list[int]
    payloads: list[bytes]


@message
class PeerReceived:
    """transport -> raft-node, snapshotter, lessor: payloads of the receiver's own lanes.

    `senders[i]` is the member whose link brought `payloads[i]`.
    """

    senders: list[int]
    lanes: list[int]
    payloads: list[bytes]


@message
class PeerLinks:
    """transport -> raft-node: what became of links.

    Messages for `unreachable` members were dropped; the connection to `lost` ones was closed by
    the other side, as when its process dies.
    """

    unreachable: list[int]
    lost: list[int]


@message
class PeersChanged:
    """raft-node -> transport: the list of members differs once the database has `index`."""

    index: int


@message
class TransferLeader:
    """gateway -> raft-node: make `to` the leader. The board tells when it is."""

    to: int


@message
class SendSnapshot:
    """raft-node -> snapshotter: member `to` needs a snapshot; `payload` is raft's MsgSnap.

    The snapshotter fills in what its file really holds (index, term, ConfState).
    """

    to: int
    payload: bytes


@message
class SnapshotStatus:
    """snapshotter -> raft-node: sending a snapshot to `to` is over; `index` is what it held."""

    to: int
    index: int
    ok: bool


@message
class SnapshotReceived:
    """snapshotter -> raft-node: a snapshot is complete, verified and synced on disk.

    `payload` is raft's MsgSnap with the file's index, term and ConfState; the file is
    `storage.database.snapshot_name(term, index)` in the database directory.
    """

    payload: bytes


@message
class InstallSnapshot:
    """raft-node -> applier: the log holds the record of this snapshot; switch to its file."""

    index: int
    term: int


@message
class LeaderIs:
    """raft-node -> gateway: who leads has changed; 0 is nobody. What is unanswered goes to it."""

    leader: int
    term: int


class LeaseKind(IntEnum):
    """What a gateway asks of a lease."""

    RENEW = 1
    REMAINING = 2


@message
class LeaseFacts:
    """applier -> lessor: what entries up to `index` did to leases, as columns, in order.

    `events` are kv.lease_ops.LeaseEvent; `granted_indexes` with `leases` name the leases.
    """

    index: int
    events: bytes
    leases: list[int]
    seconds: list[int]
    granted_indexes: list[int]


@message
class LeaseAsk:
    """gateway -> lessor: renew leases, or tell what is left of them; all of a turn, as columns.

    `ids` name the questions, `kinds` has a byte for each (LeaseKind).
    """

    gateway: str
    ids: list[int]
    leases: list[int]
    kinds: bytes


@message
class LeaseTold:
    """lessor -> gateway: seconds for each question; kv.lease's UNKNOWN and AGAIN are negative."""

    ids: list[int]
    seconds: list[int]


@message
class Noise:
    """any -> any neighbour: nothing, `padding` bytes of it; what `troupectl fault flood` sends."""

    padding: bytes
