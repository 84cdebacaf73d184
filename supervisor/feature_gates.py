"""Feature gates: which exist, and how `--feature-gates A=true,B=false` sets them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from supervisor.go_syntax import parse_bool, quote


class Stage(StrEnum):
    """How far a feature has come; `AllAlpha` and `AllBeta` set all gates of a stage."""

    ALPHA = "ALPHA"
    BETA = "BETA"


GATES: Final[Mapping[str, tuple[bool, Stage]]] = {
    "CompactHashCheck": (False, Stage.ALPHA),
    "FastLeaseKeepAlive": (True, Stage.BETA),
    "InitialCorruptCheck": (False, Stage.ALPHA),
    "LeaseCheckpoint": (False, Stage.ALPHA),
    "LeaseCheckpointPersist": (False, Stage.ALPHA),
    "PriorityRequest": (False, Stage.ALPHA),
    "SetMemberLocalAddr": (False, Stage.ALPHA),
    "StopGRPCServiceOnDefrag": (False, Stage.ALPHA),
    "TxnModeWriteWithSharedBuffer": (True, Stage.BETA),
}
"""Name of a gate -> (default, stage)."""

SPECIAL: Final = {"AllAlpha": Stage.ALPHA, "AllBeta": Stage.BETA}


def parse_gates(text: str) -> dict[str, bool]:
    """Read `key=value,...`; the result holds only what the text names.

    Raises ValueError with etcd's text for an unknown gate or a value that is no boolean.
    """
    chosen: dict[str, bool] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            raise ValueError(f"missing bool value for {key}")
        try:
            chosen[key] = parse_bool(value)
        except ValueError:
            reason = f"strconv.ParseBool: parsing {quote(value)}: invalid syntax"
            raise ValueError(f"invalid value of {key}={value}, err: {reason}") from None
    for key in chosen:
        if key not in GATES and key not in SPECIAL:
            raise ValueError(f"unrecognized feature gate: {key}")
    return chosen


def resolve_gates(chosen: Mapping[str, bool]) -> dict[str, bool]:
    """Return every gate with its value: named itself, else through its stage, else default."""
    resolved: dict[str, bool] = {}
    for name, (default, stage) in GATES.items():
        value = default
        for special, special_stage in SPECIAL.items():
            if special in chosen and special_stage is stage:
                value = chosen[special]
        resolved[name] = chosen.get(name, value)
    return resolved
