"""Pruning history in slices."""

from __future__ import annotations

from pathlib import Path

import pytest

from etcdpb.rpc_pb2 import RangeRequest, TxnRequest
from kv.errors import COMPACTED, EtcdError
from storage.compaction import prune_slice, vacuum_slice
from storage.scan import HashScan
from tests.storage.database_driver import Filled, filled


def prune_all(driver: Filled, rows: int) -> int:
    removed = 0
    for _ in range(10_000):
        progress = prune_slice(driver.store, rows)
        assert progress.rows <= rows
        removed += progress.keys
        if progress.finished:
            return removed
    raise AssertionError("pruning does not end")


def hashed(driver: Filled, revision: int = 0) -> HashScan:
    scan = driver.reader.hash_kv(revision)
    while not scan.step():
        pass
    return scan


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_only_the_newest_rows_at_the_compact_revision_are_left(rows: int, tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a", "a", "b", "a", "c", "c")
    driver.compact(5)

    removed = prune_all(driver, rows)

    assert driver.rows() == [(4, 0, "b", 1), (5, 0, "a", 3), (6, 0, "c", 1), (7, 0, "c", 2)]
    assert removed == 2
    assert driver.store.pruned_to() == 5
    driver.close()


@pytest.mark.parametrize("rows", [1, 100])
def test_a_tombstone_at_the_compact_revision_stays_until_the_next(
    rows: int, tmp_path: Path
) -> None:
    driver = filled(tmp_path)
    driver.put("a", "b")
    driver.delete("a")
    driver.delete("b")
    driver.compact(5)
    prune_all(driver, rows)
    assert driver.rows() == [(5, 0, "b", 0)]
    driver.put("c")
    driver.compact(6)

    prune_all(driver, rows)

    assert driver.rows() == [(6, 0, "c", 1)]
    assert driver.store.execute("SELECT count(*) FROM key").get == 1
    driver.close()


def test_a_compaction_in_the_middle_of_a_pass_forgets_no_tombstone(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*"abcdef")
    driver.delete("a", "e")
    driver.compact(8)
    for _ in range(8):  # into the deletes of revision 8, which are kept for now
        prune_slice(driver.store, 1)
    driver.put("z")
    driver.compact(9)

    prune_all(driver, 3)

    assert [row[2] for row in driver.rows()] == ["e", "f", "z"]
    driver.close()


def test_nothing_is_pruned_that_was_compacted_since_the_slice_was_ordered(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a", "a", "a", "a", "a")
    driver.compact(3)
    driver.compact(6)

    first = prune_slice(driver.store, 100, 3)
    again = prune_slice(driver.store, 100, 3)
    left = [row[0] for row in driver.rows()]
    last = prune_slice(driver.store, 100, 6)

    assert (first.finished, again.finished, last.finished) == (False, False, True)
    assert again.rows == 0
    assert left == [3, 4, 5, 6]
    assert [row[0] for row in driver.rows()] == [6]
    driver.close()


def test_a_key_deleted_and_put_again_in_one_revision_is_kept(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    txn = TxnRequest()
    txn.success.add().request_delete_range.key = b"a"
    put = txn.success.add().request_put
    put.key, put.value = b"a", b"new"
    driver.propose(txn)
    driver.compact(3)

    prune_all(driver, 1)

    assert driver.rows() == [(3, 1, "a", 1)]
    assert driver.range(RangeRequest(key=b"a")).kvs[0].create_revision == 3
    driver.close()


def test_pruning_is_taken_up_after_a_restart(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*["a"] * 50)
    driver.compact(40)
    for _ in range(5):
        assert not prune_slice(driver.store, 3).finished
    left = len(driver.rows())
    driver.restart()

    removed = prune_all(driver, 3)

    assert left - removed == len(driver.rows()) == 12
    assert prune_slice(driver.store, 3).rows == 0
    driver.close()


def test_a_failed_slice_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = filled(tmp_path)
    driver.put("a", "a")
    driver.compact(3)
    before = driver.rows()

    def fail(name: str, value: int) -> None:
        raise OSError(name)

    monkeypatch.setattr(driver.store.__class__, "set_meta", staticmethod(fail))
    with pytest.raises(OSError, match="prune_target"):
        prune_slice(driver.store, 10)
    monkeypatch.undo()

    assert driver.rows() == before
    driver.put("b")
    driver.close()


def test_the_hash_at_a_revision_survives_compaction_and_pruning(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a", "b", "a", "c")
    driver.delete("b")
    driver.put("b")
    before = [hashed(driver, revision).hash for revision in (6, 7)]
    newest = hashed(driver)
    driver.compact(6)

    after = [hashed(driver, revision).hash for revision in (6, 7)]
    prune_all(driver, 2)
    pruned = [hashed(driver, revision) for revision in (6, 7)]

    assert before == after == [scan.hash for scan in pruned]
    assert before[0] != before[1] == newest.hash
    assert (newest.revision, newest.hash_revision, newest.compact_revision) == (7, 7, -1)
    assert (pruned[0].revision, pruned[0].hash_revision, pruned[0].compact_revision) == (7, 6, 6)
    with pytest.raises(EtcdError, match=COMPACTED.text):
        hashed(driver, 5)
    driver.close()


def test_the_hash_sees_one_changed_byte(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a", "b", value=b"value")
    before = hashed(driver).hash

    driver.store.execute("UPDATE history SET value = ? WHERE key = ?", (b"valuf", b"b"))

    assert hashed(driver).hash != before
    driver.close()


def test_vacuum_gives_pages_back_in_slices(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*["a"] * 100, value=b"x" * 10_000)
    driver.compact(101)
    prune_all(driver, 100)
    pages = driver.store.execute("PRAGMA page_count").get

    first = vacuum_slice(driver.store, 50)
    while vacuum_slice(driver.store, 50):
        pass

    assert first > 0
    assert driver.store.execute("PRAGMA page_count").get < pages / 4
    assert driver.store.execute("PRAGMA integrity_check").get == "ok"
    driver.close()
