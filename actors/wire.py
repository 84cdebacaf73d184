"""The wire contract between actors: tags, never reused, and who talks to whom.

What happens when an edge is full (RULES A2: no actor ever waits in a send):

  gateway -> raft-node        fits by construction: admitted against the gateway's credit
  raft-node -> applier        fits by construction: pulled, bytes outstanding are bounded
  applier -> gateway          fits the gateway's own credit; a dropped notice is a gap, and the
                              gateway reads the database instead
  raft-node -> gateway        answers to ReadIndex: a gap makes the gateway ask again
  facts, grants, progress     may be dropped: the receiver sees the gap and reads the database;
                              a grant is latest-wins
  raft-node -> transport      dropped and reported to raft as unreachable
  snapshotter, lessor -> transport   dropped: chunks and forwarded requests are asked for again
"""

from __future__ import annotations

from typing import Final

from actors import messages
from transport.codec import Codec
from transport.links import Hello, Welcome

WIRE: Final[dict[int, type]] = {
    1: Hello,
    2: Welcome,
    3: messages.Propose,
    4: messages.ReadIndex,
    5: messages.ReadStates,
    6: messages.Apply,
    7: messages.Applied,
    8: messages.AppliedTo,
    9: messages.Committed,
    10: messages.Checkpointed,
    11: messages.Durable,
    12: messages.CompactionScheduled,
    13: messages.Prune,
    14: messages.Pruned,
    15: messages.Grant,
    16: messages.PeerMessages,
    17: messages.CommittedTo,
    18: messages.PeerReceived,
    19: messages.PeerLinks,
    20: messages.PeersChanged,
    21: messages.TransferLeader,
    22: messages.SendSnapshot,
    23: messages.SnapshotStatus,
    24: messages.SnapshotReceived,
    25: messages.InstallSnapshot,
    30: messages.LeaseFacts,
    31: messages.LeaseAsk,
    32: messages.LeaseTold,
    65: messages.LeaderIs,
    50: messages.Noise,
}
codec: Final = Codec(WIRE)

# Up to so many requests in a batch the applier looks at the raft node's word on the board for a
# moment instead of waiting for CommittedTo; the raft node then tells only what was not seen.
WATCHED_REQUESTS_MAX: Final = 2

NEIGHBOURS: Final[dict[str, tuple[str, ...]]] = {
    "gateway": ("raft-node", "applier", "lessor"),
    "raft-node": ("gateway", "applier", "lessor", "compactor", "snapshotter", "transport"),
    "applier": ("gateway", "raft-node", "lessor", "compactor", "snapshotter"),
    "lessor": ("gateway", "raft-node", "applier", "transport"),
    "compactor": ("raft-node", "applier"),
    "snapshotter": ("raft-node", "applier", "transport"),
    "transport": ("raft-node", "snapshotter", "lessor"),
}


def kind(name: str) -> str:
    """Return the kind of an actor: `gateway-1` is a gateway."""
    return "gateway" if name.startswith("gateway-") else name


def neighbours(name: str, names: tuple[str, ...]) -> list[str]:
    """Return the actors of a member that have a link to `name`; `names` are all it has."""
    kinds = NEIGHBOURS[kind(name)]
    return [other for other in names if other != name and other != "root" and kind(other) in kinds]
