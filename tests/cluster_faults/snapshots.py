"""What brings a member so far behind that it needs a snapshot, and whether it got one."""

from __future__ import annotations

from typing import Final

from benchmarks.generator import Options, load
from tests.cluster import ClusterMember

VALUE_BYTES: Final = 1024
FILL_IN_FLIGHT: Final = 200


def fill(member: ClusterMember, count: int) -> None:
    """Put so many keys."""
    options = Options(
        op="put", in_flight=FILL_IN_FLIGHT, count=count, keys=count, value_bytes=VALUE_BYTES
    )
    load(member.endpoint, options)


def installed(member: ClusterMember) -> int:
    """Return how many snapshots of the leader a member has installed, by its log."""
    return member.log.count('"msg":"applied snapshot"')
