"""The roles of a node, and the small values that tell of them."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final

from raft.message import message
from raft.messages import NONE


class StateType(IntEnum):
    """The role of a node."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3

    def __str__(self) -> str:
        return "State" + "".join(word.capitalize() for word in self.name.split("_"))


FOLLOWER: Final = StateType.FOLLOWER
CANDIDATE: Final = StateType.CANDIDATE
LEADER: Final = StateType.LEADER
PRE_CANDIDATE: Final = StateType.PRE_CANDIDATE


class CampaignType(Enum):
    """Why a node campaigns."""

    PRE_ELECTION = "CampaignPreElection"
    ELECTION = "CampaignElection"
    TRANSFER = "CampaignTransfer"


@message
class SoftState:
    """What is not stored: who leads, and the role."""

    lead: int = NONE
    raft_state: StateType = FOLLOWER


@message
class ReadState:
    """The answer to a read: once `index` is applied here, `context` may be read."""

    index: int
    context: bytes
