"""The writer's side of the database."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest

from etcdpb.rpc_pb2 import PutRequest, RangeRequest
from kv.batch import Op, encode_batch
from kv.machine import Machine
from storage.checkpoint import Checkpointer
from storage.database import DiskFullError
from storage.reader import Reader
from storage.schema import signed, unsigned
from tests.storage.database_driver import filled


@pytest.mark.parametrize("value", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_ids_of_64_bits_come_back(value: int) -> None:
    assert -(1 << 63) <= signed(value) < 1 << 63
    assert unsigned(signed(value)) == value


def test_nobody_sees_a_transaction_before_it_is_committed(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    request = PutRequest(key=b"a", value=b"v").SerializeToString()
    driver.store.begin()
    driver.machine.apply(1, 1, encode_batch(0, 0, 0, bytes([Op.PUT]), [request]))
    driver.machine.flush()

    with driver.reader.view() as before:
        seen = before.applied_index, before.range(RangeRequest(key=b"a"))
    driver.store.commit()

    assert seen == (0, b"")
    with driver.reader.view() as after:
        assert after.applied_index == 1
        assert after.range(RangeRequest(key=b"a"))
    driver.close()


def test_room_kept_at_the_end_of_the_log_is_written_to_and_is_no_part_of_it(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    log = Path(driver.store._connection.filename + "-wal")

    kept = driver.store.keep_room(1 << 20)
    size = log.stat().st_size
    driver.put("b")
    driver.put("c")

    assert kept
    assert size > 1 << 20
    assert log.stat().st_blocks * 512 >= size
    assert log.stat().st_size == size
    assert driver.store.keep_room(1 << 20)
    assert log.stat().st_size > size
    killed = tmp_path / "killed"
    shutil.copytree(log.parent, killed)
    reader = Reader(killed)
    with reader.view() as view:
        assert view.applied_index == 3
        assert view.range(RangeRequest(key=b"c"))
    reader.close()
    driver.close()


def test_a_full_disk_rolls_back_and_the_machine_goes_on_when_there_is_room(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    connection = driver.store._connection
    connection.pragma("max_page_count", connection.pragma("page_count"))
    request = PutRequest(key=b"big", value=b"x" * 100_000).SerializeToString()
    entry = encode_batch(0, 0, 0, bytes([Op.PUT]), [request])

    driver.store.begin()
    driver.machine.apply(2, 1, entry)
    with pytest.raises(DiskFullError):
        driver.machine.flush()
    driver.store.rollback()
    driver.machine.reload()

    assert (driver.machine.applied_index, driver.machine.revision) == (1, 2)
    connection.pragma("max_page_count", 1 << 30)
    (applied,) = driver.entries(entry)
    assert applied.results == [3]
    driver.close()


def test_a_full_disk_leaves_the_log_of_the_database_as_it_is(tmp_path: Path) -> None:
    class FullDisk:
        def __init__(self, connection: Any) -> None:
            self.set_busy_timeout = connection.set_busy_timeout
            self.system_errno = 0

        def wal_checkpoint(self, mode: int) -> None:
            raise DiskFullError("no room for what has to be copied")

    driver = filled(tmp_path)
    driver.put("a")
    frames = driver.store.wal_frames()
    connection: Any = driver.store._connection
    driver.store._connection = FullDisk(connection)

    assert not driver.store.restart_wal()

    driver.store._connection = connection
    assert driver.store.wal_frames() == frames > 0
    assert driver.store.restart_wal()
    driver.close()


def test_the_log_of_the_database_starts_again_unless_a_reader_needs_it(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*"abcdefgh", value=b"x" * 5000)
    frames = driver.store.wal_frames()
    with driver.reader.view() as view:
        assert not driver.store.restart_wal()
        assert view.revision == 9
    assert driver.store.wal_frames() == frames > 10

    assert driver.store.restart_wal()

    driver.put("a")
    assert driver.store.wal_frames() < frames
    driver.close()


def test_start_up_does_not_read_the_keys(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*(f"key{i}" for i in range(5000)), value=b"x" * 200)
    driver.restart()
    store = driver.store
    before = store._connection.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]

    Machine(store)

    assert store._connection.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] - before < 20
    driver.close()


def test_a_checkpoint_proves_what_was_applied_before_it(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    checkpointer = Checkpointer(driver.directory)

    done = checkpointer.run()

    assert (done.durable_index, done.durable_term, done.frames_left) == (1, 1, 0)
    with apsw.Connection(f"file:{driver.directory}/db.0-0?immutable=1", flags=65) as alone:
        assert alone.execute("SELECT applied_index FROM progress").get == 1
    driver.close()


def test_a_checkpoint_held_up_by_a_reader_proves_nothing(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    checkpointer = Checkpointer(driver.directory)
    checkpointer.run()
    reader = Reader(driver.directory)

    with reader.view():
        driver.put(*"bcd")
        held_up = checkpointer.run()

    assert held_up.durable_index is None
    assert held_up.frames_left > 0
    assert checkpointer.run().durable_index == 2
    driver.close()


def test_two_checkpointers_are_an_ordinary_thing(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    first, second = Checkpointer(driver.directory), Checkpointer(driver.directory)

    assert first.run().durable_index == second.run().durable_index == 1
    assert not first.reopen()
    driver.close()


def test_statements_stay_prepared_from_one_batch_to_the_next(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.open_session(5)

    def batch(number: int) -> None:
        requests = [
            PutRequest(key=b"%d" % key, value=b"v").SerializeToString()
            for key in range(number, number + 80)
        ]
        first_id = 1 + 80 * number
        driver.entries(encode_batch(5, first_id, first_id, bytes([Op.PUT] * 80), requests))

    batch(0)
    connection = driver.store._connection
    before = connection.cache_stats()["misses"]

    for number in range(1, 10):
        batch(number)

    assert connection.cache_stats()["misses"] == before
    driver.close()
