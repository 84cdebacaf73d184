"""What is refused before any handler runs (etcd's newUnaryInterceptor, newStreamInterceptor).

1. A learner answers Status, serializable ranges and Snapshot, nothing else.
2. A client API version must be text.
3. With `hasleader: true` a call without a leader is refused at once, instead of after a time-out,
   and a stream ends when there has been no leader for three election timeouts.

That a learner's range is serializable is checked where the request is parsed (api/kv.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from kv.errors import (
    INVALID_CLIENT_API_VERSION,
    NO_LEADER,
    NOT_SUPPORTED_FOR_LEARNER,
    Status,
)

LEARNER_METHODS: Final = frozenset(
    (
        b"/etcdserverpb.Maintenance/Status",
        b"/etcdserverpb.KV/Range",
        b"/etcdserverpb.Maintenance/Snapshot",
    )
)


HAS_LEADER: Final = b"hasleader"


def requires_leader(value: bytes | None) -> bool:
    """Whether this value of the header HAS_LEADER asks for a leader."""
    return value == b"true"


class Seen(Protocol):
    """What of a member's status decides."""

    @property
    def leader(self) -> int:
        """The leader's id; 0 when there is none."""

    @property
    def is_learner(self) -> bool:
        """Whether the member is a learner."""


class Interceptor:
    """Decides over calls of one member."""

    __slots__ = ("_status",)

    def __init__(self, status: Seen) -> None:
        self._status = status

    def is_plain(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether nothing but path and client API version decides over a call."""
        return HAS_LEADER not in fields and not self._status.is_learner

    def __call__(self, path: bytes, fields: Mapping[bytes, bytes]) -> Status | None:
        """Return why a call with these headers is refused; None if it is not."""
        if self._status.is_learner and path not in LEARNER_METHODS:
            return NOT_SUPPORTED_FOR_LEARNER
        version = fields.get(b"client-api-version")
        if version is not None and not version.isascii() and not _is_text(version):
            return INVALID_CLIENT_API_VERSION
        if requires_leader(fields.get(HAS_LEADER)) and not self._status.leader:
            return NO_LEADER
        return None


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
