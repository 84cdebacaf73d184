"""The versions a client is told: etcd's, because it is etcd's API that is spoken here."""

from __future__ import annotations

from typing import Final

VERSION: Final = "3.7.1"
"""Server version: `Status.version`, `GET /version` "etcdserver", first line of `--version`."""

CLUSTER_VERSION: Final = "3.7.0"
"""Cluster and storage version of a fresh cluster: major.minor of VERSION, patch 0."""

MIN_CLUSTER_VERSION: Final = "3.0.0"
"""Oldest cluster a member of this version joins."""
