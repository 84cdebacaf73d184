"""What a gateway serves from its watch hub: Watch, and Lock and Election, which wait by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from actors.gateway_status import MemberWords
from actors.metrics import ApplierMetric, GatewayMetric
from actors.watch_hub import WatchHub
from api.backend import Backend
from api.election import ElectionService
from api.grpc import Method
from api.lock import LockService
from api.watch import WatchService
from storage.events import EventReader


class Watching:
    """Hub and services of one gateway. `metric(word, value)` writes a GatewayMetric."""

    def __init__(
        self,
        backend: Backend,
        status: MemberWords,
        metric: Callable[[int, int], None],
        *,
        directory: Path,
        call_soon: Callable[[Callable[[], None]], Any],
        call_later: Callable[[float, Callable[[], None]], Any],
        config: Mapping[str, Any],
        events_before: int,
    ) -> None:
        self._status = status
        self._metric = metric
        self._events_before = events_before
        hub = self.hub = WatchHub(EventReader(directory), call_soon, call_later)
        self._watch = WatchService(
            backend,
            hub,
            max_request_bytes=int(config["max_request_bytes"]),
            progress_seconds=float(config["watch_progress_notify_interval_seconds"]),
        )
        self._lock = LockService(backend, hub)
        self._election = ElectionService(backend, hub)
        hub.turned = self._watch.turned
        hub.holds = partial(metric, GatewayMetric.UNREAD_REVISION)

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        return self._watch.methods() | self._lock.methods() | self._election.methods()

    def look(self, now: float) -> None:
        """Do what is due; what messages should have told of new revisions is on the board too."""
        hub = self.hub
        if self._status.applier(ApplierMetric.REVISION) > hub.revision:
            hub.notice()
        self._watch.tick(now)
        metric = self._metric
        metric(GatewayMetric.WATCHERS, len(hub))
        metric(GatewayMetric.WATCH_STREAMS, len(self._watch.streams))
        metric(GatewayMetric.SLOW_WATCHERS, hub.slow)
        metric(GatewayMetric.WATCH_EVENTS, self._events_before + hub.events)
