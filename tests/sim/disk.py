"""Files in memory with a page cache: what is synced survives a power loss, the rest may or may not.

The rules are those of tests/storage/power/disk.py: a write that was not synced is there or not, or
in part by sectors; of the names that were not synced some first ones are there, or any of them. A
failed fdatasync leaves what was written in the cache and drops it from what will ever reach the
disk (RULES A7). A killed process loses nothing: the cache is the machine's.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.storage.power.disk import SECTOR_BYTES, File, Folder, NameChange, Names


class CachedFile(File):
    """A file: `content` is on the disk for sure, `cache` is what processes see."""

    __slots__ = ("cache", "writes")

    def __init__(self) -> None:
        super().__init__()
        self.cache = bytearray()
        self.writes: list[tuple[int, bytes]] = []

    def flush(self) -> None:
        """Carry out the writes that wait."""
        for offset, data in self.writes:
            _write(self.content, offset, data)
        self.writes.clear()


class SimFiles:
    """Implements storage.files.Files for one member."""

    def __init__(self, chance: random.Random, before: Callable[[str], None]) -> None:
        """`before(operation)` is called before each change; it may raise, as a kill does."""
        self._chance = chance
        self._before = before
        self._first: dict[str, File | Folder] = {"/": Folder()}
        self._live = Names(self._first)
        self._changes: list[tuple[str, NameChange]] = []
        self._open: dict[int, CachedFile] = {}
        self._descriptors = 2
        self.failing_syncs = 0
        """So many of the next fdatasyncs fail."""
        self.torn = 0
        """Writes that a power loss has left in part."""

    # --- Files ------------------------------------------------------------------------------------

    def create(self, path: Path) -> int:
        """See Files."""
        self._before("create")
        if str(path) in self._live.things:
            raise FileExistsError(path)
        file = CachedFile()
        self._change(path, file, new=str(path))
        return self._opened(file)

    def open(self, path: Path) -> int:
        """See Files."""
        return self._opened(self._file(path))

    def close(self, descriptor: int) -> None:
        """See Files."""
        del self._open[descriptor]

    def size(self, descriptor: int) -> int:
        """See Files."""
        return len(self._open[descriptor].cache)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """See Files."""
        return bytes(self._open[descriptor].cache[offset : offset + length])

    def pwrite(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """See Files."""
        self._before("write")
        file, data = self._open[descriptor], b"".join(parts)
        _write(file.cache, offset, data)
        file.writes.append((offset, data))
        return len(data)

    def fdatasync(self, descriptor: int) -> None:
        """See Files."""
        self._before("sync")
        writes = self._open[descriptor].writes
        if self.failing_syncs:
            self.failing_syncs -= 1
            writes.clear()
            raise OSError(errno.EIO, "Input/output error")
        self._open[descriptor].flush()

    def truncate(self, descriptor: int, length: int) -> None:
        """See Files. Nobody truncates yet."""
        raise NotImplementedError

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""
        self._before("rename")
        thing = self._live.things.get(str(old))
        if thing is None:
            raise FileNotFoundError(old)
        self._change(new, thing, old=str(old), new=str(new))

    def unlink(self, path: Path) -> None:
        """See Files."""
        self._before("unlink")
        self._change(path, self._file(path), old=str(path))

    def make_directory(self, path: Path) -> None:
        """See Files."""
        if str(path) in self._live.things:
            raise FileExistsError(path)
        self._change(path, Folder(), new=str(path))

    def remove_directory(self, path: Path) -> None:
        """See Files."""
        self._change(path, self._live.things[str(path)], old=str(path))

    def sync_directory(self, path: Path) -> None:
        """See Files."""
        self._before("sync")
        self._changes = [
            (folder, _durable(change)) if folder == str(path) else (folder, change)
            for folder, change in self._changes
        ]
        names = Names(self._first)
        while self._changes and self._changes[0][1].number == 0:
            names.apply(self._changes.pop(0)[1])
        self._first = names.things

    def list(self, path: Path) -> list[str]:
        """See Files."""
        if str(path) not in self._live.things:
            raise FileNotFoundError(path)
        inside = str(path) + "/"
        names = [name[len(inside) :] for name in self._live.things if name.startswith(inside)]
        return sorted(name for name in names if "/" not in name)

    def free_bytes(self, path: Path) -> int:
        """See Files."""
        return 1 << 40

    # --- faults -----------------------------------------------------------------------------------

    def forget_descriptors(self) -> None:
        """The process is gone."""
        self._open.clear()

    def lose_power(self) -> None:
        """Keep what is durable, and of the rest what chance leaves."""
        chance = self._chance
        unsynced = [place for place, (_, change) in enumerate(self._changes) if change.number]
        if chance.random() < 0.5:
            lost = set(unsynced[chance.randint(0, len(unsynced)) :])
        else:
            lost = {place for place in unsynced if chance.random() < 0.5}
        names = Names(self._first)
        for place, (_, change) in enumerate(self._changes):
            if place not in lost:
                names.apply(change)
        self._first = dict(names.things)
        self._live = Names(self._first)
        self._changes.clear()
        self._open.clear()
        keep = chance.choice((0.0, 0.5, 1.0, chance.random()))
        tear = chance.choice((0.0, 0.3))
        for thing in self._live.things.values():
            if isinstance(thing, CachedFile):
                self._settle(thing, keep, tear)

    def _settle(self, file: CachedFile, keep: float, tear: float) -> None:
        chance = self._chance
        for place, (offset, data) in enumerate(file.writes):
            last = place == len(file.writes) - 1
            if not last and chance.random() >= keep:
                continue
            if last or chance.random() < tear:
                self.torn += _write_sectors(file.content, offset, data, chance)
            else:
                _write(file.content, offset, data)
        file.writes.clear()
        file.cache = bytearray(file.content)

    # --- names ------------------------------------------------------------------------------------

    def _file(self, path: Path) -> CachedFile:
        thing = self._live.things.get(str(path))
        if thing is None:
            raise FileNotFoundError(path)
        assert isinstance(thing, CachedFile)
        return thing

    def _opened(self, file: CachedFile) -> int:
        self._descriptors += 1
        self._open[self._descriptors] = file
        return self._descriptors

    def _change(self, path: Path, thing: File | Folder, old: str = "", new: str = "") -> None:
        change = NameChange(1, Folder(), thing, old, new)
        self._changes.append((str(path.parent), change))
        self._live.apply(change)


def _durable(change: NameChange) -> NameChange:
    change.number = 0
    return change


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data


def _write_sectors(content: bytearray, offset: int, data: bytes, chance: random.Random) -> bool:
    """Write any sectors of the data; return whether some are missing."""
    share = chance.choice((0.0, 0.5, 1.0, chance.random()))
    missing = False
    place = 0
    while place < len(data):
        length = min(SECTOR_BYTES - (offset + place) % SECTOR_BYTES, len(data) - place)
        if chance.random() < share:
            _write(content, offset + place, data[place : place + length])
        else:
            missing = True
        place += length
    return missing
