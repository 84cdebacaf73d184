"""The database against the memory store: random requests with all options, compaction, pruning."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from kv.errors import EtcdError
from storage.compaction import prune_slice
from tests.kv.driver import MemoryDriver, SqliteDriver
from tests.kv.random_requests import LEASES, RandomRequests


def answer(ask: Any, request: Any) -> Any:
    try:
        return ask(request)
    except EtcdError as error:
        return error.status


def compare(seed: int, steps: int, folder: Path) -> None:
    model, database = MemoryDriver(), SqliteDriver(folder / "db")
    requests, chance = RandomRequests(seed), Random(seed)
    for step in range(steps):
        requests.revision = model.machine.revision
        requests.compact_revision = model.machine.compact_revision
        writes = [requests.write() for _ in range(chance.randint(1, 4))]
        assert model.propose(*writes) == database.propose(*writes), (seed, step, writes)
        assert model.machine.hash == database.machine.hash, (seed, step, writes)
        for lease in LEASES:
            assert model.store.lease(lease) == database.store.lease(lease), (seed, step, writes)
            keys = list(model.store.lease_keys(lease))
            assert keys == list(database.store.lease_keys(lease)), (seed, step, writes)
        read = requests.range()
        assert answer(model.range, read) == answer(database.range, read), (seed, step, read)
        txn = requests.txn(read_only=True)
        assert answer(model.read_txn, txn) == answer(database.read_txn, txn), (seed, step, txn)
        if chance.random() < 0.1:
            prune_slice(database.store, chance.randint(1, 30))
        if chance.random() < 0.02:
            database.restart()
    database.close()


@pytest.mark.parametrize("seed", range(3))
def test_the_database_answers_as_the_memory_store(seed: int, tmp_path: Path) -> None:
    compare(seed, 250, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 106))
def test_the_database_answers_as_the_memory_store_for_long(seed: int, tmp_path: Path) -> None:
    compare(seed, 1000, tmp_path)
