"""A read-only txn in slices: its compares and ranges may go over any number of keys."""

from __future__ import annotations

from collections.abc import Iterator

from etcdpb.rpc_pb2 import Compare, RangeResponse, ResponseHeader, TxnRequest, TxnResponse
from kv.range import range_bounds
from kv.txn import chosen_ranges, holds, holds_for_none
from raft.varint import varint
from storage.scan import RangePieces, ScanPool, SlicedRead


class TxnScan(SlicedRead):
    """Does what kv.txn.read_txn does, a millisecond at a time, all of it at one revision."""

    def __init__(self, pool: ScanPool, request: TxnRequest, floor: int) -> None:
        super().__init__(pool, floor)
        self._request = request
        self._succeeded = True
        self._answers: list[RangePieces] = []
        self._done = False

    def asked_revision(self) -> int:
        """See SlicedRead."""
        return 0

    def work(self) -> Iterator[None]:
        """See SlicedRead."""
        self._succeeded = True
        self._answers = []
        for compare in self._request.compare:
            yield from self._compare(compare)
            if not self._succeeded:
                break
        for asked in chosen_ranges(
            self._request, self._succeeded, self.revision, self.compact_revision
        ):
            self.read_at(asked.revision)
            answer = RangePieces(self, asked)
            self._answers.append(answer)
            yield from answer.work()
        self._done = True

    def _compare(self, compare: Compare) -> Iterator[None]:
        key = compare.key
        end = range_bounds(compare.range_end) if compare.range_end else key + b"\0"
        found = False
        for kv in self.kvs(key, end, values=compare.target == Compare.VALUE):
            if kv is not None:
                found = True
                if not holds(compare, kv):
                    self._succeeded = False
                    return
            yield
        if not found:
            self._succeeded = holds_for_none(compare)

    def body(self) -> list[bytes]:
        """Return the pieces of the whole TxnResponse, without header, once the scan is done."""
        assert self._done, "the scan is not done"
        body = [TxnResponse(succeeded=self._succeeded).SerializeToString()]
        head = RangeResponse(header=ResponseHeader(revision=self.revision)).SerializeToString()
        for answer in self._answers:
            response_range = [head, *answer.pieces, answer.tail()]
            size = sum(map(len, response_range))
            body += _response_op(size), *response_range
        return body


def _response_op(size: int) -> bytes:
    """Return what comes before a RangeResponse in TxnResponse.responses (fields 3 and 1)."""
    response_range = b"\x0a" + varint(size)
    return b"\x1a" + varint(len(response_range) + size) + response_range
