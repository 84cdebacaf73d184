"""Writers that record what was acknowledged, and the check of what a member kept of it.

Every write is a transaction of two puts: a key of its own with a value of its own, and the counter
of its writer. It was applied once if its key has version 1 and the counter's version is the number
of the writer's keys: a transaction applied twice, or a lost one, shows up in either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from etcdpb import rpc_pb2 as pb
from tests.client import Client, paged
from tests.differential.workload import prefix_end

CALL_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.01  # of a writer without a server


class LostWriteError(AssertionError):
    """What the member kept is not what it acknowledged."""


@dataclass
class Record:
    """What a writer saw: revisions of acknowledged writes, writes of unknown fate, errors."""

    acknowledged: dict[bytes, int] = field(default_factory=dict)
    unknown: set[bytes] = field(default_factory=set)
    errors: dict[str, int] = field(default_factory=dict)
    acknowledged_at: list[float] = field(default_factory=list)  # time.monotonic()


class Writers:
    """Threads that write under `prefix`, each through a connection of its own."""

    def __init__(self, endpoint: str, prefix: bytes, count: int) -> None:
        self.prefix = prefix
        self.records = [Record() for _ in range(count)]
        self.kept_unknown = 0  # writes of unknown fate that were found at the end
        self._endpoint = endpoint
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(number,), name=f"writer-{number}")
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the writers and wait for their last answers."""
        self._ending.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 5)
            assert not thread.is_alive(), f"{thread.name} hangs"

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(len(record.acknowledged_at) for record in self.records)

    @property
    def errors(self) -> dict[str, int]:
        """Errors of all writers, by code and text."""
        total: dict[str, int] = {}
        for record in self.records:
            for error, count in list(record.errors.items()):
                total[error] = total.get(error, 0) + count
        return total

    def wait_for(self, more: int, timeout: float = 30.0) -> float:
        """Wait until `more` further writes are acknowledged; return the seconds it took."""
        begun, goal = time.monotonic(), self.acknowledged + more
        while self.acknowledged < goal:
            if time.monotonic() - begun > timeout:
                raise LostWriteError(f"not {more} writes in {timeout} s; errors: {self.errors}")
            time.sleep(0.001)
        return time.monotonic() - begun

    def first_after(self, moment: float) -> float:
        """Return the seconds from a moment to the next acknowledged write after it."""
        later = [
            at - moment for record in self.records for at in record.acknowledged_at if at > moment
        ]
        return min(later)

    def longest_gap_after(self, moment: float) -> float:
        """Return the longest time without any acknowledged write from a moment on."""
        times = sorted(
            at for record in self.records for at in record.acknowledged_at if at > moment
        )
        return max(b - a for a, b in zip([moment, *times], times, strict=False))

    def _write(self, number: int) -> None:
        record, sequence = self.records[number], 0
        with Client(self._endpoint) as client:
            while not self._ending.is_set():
                sequence += 1
                key = b"%s%d/%08d" % (self.prefix, number, sequence)
                answer = client.answer(write(self.prefix, number, key), CALL_SECONDS)
                if isinstance(answer.message, pb.TxnResponse):
                    record.acknowledged[key] = answer.message.header.revision
                    record.acknowledged_at.append(time.monotonic())
                else:
                    record.unknown.add(key)
                    error = f"{answer.code} {answer.text[:60]}"
                    record.errors[error] = record.errors.get(error, 0) + 1
                    self._ending.wait(PAUSE_SECONDS)


def write(prefix: bytes, writer: int, key: bytes) -> pb.TxnRequest:
    """Build a writer's transaction: its key and its counter, in one revision."""
    return pb.TxnRequest(
        success=[
            pb.RequestOp(request_put=pb.PutRequest(key=key, value=b"value of " + key)),
            pb.RequestOp(
                request_put=pb.PutRequest(key=counter(prefix, writer), value=key),
            ),
        ]
    )


def counter(prefix: bytes, writer: int) -> bytes:
    """Return the key a writer puts in each of its transactions."""
    return b"counter/%s%d" % (prefix, writer)


def verify(client: Client, prefix: bytes, records: Iterable[Record], first: int) -> int:
    """Check all that the member kept under a prefix. Returns its revision.

    `first` is the first revision the writers can have made; every revision from there on must be
    theirs. Raises LostWriteError.
    """
    records = list(records)
    kept = list(paged(client, prefix, prefix_end(prefix)))
    revision = client.range(pb.RangeRequest(key=prefix)).header.revision
    found = {kv.key: kv for kv in kept}
    asked: set[bytes] = set()
    for number, record in enumerate(records):
        asked |= record.acknowledged.keys() | record.unknown
        _check_acknowledged(record, found)
        own = sum(kv.key.startswith(b"%s%d/" % (prefix, number)) for kv in kept)
        _check_counter(client, counter(prefix, number), own)
    for kv in kept:
        if kv.key not in asked:
            raise LostWriteError(f"{kv.key!r} was never written")
        if kv.version != 1 or kv.create_revision != kv.mod_revision:
            raise LostWriteError(f"{kv.key!r} was applied {kv.version} times: {kv}")
    revisions = sorted(kv.mod_revision for kv in kept)
    if revisions != list(range(first, revision + 1)):
        missing = set(range(first, revision + 1)) ^ set(revisions)
        raise LostWriteError(
            f"revisions {first}..{revision} have holes or twins: {sorted(missing)[:20]}"
        )
    return revision


def _check_acknowledged(record: Record, found: dict[bytes, Any]) -> None:
    for key, revision in record.acknowledged.items():
        kv = found.get(key)
        if kv is None:
            raise LostWriteError(f"{key!r} was acknowledged at revision {revision} and is gone")
        if kv.mod_revision != revision or kv.value != b"value of " + key:
            raise LostWriteError(f"{key!r} was acknowledged at revision {revision}, kept: {kv}")


def _check_counter(client: Client, key: bytes, writes: int) -> None:
    response = client.range(pb.RangeRequest(key=key))
    version = response.kvs[0].version if response.kvs else 0
    if version != writes:
        raise LostWriteError(f"{key!r} was put {version} times in {writes} transactions")


def rounds(
    endpoint: str,
    count: int,
    writers: int,
    strike: Callable[[int, Writers], None],
) -> list[Writers]:
    """Repeat: write, strike (which leaves a serving member), stop, verify; all again at the end."""
    done: list[Writers] = []
    with Client(endpoint) as client:
        first = client.range(pb.RangeRequest(key=b"x")).header.revision + 1
    for number in range(count):
        load = Writers(endpoint, b"round/%04d/" % number, writers)
        try:
            load.wait_for(writers)
            strike(number, load)
            load.wait_for(writers)
        finally:
            load.stop()
        with Client(endpoint) as client:
            first = verify(client, load.prefix, load.records, first) + 1
        done.append(load)
    with Client(endpoint) as client:
        for load in done:
            load.kept_unknown = _verify_kept(client, load)
    return done


def _verify_kept(client: Client, load: Writers) -> int:
    """Check at the end that a round long past is still whole; count its unknown writes kept."""
    found = {kv.key: kv for kv in paged(client, load.prefix, prefix_end(load.prefix))}
    for record in load.records:
        _check_acknowledged(record, found)
    return len(found.keys() & set().union(*(record.unknown for record in load.records)))
