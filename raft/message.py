"""@message: a slotted dataclass that type checkers treat as frozen."""

from __future__ import annotations

import dataclasses
from typing import TypeVar, dataclass_transform

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def message(cls: type[C]) -> type[C]:
    """Frozen to mypy and pyright; at run time a plain slotted dataclass, cheaper to build.

    Hashable, as nothing changes it, and so it may be another message's default.
    """
    return dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)
