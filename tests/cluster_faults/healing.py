"""When a cluster is whole again after a fault, and what that may cost at most."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

from tests.cluster import Cluster
from tests.cluster_faults.load import Probe
from tests.cluster_faults.timing import ELECTION_SECONDS, milliseconds, percentile

ROUNDS_SLOW: Final = int(os.environ.get("TROUPED_CLUSTER_ROUNDS", "20"))
SPLIT_TERMS: Final = 3  # an election, and two before it that were split


def whole(cluster: Cluster) -> bool:
    """Whether all members follow one leader in one term."""
    statuses = cluster.statuses()
    named = {(status.leader, status.raftTerm) for status in statuses}
    leaders = {leader for leader, _ in named}
    return len(statuses) == len(cluster.members) and len(named) == 1 and 0 not in leaders


def healed_after(cluster: Cluster, moment: float, probe: Probe) -> float:
    """Return the seconds from a moment until all follow one leader and writes flow."""
    cluster.wait_for(lambda: whole(cluster), "one leader for all")
    return max(time.monotonic() - moment, probe.wait_after(moment))


class Rounds:
    """Rounds of one fault: how long each took to heal, and the terms it took and might take."""

    def __init__(self) -> None:
        self.healed: list[float] = []
        self.terms: list[tuple[int, int]] = []

    def check(self, what: str) -> None:
        """Print it; the median is at most two election timeouts, the worst four."""
        total = sum(taken for taken, _ in self.terms)
        print(f"{what}: whole after {milliseconds(self.healed)}, {total} terms")  # noqa: T201
        assert percentile(self.healed, 50) <= 2 * ELECTION_SECONDS
        assert max(self.healed) <= 4 * ELECTION_SECONDS
        assert needless(self.terms) == []


def needless(terms: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the rounds that took more terms than they might."""
    return [(taken, might) for taken, might in terms if taken > might]
