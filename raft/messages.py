"""raft's messages: one class each, named as in raftpb.

Every message begins with `to`, `from_` and `term`. Ids and terms are unsigned 64-bit integers;
id 0 is "none". Term 0 marks a message that is local, or one that is passed on to the leader
whatever its term (MsgProp, MsgReadIndex, MsgTransferLeader).

Rules a receiver may rely on:
1. A message with a term is only ever sent by a member that was in that term.
2. What AFTER_APPEND names must not leave before the entries and the hard state of its Ready are
   durable; everything else may leave before that.
3. Fields only ever grow at the end, with a default, so that an older peer can ignore them.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from raft.message import message
from raft.state import Entry, HardState, Snapshot

NONE: Final = 0
LOCAL_APPEND_THREAD: Final = (1 << 64) - 1
"""Target of MsgStorageAppend: whoever writes the log of this member."""
LOCAL_APPLY_THREAD: Final = (1 << 64) - 2
"""Target of MsgStorageApply: whoever applies the committed entries of this member."""
CAMPAIGN_TRANSFER: Final = b"CampaignTransfer"
"""`context` of a MsgVote whose sender the leader itself has chosen: it overrules leases."""


@message
class MsgHup:
    """Local: start an election."""

    to: int
    from_: int
    term: int


@message
class MsgBeat:
    """Local: the leader's heartbeat interval has passed."""

    to: int
    from_: int
    term: int


@message
class MsgCheckQuorum:
    """Local: the leader asks itself whether a quorum was active for an election timeout."""

    to: int
    from_: int
    term: int


@message
class MsgProp:
    """Append `entries`; their term and index are the leader's to set. Followers pass it on."""

    to: int
    from_: int
    term: int
    entries: tuple[Entry, ...] = ()


@message
class MsgApp:
    """AppendEntries: `entries` follow the entry at `index`, which has term `log_term`."""

    to: int
    from_: int
    term: int
    log_term: int = 0
    index: int = 0
    entries: tuple[Entry, ...] = ()
    commit: int = 0


@message
class MsgAppResp:
    """The log matches the leader's up to `index`, or not: then the hint says where to look.

    A rejection names in `index` the place it rejects, and in (`reject_hint`, `log_term`) the
    last place at or before it whose term is not above the leader's for the rejected place.
    """

    to: int
    from_: int
    term: int
    index: int = 0
    reject: bool = False
    reject_hint: int = 0
    log_term: int = 0


@message
class MsgVote:
    """RequestVote of a candidate whose log ends at (`index`, `log_term`)."""

    to: int
    from_: int
    term: int
    index: int = 0
    log_term: int = 0
    context: bytes = b""


@message
class MsgVoteResp:
    """The answer to MsgVote."""

    to: int
    from_: int
    term: int
    reject: bool = False


@message
class MsgPreVote:
    """Would you vote for me in `term`? Changes nobody's term (Raft thesis, 9.6)."""

    to: int
    from_: int
    term: int
    index: int = 0
    log_term: int = 0
    context: bytes = b""


@message
class MsgPreVoteResp:
    """Granted: `term` is the one asked for. Rejected: it is the term of the one who answers."""

    to: int
    from_: int
    term: int
    reject: bool = False


@message
class MsgSnap:
    """InstallSnapshot. `snapshot.data` is what the application put there, often only a name."""

    to: int
    from_: int
    term: int
    snapshot: Snapshot = Snapshot()


@message
class MsgHeartbeat:
    """The leader lives. `commit` never exceeds what the receiver is known to hold."""

    to: int
    from_: int
    term: int
    commit: int = 0
    context: bytes = b""


@message
class MsgHeartbeatResp:
    """`context` is the heartbeat's own."""

    to: int
    from_: int
    term: int
    context: bytes = b""


@message
class MsgUnreachable:
    """Local: the transport could not deliver the last message to `from_`."""

    to: int
    from_: int
    term: int


@message
class MsgSnapStatus:
    """Local: sending the snapshot to `from_` ended, in failure if `reject`."""

    to: int
    from_: int
    term: int
    reject: bool = False


@message
class MsgTransferLeader:
    """`from_` is the member that is to become the leader."""

    to: int
    from_: int
    term: int


@message
class MsgTimeoutNow:
    """The leader tells its successor to campaign at once (Raft thesis, 3.10)."""

    to: int
    from_: int
    term: int


