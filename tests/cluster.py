"""Clusters of processes; they are the plugin's."""

from __future__ import annotations

from pytest_trouped.cluster import READY_SECONDS as READY_SECONDS
from pytest_trouped.cluster import Cluster as Cluster
from pytest_trouped.cluster import ClusterError as ClusterError
from pytest_trouped.cluster import ClusterMember as ClusterMember
