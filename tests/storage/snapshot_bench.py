"""A member's database on a bench, and what is done to snapshot files of it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

from etcdpb.rpc_pb2 import PutRequest, RangeRequest, RangeResponse
from kv.batch import Op, encode_batch
from kv.machine import Machine
from raft.state import ConfState
from storage.database import open_or_create
from storage.files import Files, OsFiles
from storage.reader import Reader
from storage.snapshot import Announced, SnapshotFile, make
from storage.store import SqliteStore

T = TypeVar("T")
TERM = 3
CONF = ConfState(voters=(1, 2, 3))


class Database:
    """The writer of one database directory: every entry is a put."""

    def __init__(self, directory: Path, conf_state: ConfState = CONF) -> None:
        self.directory = directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        self.store = SqliteStore(open_or_create(directory))
        self.machine = Machine(self.store)
        if not self.machine.applied_index:
            self.store.begin()
            self.machine.apply_conf_change(1, TERM, conf_state, None)
            self.machine.flush()
            self.store.commit()

    @property
    def index(self) -> int:
        """The applied index."""
        return self.machine.applied_index

    def put(self, count: int = 1, size: int = 100, key: str = "") -> None:
        """Apply entries of one put each, in one transaction."""
        self.store.begin()
        for index in range(self.index + 1, self.index + count + 1):
            name = (key or f"k{index % 500}").encode()
            value = (b"%d." % index) * (size // 4)
            request = PutRequest(key=name, value=value).SerializeToString()
            batch = encode_batch(0, 0, 0, bytes([Op.PUT]), [request])
            self.machine.apply(index, TERM, batch)
        self.machine.flush()
        self.store.commit()

    def close(self) -> None:
        self.store.close()


def finish(job: Generator[None, None, T]) -> T:
    """Run a job to its end."""
    while True:
        try:
            next(job)
        except StopIteration as stop:
            result: T = stop.value
            return result


def made(database: Database, files: Files | None = None) -> SnapshotFile:
    return finish(make(database.directory, files or OsFiles()))


def announced(facts: SnapshotFile) -> Announced:
    return Announced(facts.index, facts.term, facts.size, facts.checksum)


def value(reader: Reader, key: bytes) -> bytes | None:
    with reader.view() as view:
        response = RangeResponse.FromString(view.range(RangeRequest(key=key)))
    return response.kvs[0].value if response.kvs else None
