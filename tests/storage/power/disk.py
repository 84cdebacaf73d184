"""What a disk may hold after a power loss.

A change of a file is on the disk if a sync of that file began after the change was made and
ended before the power went. Any other change may be there or not, and a write may be there in
part, by sectors. A change of a name is on the disk if its folder was synced likewise; of the
others either some first ones are there (a file system with an ordered journal) or any of them.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.recording import Kind

SECTOR_BYTES = 512
_NUMBER = re.compile(r"[0-9a-f]{16}")
Event = Sequence[Any]


@dataclass(slots=True, eq=False)
class File:
    """A file, apart from its names. `changes` are (event number, event); `synced` counts events.

    Changes that are durable are folded into `content`, sooner or later.
    """

    content: bytearray = field(default_factory=bytearray)
    changes: list[tuple[int, Event]] = field(default_factory=list)
    synced: int = -1

    def fold(self) -> None:
        """Carry out the changes that can't be lost any more."""
        count = 0
        for number, event in self.changes:
            if number >= self.synced:
                break
            _change(self.content, event)
            count += 1
        del self.changes[:count]


@dataclass(slots=True, eq=False)
class Folder:
    """A folder, apart from its name. Changes of names in it before `synced` are durable."""

    synced: int = -1


@dataclass(slots=True, eq=False)
class NameChange:
    """`thing` gets the name `new`, or loses the name `old`, or both (a rename).

    What had that name before has none then: that is one change, as rename(2) promises.
    """

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

    def within(self, root: str) -> list[tuple[str, File | Folder]]:
        """Return what can be reached from a folder, itself first, folders before what they hold."""
        found: list[tuple[str, File | Folder]] = [(root, self.things[root])]
        folders = {root}
        for name in sorted(self.things):
            if os.path.dirname(name) in folders:
                found.append((name, self.things[name]))
                if isinstance(self.things[name], Folder):
                    folders.add(name)
        return found


class Disk:
    """The disk as a journal saw it. Nothing below `root` but `base` was there at the beginning."""

    def __init__(
        self, events: Sequence[Event], root: Path | str, base: dict[str, bytes] | None = None
    ) -> None:
        self.events = events
        self.root = os.path.abspath(root)
        self._base = base or {}
        self._play = _Play(self.root, self._base)

    def cuts(self, count: int, seed: int) -> list[int]:
        """Return `count` moments (numbers of events that happened), ascending, with repetition."""
        chance = random.Random(seed)
        return sorted(chance.randint(0, len(self.events)) for _ in range(count))

    def rare_cuts(self, count: int, seed: int) -> list[int]:
        """Return `count` moments right after events, ascending; each sort of event alike often.

        A sort is a kind of event on a kind of file: a rename of a segment comes as often as one of
        the thousands of writes of records.
        """
        names: dict[int, str] = {}
        sorts: dict[tuple[int, str], list[int]] = {}
        for number, event in enumerate(self.events):
            subject = event[1]
            if event[0] == Kind.OPEN:
                names[subject] = subject = event[2]
            name = os.path.basename(names.get(subject, str(subject)))
            sorts.setdefault((event[0], _NUMBER.sub("#", name)), []).append(number + 1)
        chance = random.Random(seed)
        kinds = sorted(sorts)
        return sorted(chance.choice(sorts[chance.choice(kinds)]) for _ in range(count))

    def acknowledged(self, cut: int) -> list[tuple[str, Any]]:
        """Return the marks made before the power went, as (label, value)."""
        return [(e[1], e[2]) for e in self.events[:cut] if e[0] == Kind.ACK]

    def write_image(self, cut: int, seed: int, target: Path) -> None:
        """Write what the disk may hold after a power loss, one of many ways by `seed`.

        Quick for cuts that ascend: the events before are played once.
        """
        if cut < self._play.taken:
            self._play = _Play(self.root, self._base)
        play = self._play
        for number in range(play.taken, cut):
            play.take(number, self.events[number])
        chance = random.Random(f"{cut}/{seed}")
        names = Names(play.first)
        for change in _surviving_names(play.changes, chance):
            names.apply(change)
        keep = chance.choice((0.0, 0.5, 1.0, chance.random()))
        tear = chance.choice((0.0, 0.3))
        for name, thing in names.within(self.root):
            path = target / os.path.relpath(name, self.root)
            if isinstance(thing, Folder):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.write_bytes(_surviving_content(thing, cut, keep, tear, chance))


class _Play:
    """Plays events and remembers which change is durable."""

    def __init__(self, root: str, base: dict[str, bytes]) -> None:
        self.first: dict[str, File | Folder] = {root: Folder()}
        for name, content in base.items():
            for folder in Path(name).parents:
                self.first.setdefault(os.path.normpath(os.path.join(root, folder)), Folder())
            self.first[os.path.join(root, name)] = File(bytearray(content))
        self.live = Names(self.first)
        self.changes: list[NameChange] = []
        self._handles: dict[int, File] = {}
        self._begun: dict[int, int] = {}
        self.taken = 0

    def take(self, number: int, event: Event) -> None:
        self.taken = number + 1
        kind = event[0]
        if kind in (Kind.WRITE, Kind.TRUNCATE):
            self._handles[event[1]].changes.append((number, event))
        elif kind in (Kind.SYNC_BEGIN, Kind.FOLDER_BEGIN):
            self._begun[event[2]] = number
        elif kind == Kind.SYNC_END:
            file = self._handles[event[1]]
            file.synced = max(file.synced, self._begun[event[2]])
            file.fold()
        elif kind == Kind.FOLDER_END:
            folder = self._folder(event[1])
            folder.synced = max(folder.synced, self._begun[event[2]])
        elif kind == Kind.OPEN:
            self._open(number, *event[1:])
        elif kind == Kind.MAKE_DIRECTORY:
            self._rename(number, Folder(), new=event[1])
        elif kind == Kind.RENAME and event[1] in self.live.things:
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
            if path != os.path.dirname(path):
                self._folder(os.path.dirname(path))
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
        torn = not durable and (last or chance.random() < tear)
        if torn and event[0] == Kind.WRITE:
            _write_sectors(content, event[2], event[3], chance)
        else:
            _change(content, event)
    return bytes(content)


def _change(content: bytearray, event: Event) -> None:
    """Carry out a write or a truncation, all of it."""
    if event[0] == Kind.TRUNCATE:
        size = event[2]
        del content[size:]
        content += bytes(size - len(content))
        return
    _, _, offset, data = event
    content += bytes(max(0, offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


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
