"""What `make bench` runs, and the least ratio (trouped / etcd, in operations a second) promised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.load import connections_for

KEYS: Final = 100_000
VALUE_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Workload:
    """One operation with so many requests in flight; `floor` is None where nothing is promised."""

    op: str
    in_flight: int
    floor: float | None

    @property
    def name(self) -> str:
        """The name in tables and for --only, like `put-100`."""
        return f"{self.op}-{self.in_flight}"

    @property
    def connections(self) -> int:
        """Connections that carry it."""
        return connections_for(self.in_flight)


WORKLOADS: Final = (
    Workload("put", 1, 0.45),
    Workload("put", 10, None),
    Workload("put", 100, 0.95),
    Workload("put", 1000, 1.1),
    Workload("range", 1, None),
    Workload("range", 100, 1.1),
    Workload("range", 1000, 1.0),
    Workload("serializable", 100, 0.95),
)
