"""What happened, read from the store revision by revision, and what a watcher must be told of it.

The history comes from Range alone: the state at each revision, and the difference to the one
before. So nothing of the watch path is used to check it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from etcdpb import rpc_pb2 as pb
from tests.client import Answer, CallError, Client

PREFIX: Final = b"h/"
PREFIX_END: Final = b"h0"
AT_ONCE: Final = 64
NOPUT = pb.WatchCreateRequest.NOPUT
NODELETE = pb.WatchCreateRequest.NODELETE


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """A key and its value as of a revision."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int

    @classmethod
    def of(cls, kv: Any) -> Pair:
        return cls(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version)


@dataclass(frozen=True, slots=True)
class Happened:
    """One event. A delete's `pair` has its key and revision only; `before` is what it replaced."""

    revision: int
    deleted: bool
    pair: Pair
    before: Pair | None


def read(client: Client, first: int, last: int) -> list[Happened]:
    """Return all events under PREFIX from revision `first` to `last`, by key in a revision."""
    found: list[Happened] = []
    before: dict[bytes, Pair] = {}
    for begin in range(first - 1, last + 1, AT_ONCE):
        batch = range(begin, min(begin + AT_ONCE, last + 1))
        waiting = [client.begin(_all_at(revision), timeout=60) for revision in batch]
        for revision, answer in zip(batch, waiting, strict=True):
            now = _state(answer())
            if revision >= first:
                found += _difference(before, now, revision)
            before = now
    return found


def _all_at(revision: int) -> pb.RangeRequest:
    return pb.RangeRequest(key=PREFIX, range_end=PREFIX_END, revision=revision)


def _state(answer: Answer) -> dict[bytes, Pair]:
    message: Any = answer.message
    if message is None:
        raise CallError(answer)
    return {kv.key: Pair.of(kv) for kv in message.kvs}


def _difference(
    before: dict[bytes, Pair], now: dict[bytes, Pair], revision: int
) -> Iterable[Happened]:
    found = [
        Happened(revision, False, pair, before.get(pair.key))
        for pair in now.values()
        if pair.mod_revision == revision
    ]
    found += [
        Happened(revision, True, Pair(key, b"", 0, revision, 0), pair)
        for key, pair in before.items()
        if key not in now
    ]
    return sorted(found, key=lambda event: event.pair.key)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a watcher asks for."""

    key: bytes
    range_end: bytes
    prev_kv: bool
    filters: tuple[pb.WatchCreateRequest.FilterType, ...]
    fragment: bool
    progress_notify: bool

    def of(self, history: list[Happened], after: int) -> list[Happened]:
        """Return the events it must be told after a revision, in order."""
        return [
            event
            for event in history
            if event.revision > after and self._covers(event.pair.key) and self._passes(event)
        ]

    def _covers(self, key: bytes) -> bool:
        if not self.range_end:
            return key == self.key
        return key >= self.key and (self.range_end == b"\0" or key < self.range_end)

    def _passes(self, event: Happened) -> bool:
        return (NODELETE if event.deleted else NOPUT) not in self.filters

    def create(self, watch_id: int, start_revision: int) -> pb.WatchRequest:
        """Return the request for it."""
        return pb.WatchRequest(
            create_request=pb.WatchCreateRequest(
                key=self.key,
                range_end=self.range_end,
                prev_kv=self.prev_kv,
                filters=self.filters,
                fragment=self.fragment,
                progress_notify=self.progress_notify,
                watch_id=watch_id,
                start_revision=start_revision,
            )
        )
