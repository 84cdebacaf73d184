"""The lessor's clocks in a mapped file of the run directory: what outlives its process.

A lessor that starts again on the same leader goes on with these clocks (RULES A6.6); what was
renewed is not stored anywhere else. They are good for one term only: another leader has promised
other things meanwhile, so a promotion in another term begins anew.

Layout, in 8-byte words: MAGIC, term, when a lessor was last at work, reserved; then for each slot
lease id, granted index, expiry (0: the slot is free). Times are CLOCK_BOOTTIME in ns. The expiry is
written last when a slot is taken and first when it is freed, so no half of a slot is believed.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from kv.lease import Clock

MAGIC: Final = 0x6C65617365733031  # "leases01"
HEADER_WORDS: Final = 4
SLOT_WORDS: Final = 3
FIRST_SLOTS: Final = 1024


class ClockFile:
    """Implements kv.lease.Keeper."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._free: list[int] = []
        self._slots = 0
        size = os.fstat(self._descriptor).st_size
        slots = (size // 8 - HEADER_WORDS) // SLOT_WORDS
        self._map: mmap.mmap | None = None
        self._words: memoryview[int]
        self._resize(max(slots, FIRST_SLOTS))
        if self._words[0] != MAGIC:
            self._words[1] = 0
            self._words[0] = MAGIC

    def _resize(self, slots: int) -> None:
        """Raises OSError where there is no room: a store into a hole there would be a SIGBUS."""
        size = 8 * (HEADER_WORDS + slots * SLOT_WORDS)
        os.posix_fallocate(self._descriptor, 0, size)
        if self._map is not None:
            self._words.release()
            self._map.close()
        self._map = mmap.mmap(self._descriptor, size)
        self._words = memoryview(self._map).cast("q")
        self._slots = slots

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._words.release()
        if self._map is not None:
            self._map.close()
        os.close(self._descriptor)

    def load(self, term: int) -> tuple[dict[tuple[int, int], int], int]:
        """Return expiries by (lease id, granted index) of a term, and when they were last kept.

        Nothing, and 0, if the file is of another term.
        """
        words = self._words
        if words[1] != term:
            return {}, 0
        return _expiries(words), words[2]

    def begin(self, term: int) -> None:
        """Forget everything: a lessor is promoted in `term`."""
        self._words[1] = 0
        # No shorter than it was when it was made: on a full disk somebody else would take the room.
        os.ftruncate(self._descriptor, 8 * (HEADER_WORDS + FIRST_SLOTS * SLOT_WORDS))
        self._resize(FIRST_SLOTS)
        self._words[HEADER_WORDS:] = memoryview(bytes(8 * FIRST_SLOTS * SLOT_WORDS)).cast("q")
        self._free = list(range(FIRST_SLOTS - 1, -1, -1))
        self._words[1] = term

    def at_work(self, now: int) -> None:
        """Say that a lessor is alive."""
        self._words[2] = now

    def keep(self, clock: Clock) -> None:
        """See Keeper."""
        words = self._words
        if clock.slot >= 0:
            words[HEADER_WORDS + clock.slot * SLOT_WORDS + 2] = clock.expiry
            return
        if not self._free:
            slots = self._slots
            try:
                self._resize(2 * slots)
            except OSError:  # not kept: the next lessor gives such a lease its whole time
                return
            self._free = list(range(2 * slots - 1, slots - 1, -1))
            words = self._words
        clock.slot = self._free.pop()
        place = HEADER_WORDS + clock.slot * SLOT_WORDS
        words[place] = clock.id
        words[place + 1] = clock.granted_index
        words[place + 2] = clock.expiry

    def drop(self, clock: Clock) -> None:
        """See Keeper."""
        if clock.slot >= 0:
            self._words[HEADER_WORDS + clock.slot * SLOT_WORDS + 2] = 0
            self._free.append(clock.slot)
            clock.slot = -1


def read_expiries(path: Path, term: int) -> dict[int, int]:
    """Return when leases expire, by id, as the lessor of a term keeps it; empty without one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    words = memoryview(data[: len(data) // 8 * 8]).cast("q")
    if len(words) < HEADER_WORDS or (words[0], words[1]) != (MAGIC, term):
        return {}
    return {lease_id: expiry for (lease_id, _), expiry in _expiries(words).items()}


def _expiries(words: memoryview[int]) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    for place in range(HEADER_WORDS, len(words) - SLOT_WORDS + 1, SLOT_WORDS):
        if words[place + 2]:
            found[words[place], words[place + 1]] = words[place + 2]
    return found
