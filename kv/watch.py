"""Watchers and events without I/O: who watches which keys, and the bytes of what they are told.

Facts of etcd's watch (server/storage/mvcc) that clients can see and that are kept here:
1. An event of a put carries the whole key-value pair, one of a delete only key and revision.
2. An event's previous pair is the key's value one revision before; none if the key did not exist
   then, or if that revision is compacted.
3. A filtered event is as if it had not happened, but a revision is never torn.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from etcdpb.kv_pb2 import KeyValue
from kv.store import SUB_BITS, HistoryRow
from raft.varint import varint

PREV_KV: Final = 1
NO_PUT: Final = 2
NO_DELETE: Final = 4

EMPTY_RANGE: Final = "mvcc: watcher range is empty"
DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"

_EVENTS_TAG: Final = b"\x5a"  # WatchResponse.events
_KV_TAG: Final = b"\x12"  # Event.kv
_PREV_TAG: Final = b"\x1a"  # Event.prev_kv
_DELETE: Final = b"\x08\x01"  # Event.type = DELETE


class EmptyRangeError(Exception):
    """A range that ends before it begins; the text is etcd's cancel reason."""


def watched_range(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    r"""Return the interval [begin, end) that a create request names; end None is unbounded.

    No key is the smallest one, no range end is the key alone, b"\0" every key from there on.
    Raises EmptyRangeError.
    """
    begin = key or b"\0"
    if not range_end:
        return begin, begin + b"\0"
    if range_end == b"\0":
        return begin, None
    if begin >= range_end:
        raise EmptyRangeError(EMPTY_RANGE)
    return begin, range_end


class Event:
    """One change of one key; its encodings are made once, for all who watch it.

    `previous` is the row id of the key's row before this one, 0 for none.
    """

    __slots__ = ("_kv", "_plain", "_previous_kv", "is_delete", "previous", "revision")

    def __init__(self, row: HistoryRow) -> None:
        identity, key, self.previous, create_revision, version, lease, value = row
        revision = self.revision = identity >> SUB_BITS
        self.is_delete = version == 0
        if version:
            kv = KeyValue(
                key=key,
                create_revision=create_revision,
                mod_revision=revision,
                version=version,
                value=value,
                lease=lease,
            )
        else:
            kv = KeyValue(key=key, mod_revision=revision)
        body = kv.SerializeToString()
        self._kv = (_DELETE if self.is_delete else b"") + _KV_TAG + varint(len(body)) + body
        self._plain = _EVENTS_TAG + varint(len(self._kv)) + self._kv
        self._previous_kv = b""

    def follows(self, key: bytes, row: HistoryRow) -> None:
        """Give the previous row, for those who ask for it; a tombstone is none."""
        _, _, _, create_revision, version, lease, value = row
        if version:
            self._previous_kv = KeyValue(
                key=key,
                create_revision=create_revision,
                mod_revision=row[0] >> SUB_BITS,
                version=version,
                value=value,
                lease=lease,
            ).SerializeToString()

    def encoded(self, options: int) -> bytes:
        """Return the event as a field of WatchResponse; empty when the options filter it out."""
        if options & (NO_DELETE if self.is_delete else NO_PUT):
            return b""
        if options & PREV_KV and self._previous_kv:
            previous = self._previous_kv
            body = self._kv + _PREV_TAG + varint(len(previous)) + previous
            return _EVENTS_TAG + varint(len(body)) + body
        return self._plain


class Sink(Protocol):
    """Where a watcher's events go: one client's stream, or something inside the gateway."""

    def take(self, watcher: Watcher, revision: int, events: list[bytes], size: int) -> bool:
        """Take whole revisions of encoded events (`size` bytes); all up to `revision` is in.

        False, and nothing taken, when the client has too much to read: resumed later.
        """

    def flush(self) -> None:
        """Know that this round of events is over."""

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """Know that what the watcher wants next is compacted: it is cancelled. Never refused."""


class Watcher:
    """One watcher: the keys [key, end) from `next` on. `start` is what was asked for, 0 is now."""

    __slots__ = (
        "end",
        "fragment",
        "id",
        "index",
        "key",
        "next",
        "options",
        "progress",
        "sink",
        "start",
        "wants_progress",
    )

    def __init__(
        self,
        sink: Sink,
        identity: int,
        interval: tuple[bytes, bytes | None],
        *,
        start: int = 0,
        options: int = 0,
        fragment: bool = False,
        wants_progress: bool = False,
    ) -> None:
        self.sink = sink
        self.id = identity
        self.key, self.end = interval
        self.start = start
        self.options = options
        self.fragment = fragment
        self.wants_progress = wants_progress
        self.progress = wants_progress  # due unless events come before
        self.next = start
        self.index: WatcherIndex | None = None


class Group:
    """The watchers of one interval, by their options; what one takes all of equal options take."""

    __slots__ = ("begin", "end", "events", "members")

    def __init__(self, begin: bytes, end: bytes | None) -> None:
        self.begin = begin
        self.end = end
        self.members: dict[int, dict[Watcher, None]] = {}
        self.events: list[Event] = []  # collected by the pass under way

    def size(self) -> int:
        """Return how many watchers there are."""
        return sum(map(len, self.members.values()))

    def wants_previous(self) -> bool:
        """Whether anybody here asks for previous pairs."""
        return any(options & PREV_KV for options in self.members)


class WatcherIndex:
    """Finds the groups that watch a key: by name, by half-open interval, from a key on.

    Intervals stand in a static tree, sorted by their beginnings, each node knowing the highest end
    below it; new ones wait in a short list until a rebuild pays.
    """

    __slots__ = ("_dead", "_highest", "_open", "_ranges", "_recent", "_singles", "_size", "_tree")

    def __init__(self) -> None:
        self._singles: dict[bytes, Group] = {}
        self._open: list[Group] = []  # unbounded, by beginning
        self._ranges: dict[tuple[bytes, bytes], Group] = {}
        self._tree: list[Group] = []
        self._highest: list[bytes] = []
        self._recent: list[Group] = []
        self._dead = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Watcher]:
        for groups in (self._singles.values(), self._open, self._ranges.values()):
            for group in groups:
                for members in group.members.values():
                    yield from members

    def add(self, watcher: Watcher) -> None:
        """Put a watcher in."""
        assert watcher.index is None, "a watcher is in one index only"
        watcher.index = self
        self._size += 1
        group = self._find(watcher.key, watcher.end) or self._new(watcher.key, watcher.end)
        group.members.setdefault(watcher.options, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """Take a watcher out."""
        assert watcher.index is self, "the watcher is not in this index"
        watcher.index = None
        self._size -= 1
        group = self._find(watcher.key, watcher.end)
        assert group is not None, "the watcher's group is gone"
        members = group.members[watcher.options]
        del members[watcher]
        if not members:
            del group.members[watcher.options]
            if not group.members:
                self._drop(group)

    def _find(self, key: bytes, end: bytes | None) -> Group | None:
        if end is None:
            at = bisect_left(self._open, key, key=_begin)
            found = at < len(self._open) and self._open[at].begin == key
            return self._open[at] if found else None
        if end == key + b"\0":
            return self._singles.get(key)
        return self._ranges.get((key, end))

    def _new(self, key: bytes, end: bytes | None) -> Group:
        group = Group(key, end)
        if end is None:
            insort(self._open, group, key=_begin)
        elif end == key + b"\0":
            self._singles[key] = group
        else:
            self._ranges[key, end] = group
            self._recent.append(group)
            if len(self._recent) ** 2 > 256 + len(self._tree):
                self._rebuild()
        return group

    def _drop(self, group: Group) -> None:
        if group.end is None:
            del self._open[bisect_left(self._open, group.begin, key=_begin)]
        elif group.end == group.begin + b"\0":
            del self._singles[group.begin]
        else:
            del self._ranges[group.begin, group.end]
            self._dead += 1
            if self._dead > 16 + len(self._ranges):
                self._rebuild()

    def _rebuild(self) -> None:
        self._recent = []
        self._dead = 0
        tree = self._tree = sorted(self._ranges.values(), key=_begin)
        highest = self._highest = [b""] * len(tree)

        def fill(low: int, high: int) -> bytes:
            if low == high:
                return b""
            middle = (low + high) // 2
            end = tree[middle].end
            assert end is not None
            top = max(end, fill(low, middle), fill(middle + 1, high))
            highest[middle] = top
            return top

        fill(0, len(tree))

    def candidates(self, rows: list[HistoryRow]) -> list[HistoryRow]:
        """Return the rows whose key may be watched, in order."""
        if self._open or self._ranges:
            return rows
        singles = self._singles
        return [row for row in rows if row[1] in singles]

    def match(self, key: bytes) -> list[Group]:
        """Return the groups that watch a key."""
        single = self._singles.get(key)
        found = [] if single is None else [single]
        if self._open:
            found += self._open[: bisect_right(self._open, key, key=_begin)]
        if self._ranges:
            found += [group for group in self._recent if _holds(group, key)]
            self._stab(key, found)
        return found

    def _stab(self, key: bytes, found: list[Group]) -> None:
        tree, highest = self._tree, self._highest
        stack = [(0, len(tree))]
        while stack:
            low, high = stack.pop()
            if low >= high:
                continue
            middle = (low + high) // 2
            if highest[middle] <= key:
                continue
            stack.append((low, middle))
            group = tree[middle]
            if group.begin <= key:
                if _holds(group, key):
                    found.append(group)
                stack.append((middle + 1, high))


def _begin(group: Group) -> bytes:
    return group.begin


def _holds(group: Group, key: bytes) -> bool:
    """Whether a bounded interval holds a key and anybody is left to watch it."""
    assert group.end is not None
    return group.begin <= key < group.end and bool(group.members)


def encode_all(events: Iterable[Event], options: int) -> list[bytes]:
    """Return what watchers with these options see of events, encoded."""
    pieces = [event.encoded(options) for event in events]
    if options & (NO_PUT | NO_DELETE):
        return [piece for piece in pieces if piece]
    return pieces


def fragments(pieces: list[bytes], overhead: int, limit: int) -> list[list[bytes]]:
    """Cut a response's events so that each part stays below `limit` bytes, or has one event.

    `overhead` is the size of everything else in a response.
    """
    parts: list[list[bytes]] = []
    size = 0
    for piece in pieces:
        if not parts or size + len(piece) >= limit:
            parts.append([])
            size = overhead
        parts[-1].append(piece)
        size += len(piece)
    return parts
