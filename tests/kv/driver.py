"""Drives a state machine over any store: entries in, answers out, as text or as messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

from etcdpb.rpc_pb2 import RangeRequest, RangeResponse, TxnRequest
from kv.batch import Op, encode_batch
from kv.errors import EtcdError
from kv.machine import Applied, Machine
from kv.memory import MemoryStore
from kv.range import range_response
from kv.store import Result
from kv.txn import read_txn
from storage.compaction import prune_slice
from storage.database import open_or_create
from storage.reader import Reader
from storage.scan import Scan
from storage.store import SqliteStore
from storage.txn_scan import TxnScan

OPS = {
    "PutRequest": Op.PUT,
    "DeleteRangeRequest": Op.DELETE_RANGE,
    "TxnRequest": Op.TXN,
    "CompactionRequest": Op.COMPACT,
    "AlarmRequest": Op.ALARM,
    "LeaseGrantRequest": Op.LEASE_GRANT,
    "LeaseRevokeRequest": Op.LEASE_REVOKE,
}


class MemoryDriver:
    """A machine over the memory store."""

    def __init__(self) -> None:
        self.store: Any = MemoryStore()
        self.machine = Machine(self.store)
        self.term = 1

    def entries(self, *datas: bytes, commit: bool = True) -> list[Applied]:
        """Apply entries in one transaction."""
        self.store.begin()
        first = self.machine.applied_index + 1
        applied = [
            self.machine.apply(index, self.term, data) for index, data in enumerate(datas, first)
        ]
        self.machine.flush()
        if commit:
            self.store.commit()
        else:
            self.store.rollback()
            self.machine.reload()
        return applied

    def propose(self, *requests: Any) -> list[Result]:
        """Apply requests without a session, one entry and one transaction for all."""
        ops = bytes(OPS[type(request).__name__] for request in requests)
        datas = [request.SerializeToString() for request in requests]
        (applied,) = self.entries(encode_batch(0, 0, 0, ops, datas))
        return [result for result in applied.results if result is not None]

    def open_session(self, session: int, member_id: int = 1, slot: int = 0) -> Result | None:
        """Open a session."""
        data = msgpack.packb((member_id, slot))
        (applied,) = self.entries(encode_batch(session, 0, 0, bytes([Op.OPEN_SESSION]), [data]))
        return applied.results[0]

    def range(self, request: RangeRequest) -> RangeResponse:
        """Answer a range from what is committed. Raises EtcdError."""
        return range_response(
            self.store, request, self.machine.revision, self.machine.compact_revision
        )

    def read_txn(self, request: TxnRequest) -> bytes:
        """Answer a read-only txn from what is committed. Raises EtcdError."""
        return read_txn(
            self.store, request, self.machine.revision, self.machine.compact_revision
        ).SerializeToString()

    def prune(self) -> None:
        """Remove what compaction made needless."""
        self.store.prune()

    def restart(self) -> None:
        """Forget everything that is not in the store."""
        self.machine = Machine(self.store)

    def close(self) -> None:
        """Let go of files."""


class SqliteDriver(MemoryDriver):
    """A machine over the database. Every range is asked of a view and of a scan as well."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.term = 1
        self._open()

    def _open(self) -> None:
        self.store = SqliteStore(open_or_create(self.directory))
        self.machine = Machine(self.store)
        self.reader = Reader(self.directory)

    def range(self, request: RangeRequest) -> RangeResponse:
        """Answer a range; all three ways must agree."""
        try:
            expected = super().range(request)
        except EtcdError as error:
            for way in (self.range_of_view, self.range_of_scan):
                with pytest.raises(EtcdError, match=error.status.text):
                    way(request)
            raise
        assert self.range_of_view(request) == expected
        assert self.range_of_scan(request) == expected
        return expected

    def range_of_view(self, request: RangeRequest) -> RangeResponse:
        """Answer a range from a view."""
        with self.reader.view() as view:
            assert view.applied_index == self.machine.applied_index
            assert view.revision == self.machine.revision
            return RangeResponse.FromString(view.range(request))

    def range_of_scan(self, request: RangeRequest) -> RangeResponse:
        """Answer a range by a scan."""
        scan = self.reader.scan(request, self.machine.applied_index)
        body = finish(scan)
        assert scan.revision == self.machine.revision
        return RangeResponse.FromString(body)

    def read_txn(self, request: TxnRequest) -> bytes:
        """Answer a read-only txn; a view and a scan must agree to the byte."""
        with self.reader.view() as view:
            try:
                expected = view.txn(request)
            except EtcdError as error:
                with pytest.raises(EtcdError, match=error.status.text):
                    self.txn_of_scan(request)
                raise
        assert self.txn_of_scan(request) == expected
        return expected

    def txn_of_scan(self, request: TxnRequest) -> bytes:
        """Answer a read-only txn by a scan."""
        scan = self.reader.scan_txn(request, self.machine.applied_index)
        body = finish(scan)
        assert scan.revision == self.machine.revision
        return body

    def prune(self) -> None:
        """Prune in small slices."""
        while not prune_slice(self.store, 3).finished:
            pass

    def restart(self) -> None:
        """Close everything and open it again."""
        self.close()
        self._open()

    def close(self) -> None:
        """Let go of files."""
        self.reader.close()
        self.store.close()


def finish(scan: Scan | TxnScan) -> bytes:
    """Step a scan to its end and return the response's bytes."""
    try:
        while not scan.step():
            pass
    finally:
        scan.close()
    return b"".join(scan.body())


def driver_over(kind: str, folder: Path) -> MemoryDriver:
    """Return a new driver over "memory" or "sqlite"."""
    return MemoryDriver() if kind == "memory" else SqliteDriver(folder / "db")


KINDS: Sequence[str] = ("memory", "sqlite")
