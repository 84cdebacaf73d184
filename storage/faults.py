"""A disk that is slow or fails, for the isolation and fault tests of living members.

The control file is read before every sync; it holds a JSON object, and an absent or empty file
means a healthy disk:

    {"sync_seconds": 0.5}     every sync takes this much longer
    {"sync_errno": 5}         every sync of a file fails with this error (5 is EIO)
    {"write_errno": 28}       every write fails with this error (28 is ENOSPC)
    {"growth_errno": 28}      every write that makes a file longer fails, as on a full disk
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.files import OsFiles


class FaultyFiles(OsFiles):
    """Files of the operating system that obey a control file."""

    def __init__(self, control: Path) -> None:
        self._control = control

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """See Files."""
        self._fail("write_errno")
        if offset + sum(map(len, parts)) > self.size(descriptor):
            self._fail("growth_errno")
        return super().pwrite(descriptor, parts, offset)

    def fdatasync(self, descriptor: int) -> None:
        """See Files."""
        self._wait()
        self._fail("sync_errno")
        super().fdatasync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """See Files."""
        self._wait()
        super().sync_directory(path)

    def _orders(self) -> dict[str, Any]:
        try:
            orders: dict[str, Any] = json.loads(self._control.read_text() or "{}")
        except FileNotFoundError:
            return {}
        return orders

    def _wait(self) -> None:
        if seconds := self._orders().get("sync_seconds"):
            time.sleep(float(seconds))

    def _fail(self, order: str) -> None:
        if number := self._orders().get(order):
            raise OSError(int(number), os.strerror(int(number)))
