"""What a disk may hold after a power loss.

A change of a file is on the disk if a sync of that file began after the change was made and
ended before the power went. Any other change may be there or not, and a write may be there in
part, by sectors. A change of a name is on the disk if its folder was synced likewise; of the
others either some first ones are there (a file system with an ordered journal) or any of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.recording import Kind

SECTOR_BYTES = 512
Event = Sequence[Any]


@dataclass(slots=True, eq=False)
class File:
    """A file, apart from its names. `changes` are (event number, event); `synced` counts events."""

    content: bytes = b""
    changes: list[tuple[int, Event]] = field(default_factory=list)
    synced: int = -1


@dataclass(slots=True, eq=False)
class Folder:
    """A folder, apart from its name. Changes of names in it before `synced` are durable."""

    synced: int = -1


@dataclass(slots=True, eq=False)
class NameChange:
    """`thing` gets the name `new`, or loses the name `old`, or both (a rename)."""

    number: int
    folder: Folder
    thing: File | Folder
    old: str = ""
    new: str = ""


class Names:
    """A tree of names, flat. A thing has one name at most, and a folder takes along what is in it.

    As any changes may be missing, one that makes no sense (the name is not there) does nothing.
    """

    def __init__(self, things: dict[str, File | Folder]) -> None:
        self.things = dict(things)

    def apply(self, change: NameChange) -> None:
        held = next((n for n, t in self.things.items() if t is change.thing), "")
        if not change.new:
            if held == change.old:
                del self.things[held]
            return
        inside = [n for n in self.things if held and n.startswith(held + "/")]
        moved = {change.new + n[len(held) :]: self.things.pop(n) for n in inside}
        self.things.pop(held, None)
        self.things[change.new] = change.thing
        self.things |= moved


class Disk:
    """The disk as a journal saw it. Nothing below `root` but `base` was there at the beginning."""

    def __init__(
        self, events: Sequence[Event], root: Path, base: dict[str, bytes] | None = None
    ) -> None:
        self.events = events
        self._root = os.path.abspath(root)
        self._base = base or {}

    def cuts(self, count: int, seed: int) -> list[int]:
        """Return `count` moments (numbers of events that happened), ascending, with repetition."""
        chance = random.Random(seed)
        return sorted(chance.randint(0, len(self.events)) for _ in range(count))

    def acknowledged(self, cut: int) -> list[tuple[str, Any]]:
        """Return the marks made before the power went, as (label, value)."""
        return [(e[1], e[2]) for e in self.events[:cut] if e[0] == Kind.ACK]

    def write_image(self, cut: int, seed: int, target: Path) -> None:
        """Write what the disk may hold after a power loss, one of many ways by `seed`."""
        play = _Play(self._root, self._base)
        for number in range(cut):
            play.take(number, self.events[number])
        chance = random.Random(f"{cut}/{seed}")
        names = Names(play.first)
        for change in _surviving_names(play.changes, chance):
            names.apply(change)
        keep = chance.choice((0.0, 0.5, 1.0, chance.random()))
        tear = chance.choice((0.0, 0.3))
        for name, thing in sorted(names.things.items()):
            path = target / os.path.relpath(name, self._root)
            if isinstance(thing, Folder):
                path.mkdir(parents=True, exist_ok=True)
        for name, thing in sorted(names.things.items()):
            path = target / os.path.relpath(name, self._root)
            if isinstance(thing, File) and path.parent.exists():
                path.write_bytes(_surviving_content(thing, cut, keep, tear, chance))


class _Play:
    """Plays events and remembers which change is durable."""

    def __init__(self, root: str, base: dict[str, bytes]) -> None:
        self.first: dict[str, File | Folder] = {root: Folder()}
        for name, content in base.items():
            self.first[os.path.join(root, os.path.dirname(name)).rstrip("/")] = Folder()
            self.first[os.path.join(root, name)] = File(content)
        self.first[root] = Folder()
        self.live = Names(self.first)
        self.changes: list[NameChange] = []
        self._handles: dict[int, File] = {}
        self._begun: dict[int, int] = {}

    def take(self, number: int, event: Event) -> None:
        kind = event[0]
        if kind in (Kind.WRITE, Kind.TRUNCATE):
            self._handles[event[1]].changes.append((number, event))
        elif kind in (Kind.SYNC_BEGIN, Kind.FOLDER_BEGIN):
            self._begun[event[2]] = number
        elif kind == Kind.SYNC_END:
            file = self._handles[event[1]]
            file.synced = max(file.synced, self._begun[event[2]])
        elif kind == Kind.FOLDER_END:
            folder = self._folder(event[1])
            folder.synced = max(folder.synced, self._begun[event[2]])
        elif kind == Kind.OPEN:
            self._open(number, *event[1:])
        elif kind == Kind.MAKE_DIRECTORY:
            self._rename(number, Folder(), new=event[1])
        elif kind == Kind.RENAME and event[1] in self.live.things:
            replaced = self.live.things.get(event[2])
            if replaced is not None:
                self._rename(number, replaced, old=event[2])
            self._rename(number, self.live.things[event[1]], old=event[1], new=event[2])
        elif kind in (Kind.UNLINK, Kind.REMOVE_DIRECTORY) and event[1] in self.live.things:
            self._rename(number, self.live.things[event[1]], old=event[1])

    def _open(self, number: int, handle: int, path: str, created: bool) -> None:
        thing = self.live.things.get(path)
        if thing is None:
            assert created, f"{path} was there before the recording began"
            thing = File()
            self._rename(number, thing, new=path)
        assert isinstance(thing, File)
        self._handles[handle] = thing

    def _rename(self, number: int, thing: File | Folder, old: str = "", new: str = "") -> None:
        change = NameChange(number, self._folder(os.path.dirname(new or old)), thing, old, new)
        self.changes.append(change)
        self.live.apply(change)

    def _folder(self, path: str) -> Folder:
        folder = self.live.things.get(path)
        if folder is None:  # outside of the root, or a part of it that nobody made: always there
            folder = Folder()
            self.live.things[path] = self.first[path] = folder
        assert isinstance(folder, Folder)
        return folder


def _surviving_names(changes: list[NameChange], chance: random.Random) -> list[NameChange]:
    open_ones = [c for c in changes if c.number >= c.folder.synced]
    if chance.random() < 0.5:
        lost = set(map(id, open_ones[chance.randint(0, len(open_ones)) :]))
    else:
        lost = {id(c) for c in open_ones if chance.random() < 0.5}
    return [c for c in changes if id(c) not in lost]


def _surviving_content(
    file: File, cut: int, keep: float, tear: float, chance: random.Random
) -> bytes:
    content = bytearray(file.content)
    for number, event in file.changes:
        durable = number < file.synced
        last = number == cut - 1
        if not durable and not last and chance.random() >= keep:
            continue
        if event[0] == Kind.TRUNCATE:
            size = event[2]
            content = content[:size] + bytes(max(0, size - len(content)))
            continue
        _, _, offset, data = event
        torn = not durable and (last or chance.random() < tear)
        if len(content) < offset + len(data) and not torn:
            content += bytes(offset + len(data) - len(content))
        if torn:
            _write_sectors(content, offset, data, chance)
        else:
            content[offset : offset + len(data)] = data
    return bytes(content)


def _write_sectors(content: bytearray, offset: int, data: bytes, chance: random.Random) -> None:
    """Write any sectors of the data: none, some, or all."""
    share = chance.random()
    place = 0
    while place < len(data):
        length = min(SECTOR_BYTES - (offset + place) % SECTOR_BYTES, len(data) - place)
        if chance.random() < share:
            at = offset + place
            content += bytes(max(0, at + length - len(content)))
            content[at : at + length] = data[place : place + length]
        place += length
