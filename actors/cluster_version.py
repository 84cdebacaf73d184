"""The cluster version: the leader's first gateway decides it, and raises it when all agree.

Every member tells its own version to all others (transport/peers.py), so the leader knows the
lowest. While a member is silent an undecided version waits for it a moment, then becomes the
oldest there is, as in etcd; a later look raises it. A later leader goes on where this one stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.proposals import Proposals
from kv.batch import Op
from kv.errors import Status
from kv.version import VERSION, next_cluster_version, packed
from storage.reader import Reader
from transport.log import Logger

LOOK_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 1.0


class ClusterVersion:
    """Proposes the version of one cluster. Times are monotonic seconds."""

    def __init__(
        self, proposals: Proposals, reader: Reader, lowest: Callable[[], int], log: Logger
    ) -> None:
        """`lowest()` is TransportMetric.LOWEST_VERSION."""
        self._proposals = proposals
        self._reader = reader
        self._lowest = lowest
        self._log = log
        self._next_look = 0.0
        self._led_since: float | None = None
        self._in_flight = False

    def look(self, now: float, *, leads: bool) -> None:
        """Propose a version if there is one to propose; to be called often."""
        if not leads:
            self._led_since = None
            self._next_look = 0.0
            return
        if self._led_since is None:
            self._led_since = now
        if now < self._next_look or self._in_flight or not self._proposals.open:
            return
        with self._reader.view() as view:
            decided = view.cluster_version()
            alone = len(view.members()) == 1
        if decided is not None:
            self._next_look = now + LOOK_SECONDS
        lowest = packed(VERSION) if alone else self._lowest()
        if not lowest and now - self._led_since < SILENCE_SECONDS:
            return
        wanted = next_cluster_version(decided, lowest)
        if wanted is not None:
            self._propose(decided, wanted)

    def _propose(self, decided: str | None, wanted: str) -> None:
        if decided is None:
            self._log.info(
                "setting up initial cluster version using v3 API", cluster_version=wanted
            )
        else:
            self._log.info("updating cluster version using v3 API", to=wanted, **{"from": decided})
        self._in_flight = True
        self._proposals.add(Op.CLUSTER_VERSION, wanted.encode(), _Update(self, wanted))

    def over(self, version: str, refused: Status | None) -> None:
        """A proposal is over; a refused one is made again at the next look."""
        self._in_flight = False
        if refused is None:
            self._log.info("cluster version is updated", cluster_version=version)
        else:
            self._log.warning("failed to update cluster version", error=refused.text)


class _Update:
    """Waits for one proposal."""

    def __init__(self, owner: ClusterVersion, version: str) -> None:
        self._owner = owner
        self._version = version
        self.closed = False

    def answered(self, revision: int, body: bytes) -> None:
        self.closed = True
        self._owner.over(self._version, None)

    def fail(self, status: Status) -> None:
        self.closed = True
        self._owner.over(self._version, status)
