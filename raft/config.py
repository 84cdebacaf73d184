"""How a raft node is set up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from raft.errors import ConfigError
from raft.messages import NONE, is_local_target
from raft.size import NO_LIMIT

if TYPE_CHECKING:
    from raft.storage import Storage

DEBUG: Final = 0
INFO: Final = 1
WARN: Final = 2
ERROR: Final = 3

Trace: TypeAlias = Callable[[int, str], None]
"""Takes (level, text). The texts are those of etcd-io/raft, without a time or a prefix."""


def ignore(level: int, text: str) -> None:
    """Take a trace and do nothing with it."""


class ReadOnlyOption(IntEnum):
    """How a leader makes sure that it still leads before it answers a MsgReadIndex."""

    SAFE = 0
    """By a heartbeat a quorum has answered."""
    LEASE_BASED = 1
    """By its lease: wrong when clocks drift. Needs check_quorum."""


@dataclass(slots=True, kw_only=True)
class Config:
    """Settings of one node. `validate` fills in what follows from others."""

    id: int
    """This member. Never 0."""
    election_tick: int
    """Ticks without a leader before a follower campaigns; it waits up to twice as long."""
    heartbeat_tick: int
    """Ticks between heartbeats of a leader."""
    storage: Storage
    """What was durable at the start."""
    rng: Callable[[int], int]
    """Returns an integer in [0, n). The only chance in the core."""
    applied: int = 0
    """Last index applied. It may exceed HardState.commit, never the log."""
    async_storage_writes: bool = False
    """Ready then holds MsgStorageAppend and MsgStorageApply; advance() must not be called."""
    max_size_per_msg: int = NO_LIMIT
    """Bytes of entries in a MsgApp; 0 means at most one entry."""
    max_committed_size_per_ready: int = 0
    """Bytes of entries being applied at any time. 0: as max_size_per_msg."""
    max_uncommitted_entries_size: int = 0
    """Bytes of data a leader holds uncommitted before it drops proposals. 0: no limit."""
    max_inflight_msgs: int = 256
    """MsgApps under way to one follower."""
    max_inflight_bytes: int = 0
    """Bytes under way to one follower. 0: no limit."""
    check_quorum: bool = False
    """A leader steps down when no quorum was active for an election timeout."""
    pre_vote: bool = False
    """Ask before campaigning, so that a cut-off member can't disturb (Raft thesis, 9.6)."""
    read_only_option: ReadOnlyOption = ReadOnlyOption.SAFE
    disable_proposal_forwarding: bool = False
    """A follower drops proposals rather than pass them on."""
    disable_conf_change_validation: bool = False
    """The application checks configuration changes when it applies them."""
    step_down_on_removal: bool = False
    """A leader removed or demoted steps down as soon as that is applied."""
    trace: Trace = ignore
    """Is told what happens, in etcd's words."""

    def validate(self) -> None:
        """Fill in what follows from other settings. Raises ConfigError."""
        if self.id == NONE:
            raise ConfigError("cannot use none as id")
        if is_local_target(self.id):
            raise ConfigError("cannot use local target as id")
        if self.heartbeat_tick <= 0:
            raise ConfigError("heartbeat tick must be greater than 0")
        if self.election_tick <= self.heartbeat_tick:
            raise ConfigError("election tick must be greater than heartbeat tick")
        if self.max_inflight_msgs <= 0:
            raise ConfigError("max inflight messages must be greater than 0")
        self.max_uncommitted_entries_size = self.max_uncommitted_entries_size or NO_LIMIT
        self.max_committed_size_per_ready = (
            self.max_committed_size_per_ready or self.max_size_per_msg
        )
        self.max_inflight_bytes = self.max_inflight_bytes or NO_LIMIT
        # A window without a limit holds any message, also one that itself has no limit.
        if self.max_inflight_bytes < self.max_size_per_msg:
            raise ConfigError("max inflight bytes must be >= max message size")
        if self.read_only_option == ReadOnlyOption.LEASE_BASED and not self.check_quorum:
            raise ConfigError(
                "CheckQuorum must be enabled when ReadOnlyOption is ReadOnlyLeaseBased"
            )
