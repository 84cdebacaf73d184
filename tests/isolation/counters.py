"""Clients that count by read-modify-write transactions: together they prove exactly-once.

All share one key. Each reads it and writes one more if nobody wrote in between; who was told that
it succeeded has counted. A transaction that was applied twice, or whose answer was that of a
second copy, makes the key and the sum of those who succeeded differ.
"""

from __future__ import annotations

import threading
from typing import Final

from etcdpb import kv_pb2
from etcdpb import rpc_pb2 as pb
from tests.client import Client

KEY: Final = b"counters/shared"
CALL_SECONDS: Final = 15.0
REST_SECONDS: Final = 0.004


class Counters:
    """So many clients on connections of their own, without retries. A context manager."""

    def __init__(self, endpoint: str, clients: int) -> None:
        self._endpoint = endpoint
        self._ending = threading.Event()
        self._counted = [0] * clients
        self.errors: set[str] = set()
        self._threads = [
            threading.Thread(target=self._count, args=(number,), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Counters:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 5)

    @property
    def counted(self) -> int:
        """How many transactions were said to have succeeded."""
        return sum(self._counted)

    def stored(self) -> int:
        """Return what the key says."""
        with Client(self._endpoint) as client:
            return int(client.get(KEY) or b"0")

    def _count(self, number: int) -> None:
        with Client(self._endpoint) as client:
            while not self._ending.is_set():
                read = client.answer(pb.RangeRequest(key=KEY), CALL_SECONDS)
                if not isinstance(read.message, pb.RangeResponse):
                    self.errors.add(read.code)
                    self._ending.wait(REST_SECONDS)
                    continue
                pair = read.message.kvs[0] if read.message.kvs else kv_pb2.KeyValue(value=b"0")
                answer = client.answer(one_more(pair), CALL_SECONDS)
                if isinstance(answer.message, pb.TxnResponse):
                    self._counted[number] += answer.message.succeeded
                else:
                    self.errors.add(answer.code)
                self._ending.wait(REST_SECONDS)


def one_more(pair: kv_pb2.KeyValue) -> pb.TxnRequest:
    """Return the transaction that counts one on, if the key is still as it was read."""
    same = pb.Compare(
        key=KEY,
        target=pb.Compare.MOD,
        result=pb.Compare.EQUAL,
        mod_revision=pair.mod_revision,
    )
    put = pb.PutRequest(key=KEY, value=b"%d" % (int(pair.value) + 1))
    return pb.TxnRequest(compare=[same], success=[pb.RequestOp(request_put=put)])
