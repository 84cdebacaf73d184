"""What raft raises. Nothing here ends a correct program but InvariantError."""

from __future__ import annotations


class RaftError(Exception):
    """Any refusal of the raft core."""


class ProposalDroppedError(RaftError):
    """No leader, a leadership transfer under way, or too much that is not committed: try later."""

    def __init__(self) -> None:
        super().__init__("raft proposal dropped")


class StepLocalMessageError(RaftError):
    """A peer sent a message that is local by nature."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step raft local message")


class StepPeerNotFoundError(RaftError):
    """A response came from a member that is not in the configuration."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step as peer not found")


class ConfChangeError(RaftError):
    """The configuration change is not possible in the present configuration."""


class ConfigError(RaftError, ValueError):
    """A setting of Config makes no sense."""


class StorageError(RaftError):
    """Storage can't give what was asked for."""


class CompactedError(StorageError):
    """The index is below the first one kept."""

    def __init__(self) -> None:
        super().__init__("requested index is unavailable due to compaction")


class UnavailableError(StorageError):
    """The index is above the last one."""

    def __init__(self) -> None:
        super().__init__("requested entry at index is unavailable")


class SnapshotOutOfDateError(StorageError):
    """There is a newer snapshot already."""

    def __init__(self) -> None:
        super().__init__("requested index is older than the existing snapshot")


class SnapshotTemporarilyUnavailableError(StorageError):
    """A snapshot is being made; raft asks again later."""

    def __init__(self) -> None:
        super().__init__("snapshot is temporarily unavailable")


class InvariantError(AssertionError):
    """Something raft relies on does not hold: the log is damaged, or the caller broke the rules.

    The member must stop. An AssertionError that `python -O` can't switch off.
    """
