"""The versions a client is told: etcd's, because it is etcd's API that is spoken here."""

from __future__ import annotations

from typing import Final

VERSION: Final = "3.7.1"
"""Server version: `Status.version`, `GET /version` "etcdserver", first line of `--version`."""

CLUSTER_VERSION: Final = "3.7.0"
"""Cluster and storage version of a fresh cluster: major.minor of VERSION, patch 0."""

MIN_CLUSTER_VERSION: Final = "3.0.0"
"""Oldest cluster a member of this version joins."""


def packed(version: str) -> int:
    """Return `major << 16 | minor << 8 | patch` of a version; ValueError if it is none."""
    major, minor, patch = map(int, version.split("."))
    if not all(0 <= part < 256 for part in (major, minor, patch)):
        raise ValueError(f"version {version!r}")
    return major << 16 | minor << 8 | patch


def next_cluster_version(decided: str | None, lowest: int) -> str | None:
    """Return the cluster version a leader should propose; None to leave it as it is.

    `lowest` is the packed lowest server version of all members, 0 while any is unknown. An
    undecided version becomes the lowest, or the oldest there is while that is unknown; a decided
    one is only ever raised, within its major version, and when all members are known
    (etcd's decideClusterVersion; downgrades apart).
    """
    if not lowest:
        return MIN_CLUSTER_VERSION if decided is None else None
    major, minor = lowest >> 16, lowest >> 8 & 0xFF
    wanted = f"{major}.{minor}.0"
    if decided is None:
        return wanted
    known = packed(decided)
    return wanted if known >> 16 == major and known >> 8 < lowest >> 8 else None
