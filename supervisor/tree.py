"""The supervision tree as data: who runs, how he is restarted, and why he stands here.

Start order is the order of the list, stop order its reverse, in three steps: the gateways, which
drain their clients; the rest, of whom the raft node hands leadership over; then the transport,
which it needs for that. All children are started at once: whoever comes up
first repeats its Hello until the others answer.

What may take long without being stuck is a table here too (seconds by wire tag; FLUSH_TAG is the
end of a batch, where disks are waited for). Whatever isn't named has the child's `stuck_after`.
"""

from __future__ import annotations

from typing import Final

from actors.base import FLUSH_TAG, TICK_TAG
from actors.messages import Checkpointed, Durable, InstallSnapshot, PeerReceived
from actors.observing import MESSAGE_NAMES as MESSAGE_NAMES
from actors.wire import WIRE
from storage.failures import STORAGE_EXIT_CODE
from supervisor.spec import ChildSpec

_TAGS: Final = {cls: tag for tag, cls in WIRE.items()}
# One request may delete a million keys (20 s here), and would take as long again after a restart:
# killing the applier for it would never end. A *stopped* process is found after `stuck_after`.
APPLIER_ALLOWANCES: Final = {
    FLUSH_TAG: 300.0,
    TICK_TAG: 15.0,
    _TAGS[Checkpointed]: 15.0,
    _TAGS[InstallSnapshot]: 300.0,
}
# A new leader's lessor reads all leases at once: some 3 s for each million.
LESSOR_ALLOWANCES: Final = {FLUSH_TAG: 60.0}
RAFT_NODE_ALLOWANCES: Final = {FLUSH_TAG: 10.0, TICK_TAG: 10.0, _TAGS[Durable]: 10.0}

# Clients wait while one of these is away, and others elect a new leader if it takes long.
SOON: Final = 0.1
STORAGE_FAILED: Final = frozenset({STORAGE_EXIT_CODE})


STAGE: Final = (
    ChildSpec(
        name="transport",
        module="actors.transport",
        backoff_max=SOON,
        exit_code=86,
        reason="first up, last down: raft must be able to speak while the others come and go",
        listens=("peer",),
        stops_last=True,
        oom_score_adj=100,
    ),
    ChildSpec(
        name="applier",
        module="actors.applier",
        backoff_max=SOON,
        exit_code=82,
        final_exit_codes=STORAGE_FAILED,
        reason="the only writer of the database; one transaction may be long",
        allowances=APPLIER_ALLOWANCES,
        keeps_lock=True,
    ),
    ChildSpec(
        name="raft-node",
        module="actors.raft_node",
        backoff_max=SOON,
        exit_code=81,
        final_exit_codes=STORAGE_FAILED,
        reason="owns the log; a slow disk may hold up one fdatasync",
        allowances=RAFT_NODE_ALLOWANCES,
        keeps_lock=True,
    ),
    ChildSpec(
        name="lessor",
        module="actors.lessor",
        backoff_max=SOON,
        exit_code=83,
        reason="lease clocks only; state is in the database",
        allowances=LESSOR_ALLOWANCES,
        oom_score_adj=100,
    ),
    ChildSpec(
        name="compactor",
        module="actors.compactor",
        exit_code=84,
        reason="paces background work; a half-done job is taken up again",
        oom_score_adj=200,
    ),
    ChildSpec(
        name="snapshotter",
        module="actors.snapshotter",
        exit_code=85,
        final_exit_codes=STORAGE_FAILED,
        reason="background disk work: it yields to all others, and one checkpoint may be long",
        allowances={TICK_TAG: 120.0, _TAGS[PeerReceived]: 120.0},
        oom_score_adj=300,
        nice=10,
    ),
)


GATEWAY_REASON: Final = "holds clients' memory: the first to go when there is none left"
STANDBY_REASON: Final = "takes clients while no other lives, its share of many, pages at any time"


def gateway(slot: int, reason: str = GATEWAY_REASON) -> ChildSpec:
    """Return the spec of one gateway."""
    return ChildSpec(
        name=f"gateway-{slot}",
        module="actors.gateway",
        backoff_max=SOON,
        exit_code=87,
        reason=reason,
        oom_score_adj=500,
        listens=("client", "http", "metrics"),
        drains_first=True,
        shutdown=0.9,
    )


def children(gateways: int, standbys: int = 0) -> tuple[ChildSpec, ...]:
    """Return the children of a member with so many gateways, standbys last, in start order."""
    slots = range(gateways, gateways + standbys)
    waiting = (gateway(slot, STANDBY_REASON) for slot in slots)
    return (*STAGE, *map(gateway, range(gateways)), *waiting)
