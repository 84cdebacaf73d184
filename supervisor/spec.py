"""What root knows of a child before it starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One child. Times in seconds.

    A child that ends with one of `final_exit_codes` is not restarted: the member ends with that
    code. At most `restarts` restarts within `period`; past that the member ends with `exit_code`.
    The first restart is immediate, further ones within the period wait, doubling, between
    `backoff_min` and `backoff_max`. A child that shows no progress for `stuck_after` is killed;
    `allowances` (wire tag -> seconds) give single types of messages more. A stop asks children
    that drain first before all others, and those that stop last after all others have ended.
    """

    name: str
    module: str
    exit_code: int
    reason: str
    final_exit_codes: frozenset[int] = frozenset()
    restart: Literal["permanent"] = "permanent"
    restarts: int = 20
    period: float = 30.0
    backoff_min: float = 0.02
    backoff_max: float = 1.0
    shutdown: float = 0.4
    start_within: float = 60.0
    stuck_after: float = 4.0
    allowances: Mapping[int, float] = field(default_factory=dict)
    oom_score_adj: int = 0
    nice: int = 0
    keeps_lock: bool = False
    listens: tuple[str, ...] = ()
    drains_first: bool = False
    stops_last: bool = False