@message
class MsgForgetLeader:
    """Local: forget who leads, so that this follower may grant pre-votes at once."""

    to: int
    from_: int
    term: int


@message
class MsgReadIndex:
    """Ask for a commit index no older than now. `context` is unique for ever.

    From another member: in term `follows` it followed when it sent this (0: unknown), and then it
    knew of the leader's reads up to `acknowledges` (ReadOnly.newest).
    """

    to: int
    from_: int
    term: int
    context: bytes = b""
    follows: int = 0
    acknowledges: bytes = b""


@message
class MsgReadIndexResp:
    """`index` answers the MsgReadIndex of `context`; `newest` is for the next one's word."""

    to: int
    from_: int
    term: int
    index: int = 0
    context: bytes = b""
    newest: bytes = b""


@message
class MsgStorageAppendResp:
    """From the append thread: the log is durable up to (`index`, `log_term`); index 0 says nothing.

    With `snapshot`, that snapshot is durable and applied as well.
    """

    to: int
    from_: int
    term: int
    index: int = 0
    log_term: int = 0
    snapshot: Snapshot | None = None


@message
class MsgStorageApplyResp:
    """From the apply thread: these committed entries are applied."""

    to: int
    from_: int
    term: int
    entries: tuple[Entry, ...] = ()


@message
class MsgStorageAppend:
    """To the append thread: make all of this durable, then deliver `responses`, in order.

    `term` repeats hard_state.term, and is 0 when there is no hard state to write.
    """

    to: int
    from_: int
    term: int
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    responses: tuple[AfterAppend, ...] = ()


@message
class MsgStorageApply:
    """To the apply thread: apply the committed `entries`, then deliver `responses`."""

    to: int
    from_: int
    term: int
    entries: tuple[Entry, ...] = ()
    responses: tuple[MsgStorageApplyResp, ...] = ()


AfterAppend: TypeAlias = MsgAppResp | MsgVoteResp | MsgPreVoteResp | MsgStorageAppendResp
PeerMessage: TypeAlias = (
    MsgProp
    | MsgApp
    | MsgAppResp
    | MsgVote
    | MsgVoteResp
    | MsgPreVote
    | MsgPreVoteResp
    | MsgSnap
    | MsgHeartbeat
    | MsgHeartbeatResp
    | MsgTransferLeader
    | MsgTimeoutNow
    | MsgReadIndex
    | MsgReadIndexResp
)
"""What travels between members."""
LocalMessage: TypeAlias = (
    MsgHup
    | MsgBeat
    | MsgCheckQuorum
    | MsgUnreachable
    | MsgSnapStatus
    | MsgForgetLeader
    | MsgStorageAppend
    | MsgStorageAppendResp
    | MsgStorageApply
    | MsgStorageApplyResp
)
"""What never leaves the member."""
Message: TypeAlias = PeerMessage | LocalMessage

PEER_MESSAGES: Final[tuple[type[PeerMessage], ...]] = (
    MsgProp,
    MsgApp,
    MsgAppResp,
    MsgVote,
    MsgVoteResp,
    MsgPreVote,
    MsgPreVoteResp,
    MsgSnap,
    MsgHeartbeat,
    MsgHeartbeatResp,
    MsgTransferLeader,
    MsgTimeoutNow,
    MsgReadIndex,
    MsgReadIndexResp,
)
AFTER_APPEND: Final[frozenset[type[Message]]] = frozenset({MsgAppResp, MsgVoteResp, MsgPreVoteResp})
LOCAL_MESSAGES: Final[frozenset[type[Message]]] = frozenset(
    {
        MsgHup,
        MsgBeat,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgStorageAppend,
        MsgStorageAppendResp,
        MsgStorageApply,
        MsgStorageApplyResp,
    }
)
"""RawNode.step refuses these unless a local thread sent them."""
RESPONSES: Final[frozenset[type[Message]]] = frozenset(
    {
        MsgAppResp,
        MsgVoteResp,
        MsgHeartbeatResp,
        MsgUnreachable,
        MsgReadIndexResp,
        MsgPreVoteResp,
        MsgStorageAppendResp,
        MsgStorageApplyResp,
    }
)
"""RawNode.step refuses these from a member it does not know."""


def is_local_target(id_: int) -> bool:
    """Tell whether `id_` is one of this member's own storage threads."""
    return id_ >= LOCAL_APPLY_THREAD
