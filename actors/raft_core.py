"""The raft core of a member, as its raft node wants it: asynchronous, with pre-votes, bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.raft_feed import APPLY_BYTES_MAX
from raft.config import Config
from raft.raw_node import RawNode
from raft.storage import MemoryStorage

MSG_BYTES_MAX: Final = 512 << 10
INFLIGHT_MAX: Final = 512
INFLIGHT_BYTES_MAX: Final = 8 << 20  # a member that catches up holds up nobody's heartbeats


def make_core(
    member_id: int,
    storage: MemoryStorage,
    applied_index: int,
    *,
    election_ticks: int,
    pre_vote: bool,
    rng: Callable[[int], int],
) -> RawNode:
    """Return a core over a log of which everything up to `applied_index` is applied.

    A tick is a heartbeat interval; `rng(n)` draws from 0 to n - 1.
    """
    return RawNode(
        Config(
            id=member_id,
            election_tick=max(2, election_ticks),
            heartbeat_tick=1,
            storage=storage,
            applied=applied_index,
            async_storage_writes=True,
            max_size_per_msg=MSG_BYTES_MAX,
            max_committed_size_per_ready=APPLY_BYTES_MAX,
            max_inflight_msgs=INFLIGHT_MAX,
            max_inflight_bytes=INFLIGHT_BYTES_MAX,
            check_quorum=True,
            pre_vote=pre_vote,
            step_down_on_removal=True,
            rng=rng,
        )
    )
