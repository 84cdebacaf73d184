"""Which record holds which entry: two columns of integers, 16 bytes a record."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

_OFFSET_BITS = 32  # a segment has at most twice SEGMENT_BYTES; the number has the other 32


class Place(NamedTuple):
    """A batch of the log: the entries [first, stop) of it are valid, the rest was overwritten."""

    segment: int
    offset: int
    first: int
    stop: int


def to_word(segment: int, offset: int) -> int:
    """Return a place in the log as one word; they ascend along the log."""
    return segment << _OFFSET_BITS | offset


def from_word(word: int) -> tuple[int, int]:
    """Return the number of a segment and an offset in it, from to_word()."""
    return word >> _OFFSET_BITS, word & (1 << _OFFSET_BITS) - 1


class LogIndex:
    """The index of the log's entries.

    Invariants:
    - `_firsts` ascends strictly; batch i holds the entries from _firsts[i] to _firsts[i+1] - 1,
      and the last one those up to `last`.
    - `_places` ascends strictly, as records are only ever appended.
    - Entries below `first` can't be found; first <= last + 1.
    """

    def __init__(self, next_index: int) -> None:
        self.last = next_index - 1
        self._firsts = array("Q")
        self._places = array("Q")

    @property
    def first(self) -> int:
        """The lowest index that can be found; last + 1 if there is none."""
        return self._firsts[0] if self._firsts else self.last + 1

    def note(self, segment: int, offset: int, first: int, count: int) -> None:
        """Note a batch as written; entries it overlaps and those after them are void."""
        firsts = self._firsts
        assert first <= self.last + 1, f"entry {first} after entry {self.last}"
        if firsts and first <= firsts[-1]:
            cut = bisect_left(firsts, first)
            del firsts[cut:]
            del self._places[cut:]
        firsts.append(first)
        self._places.append(to_word(segment, offset))
        self.last = first + count - 1

    def restart(self, snapshot_index: int) -> None:
        """Forget all entries: a snapshot replaced them and the log goes on after it."""
        del self._firsts[:]
        del self._places[:]
        self.last = snapshot_index

    def find(self, index: int) -> Place:
        """Return the batch that holds an entry, first <= index <= last."""
        assert self.first <= index <= self.last, f"no entry {index}"
        at = bisect_right(self._firsts, index) - 1
        stop = self._firsts[at + 1] if at + 1 < len(self._firsts) else self.last + 1
        place = self._places[at]
        offset = place & (1 << _OFFSET_BITS) - 1
        return Place(place >> _OFFSET_BITS, offset, self._firsts[at], stop)

    def word(self, index: int) -> int:
        """Return the place of an entry's batch as one word; 0 if none has it."""
        if not self.first <= index <= self.last:
            return 0
        place = self.find(index)
        return to_word(place.segment, place.offset)

    def forget(self, segment: int) -> None:
        """Forget the segments below `segment`."""
        cut = bisect_left(self._places, segment << _OFFSET_BITS)
        del self._firsts[:cut]
        del self._places[:cut]
