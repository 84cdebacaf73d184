"""CPU time of puts and point reads in the database alone: no sockets, no log, no processes.

    python -m benchmarks.store [--keys 100000]

256-byte values, random keys; a put includes decoding its batch, its result and its session.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import msgpack

from etcdpb.rpc_pb2 import PutRequest, RangeRequest
from kv.batch import Op, encode_batch
from kv.machine import Machine
from storage.database import open_or_create
from storage.reader import Reader
from storage.store import SqliteStore

SESSION = 7
VALUE_BYTES = 256
PUTS = 30_000
GETS = 50_000
IN_FLIGHT = 1000


class Bench:
    """A database with a number of keys."""

    def __init__(self, directory: Path, keys: int) -> None:
        self.store = SqliteStore(open_or_create(directory))
        self.machine = Machine(self.store)
        self.reader = Reader(directory)
        self.keys = [b"%032d" % i for i in range(keys)]
        self.value = os.urandom(VALUE_BYTES)
        self.next_id = 1
        opening = msgpack.packb((1, 0))
        self.apply([encode_batch(SESSION, 0, 0, bytes([Op.OPEN_SESSION]), [opening])])

    def batch(self, keys: list[bytes]) -> bytes:
        """Return an entry that puts keys; what is IN_FLIGHT requests back has been answered."""
        requests = [PutRequest(key=key, value=self.value).SerializeToString() for key in keys]
        first_id = self.next_id
        self.next_id += len(keys)
        mark = max(1, first_id - IN_FLIGHT)
        return encode_batch(SESSION, mark, first_id, bytes([Op.PUT]) * len(keys), requests)

    def apply(self, *transactions: list[bytes]) -> None:
        """Apply entries, a transaction for each list, as the applier does."""
        machine = self.machine
        for entries in transactions:
            self.store.begin()
            for index, data in enumerate(entries, machine.applied_index + 1):
                machine.apply(index, 1, data)
            machine.flush()
            self.store.commit()

    def load(self) -> float:
        """Put every key once, in random order; return microseconds of CPU per put."""
        order = random.sample(self.keys, len(self.keys))
        transactions = [[self.batch(order[i : i + 1000])] for i in range(0, len(order), 1000)]
        return cpu(lambda: self.apply(*transactions), len(order))

    def puts(self, entries: int, requests: int) -> float:
        """Put random keys, so many entries a transaction; return microseconds per put."""
        self.store._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        rounds = max(1, min(PUTS, 300 * entries * requests) // (entries * requests))
        plan = [
            [self.batch(random.choices(self.keys, k=requests)) for _ in range(entries)]
            for _ in range(rounds)
        ]
        return cpu(lambda: self.apply(*plan), rounds * entries * requests)

    def gets(self, per_view: int) -> float:
        """Read random keys, so many a view; return microseconds per read."""
        requests = [RangeRequest(key=key) for key in random.choices(self.keys, k=GETS)]

        def read() -> None:
            for start in range(0, GETS, per_view):
                with self.reader.view() as view:
                    for request in requests[start : start + per_view]:
                        view.range(request)

        return cpu(read, GETS)


def cpu(work: Callable[[], None], count: int) -> float:
    """Return microseconds of this process's CPU time per piece of work."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / count * 1e6


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    for keys in options.keys:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            bench = Bench(Path(folder) / "db", keys)
            print(f"{keys} keys, loaded          {bench.load():6.1f} us/put")
            for entries, requests in ((100, 1), (1, 100), (1, 1000), (1, 1)):
                took = bench.puts(entries, requests)
                print(f"{keys} keys, {entries:4} x {requests:4}      {took:6.1f} us/put")
            for per_view in (1, 100):
                took = bench.gets(per_view)
                print(f"{keys} keys, {per_view:4} gets a view {took:6.1f} us/get")


if __name__ == "__main__":
    main()
