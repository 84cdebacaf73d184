"""A gateway's reads of the database."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import apsw
import pytest

from etcdpb.rpc_pb2 import PutRequest, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest
from kv.batch import Op, encode_batch
from kv.errors import COMPACTED, FUTURE_REV, EtcdError
from storage import scan as scan_module
from storage.database import set_current
from storage.reader import is_small
from storage.scan import POOL_MAX, RESTARTS_MAX, Scan
from tests.kv.driver import finish
from tests.storage.database_driver import Filled, filled

ALL = RangeRequest(key=b"\0", range_end=b"\0")


def response(scan: Scan) -> RangeResponse:
    return RangeResponse.FromString(finish(scan))


def numbered(count: int) -> list[str]:
    return [f"key{i:05}" for i in range(count)]


@pytest.fixture
def tiny_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step does the least it can."""
    monkeypatch.setattr(scan_module, "STEP_SECONDS", 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, tiny_steps: None) -> None:
    """Every step has a transaction of its own."""
    monkeypatch.setattr(scan_module, "SECONDS_MAX", 0.0)
    monkeypatch.setattr(scan_module, "COUNT_KEYS", 7)


def test_only_one_key_as_it_is_now_is_small() -> None:
    assert is_small(RangeRequest(key=b"a"))
    assert is_small(RangeRequest(key=b"a", revision=-1))
    assert not is_small(RangeRequest(key=b"a", revision=2))
    assert not is_small(RangeRequest(key=b"a", range_end=b"b", limit=1))


def test_views_do_not_nest_and_leave_no_transaction(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")

    with driver.reader.view() as view:
        view.range(ALL)
        view.members()
        with pytest.raises(AssertionError, match="left open"), driver.reader.view():
            pass

    with driver.reader.view() as again:
        assert again.revision == 2
    driver.close()


def test_a_view_is_of_one_moment(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    with driver.reader.view() as view:
        driver.put("b")

        count = RangeResponse.FromString(view.range(ALL)).count

        assert (view.revision, view.applied_index, count) == (2, 1, 1)
    driver.close()


def test_a_refused_read_leaves_the_view_usable(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    txn = TxnRequest()
    txn.success.add().request_range.CopyFrom(RangeRequest(key=b"a", revision=9))

    with driver.reader.view() as view:
        with pytest.raises(EtcdError, match=FUTURE_REV.text):
            view.txn(txn)
        with pytest.raises(EtcdError, match=FUTURE_REV.text):
            view.range(RangeRequest(key=b"a", revision=9))
        assert view.range(RangeRequest(key=b"a")) == b""
    driver.close()


def test_a_gateway_finds_its_session_and_results(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.open_session(1 << 63, member_id=1)
    request = PutRequest(key=b"a", value=b"v", prev_kv=True).SerializeToString()
    driver.entries(encode_batch(1 << 63, 1, 1, bytes([Op.PUT] * 2), [request] * 2))
    driver.open_session(5, member_id=2)
    driver.open_session(6, member_id=2)

    with driver.reader.view() as view:
        results = view.session_results(1 << 63, range(1, 5))
        opened = [view.session_open(session) for session in (1 << 63, 5, 6, 7)]
        empty = view.session_results(1 << 63, [])

    assert results[1] == 2
    assert isinstance(results[2], tuple)
    assert results[2][0] == 3
    assert results[2][1]
    assert sorted(results) == [1, 2]
    assert opened == [True, False, True, False]
    assert empty == {}
    driver.close()


def test_a_reader_goes_over_to_the_file_that_current_names(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a", "b")
    reader = driver.reader
    new = driver.directory / "db.1-2"
    driver.store.execute(f"VACUUM INTO '{new}'")
    copy = apsw.Connection(str(new))
    copy.pragma("journal_mode", "WAL")
    copy.execute("UPDATE progress SET applied_index = 77")
    scan = reader.scan(ALL)

    assert not reader.reopen()
    set_current(driver.directory, "db.1-2")
    with reader.view() as view:
        assert view.applied_index == 1
    assert reader.reopen()

    assert reader.generation == "db.1-2"
    with reader.view() as view:
        assert view.applied_index == 77
    with pytest.raises(AssertionError):
        scan.body()
    driver.close()


def test_sizes_are_of_pages_and_of_pages_in_use(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(50), value=b"x" * 20_000)
    full = driver.reader.sizes()
    driver.delete("\0", "\0")
    driver.compact(driver.machine.revision)
    driver.put("z")
    driver.compact(driver.machine.revision)

    driver.prune()

    total, in_use = driver.reader.sizes()
    assert total >= full[0] > 50 * 20_000
    assert in_use < 200_000 < full[1]
    driver.close()


# --- scans ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_steps")
def test_a_scan_in_the_smallest_steps_gives_the_same(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(700))
    driver.put(*numbered(300), value=b"w")
    scan = driver.reader.scan(RangeRequest(key=b"key", range_end=b"kez", limit=600))
    steps = 1

    while not scan.step():
        steps += 1

    got = RangeResponse.FromString(b"".join(scan.body()))
    assert (len(got.kvs), got.count, got.more) == (600, 700, True)
    assert [kv.value for kv in got.kvs[299:301]] == [b"w", b"v"]
    assert steps > 600
    driver.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("options", [{}, {"limit": 40}, {"count_only": True}, {"sort_target": 4}])
def test_a_scan_outlives_its_transactions_and_writes_in_between(
    options: dict[str, int], tmp_path: Path
) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(120))
    driver.put(*numbered(50), value=b"w")
    request = RangeRequest(key=b"key", range_end=b"kez", **options)  # type: ignore[arg-type]
    expected = driver.range_of_view(request)
    scan = driver.reader.scan(request)

    turns = 0
    while not scan.step():
        driver.reader.sizes()
        turns += 1
        if turns % 10 == 0:
            driver.put(f"key{turns:05}", f"key{turns:05}0", value=b"later")
            driver.delete(f"key{turns + 1:05}")

    assert RangeResponse.FromString(b"".join(scan.body())) == expected
    assert turns > 20
    driver.close()


def compacted_past(driver: Filled) -> None:
    """Write, and forget everything before."""
    driver.put("a")
    driver.compact(driver.machine.revision)
    driver.prune()
    driver.reader.sizes()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("revision", "stream"), [(30, False), (51, False), (0, True)])
def test_a_scan_believes_nothing_after_its_revision_is_compacted(
    tmp_path: Path, revision: int, stream: bool
) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(50))
    request = RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
    scan = driver.reader.scan(request, stream=stream)
    for _ in range(10):
        scan.step()
    compacted_past(driver)

    with pytest.raises(EtcdError, match=COMPACTED.text):
        finish(scan)
    driver.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("options", [{}, {"count_only": True}, {"sort_order": 2, "sort_target": 4}])
def test_a_range_of_the_newest_revision_begins_again_when_that_is_compacted(
    options: dict[str, int], tmp_path: Path
) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(50))
    request = RangeRequest(key=b"\0", range_end=b"\0", **options)  # type: ignore[arg-type]
    scan = driver.reader.scan(request)
    for _ in range(3):
        assert not scan.step()
    compacted_past(driver)

    begun_again = response(scan)

    assert begun_again == driver.range_of_view(request)
    assert (begun_again.count, scan.revision) == (51, driver.machine.revision)
    driver.close()


@pytest.mark.usefixtures("impatient")
def test_a_hash_of_the_newest_revision_begins_again_too(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(50))
    scan = driver.reader.hash_kv()
    for _ in range(10):
        assert not scan.step()
    compacted_past(driver)

    while not scan.step():
        pass

    fresh = driver.reader.hash_kv()
    while not fresh.step():
        pass
    assert (scan.hash, scan.hash_revision) == (fresh.hash, fresh.hash_revision)
    driver.close()


@pytest.mark.usefixtures("impatient")
def test_a_scan_that_is_always_overtaken_gives_up(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(9))
    scan = driver.reader.scan(ALL)
    for _ in range(RESTARTS_MAX + 1):
        assert not scan.step()
        compacted_past(driver)

    with pytest.raises(EtcdError, match=COMPACTED.text):
        scan.step()

    scan.close()
    driver.close()


@pytest.mark.usefixtures("tiny_steps")
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("target", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"limit": 20}, {"min_mod_revision": 70}, {"max_mod_revision": 99, "limit": 90}]
)
def test_a_range_that_is_sorted_and_filtered_in_runs_comes_out_as_one(
    options: dict[str, int],
    order: int,
    target: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan_module, "RUN_KEYS", 7)
    driver = filled(tmp_path)
    driver.put(*numbered(60), value=b"w")
    driver.put(*numbered(60)[::-3], value=b"v")
    options |= {"sort_order": order, "sort_target": target}
    request = RangeRequest(key=b"key", range_end=b"kez", **options)  # type: ignore[arg-type]

    got = response(driver.reader.scan(request))

    assert got == driver.range_of_view(request)
    assert got.kvs
    driver.close()


@pytest.mark.usefixtures("impatient")
def test_an_unstepped_scan_holds_up_no_restart_of_the_log(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(50))
    scan = driver.reader.scan(ALL)
    scan.step()
    assert not driver.store.restart_wal()

    driver.reader.sizes()

    assert driver.store.restart_wal()
    assert response(scan).count == 50
    driver.close()


def test_a_walk_past_many_versions_is_cut_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_steps: None
) -> None:
    driver = filled(tmp_path)
    driver.put(*["hot"] * 5000)
    scan = driver.reader.scan(RangeRequest(key=b"hot", revision=2))
    steps = 1

    while not scan.step():
        steps += 1

    (kv,) = RangeResponse.FromString(b"".join(scan.body())).kvs
    assert (kv.mod_revision, kv.version) == (2, 1)
    assert steps >= 3
    driver.close()


def test_scans_wait_for_a_free_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "STEP_SECONDS", 60.0)  # one step is enough on any machine
    driver = filled(tmp_path)
    driver.put("a")
    pool = driver.reader._pool
    lent = [pool.take() for _ in range(POOL_MAX)]
    scan = driver.reader.scan(ALL)

    assert not scan.step()
    assert lent[0] is not None
    pool.give_back(lent[0])

    assert scan.step()
    assert response(scan).count == 1
    driver.close()


def test_scans_make_do_with_the_connection_there_is_when_descriptors_run_out(
    tmp_path: Path, tiny_steps: None
) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(10))
    driver.reader.keep_scan_connection()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    scans = [driver.reader.scan(ALL) for _ in range(3)]

    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        done = [scan.step() for scan in scans]
        counts = [response(scan).count for scan in scans]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert done == [False] * 3
    assert counts == [10] * 3
    driver.close()


@pytest.mark.parametrize("revision", [0, 150])
def test_a_scan_that_let_go_of_its_connection_goes_on_with_another(
    tmp_path: Path, tiny_steps: None, revision: int
) -> None:
    driver = filled(tmp_path)
    for name in numbered(600):
        driver.put(name)
    request = RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
    expected = response(driver.reader.scan(request))
    scan = driver.reader.scan(request)

    while not scan.step():
        scan.close()
        others = [driver.reader.scan(ALL) for _ in range(POOL_MAX)]
        for other in others:
            other.step()  # takes whatever connections there are
        for other in others:
            other.close()

    assert RangeResponse.FromString(b"".join(scan.body())) == expected
    driver.close()


def test_a_scan_waits_for_its_applied_index(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    scan = driver.reader.scan(ALL, 2)

    assert not scan.step()
    driver.put("b")

    assert response(scan).count == 2
    driver.close()


def test_a_refused_scan_gives_its_connection_back(tmp_path: Path) -> None:
    driver = filled(tmp_path)

    for _ in range(2 * POOL_MAX):
        with pytest.raises(EtcdError, match=FUTURE_REV.text):
            finish(driver.reader.scan(RangeRequest(key=b"a", revision=7)))
    driver.close()


def streamed(driver: Filled, request: RangeRequest) -> list[RangeResponse]:
    scan = driver.reader.scan(request, stream=True)

    def header(revision: int) -> bytes:
        head = RangeResponse()
        head.header.revision = revision
        return head.SerializeToString()

    chunks = []
    done = False
    while not done:
        done = scan.step()
        chunks += list(scan.chunks(header))
    assert not list(scan.chunks(header))
    return [RangeStreamResponse.FromString(chunk).range_response for chunk in chunks]


@pytest.mark.usefixtures("tiny_steps")
@pytest.mark.parametrize("limit", [0, 1, 700, 2000])
def test_a_stream_adds_up_to_the_range(limit: int, tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put(*numbered(1200), value=b"x" * 300)
    request = RangeRequest(key=b"key", range_end=b"kez", limit=limit)
    whole = driver.range(request)

    chunks = streamed(driver, request)

    assert [kv for chunk in chunks for kv in chunk.kvs] == list(whole.kvs)
    assert not any(chunk.HasField("header") or chunk.count for chunk in chunks[:-1])
    assert chunks[-1].header.revision == driver.machine.revision
    assert (chunks[-1].count, chunks[-1].more) == (1200, 0 < limit < 1200)
    assert len(chunks) > 1 or limit == 1
    driver.close()


def test_an_empty_stream_has_one_chunk(tmp_path: Path) -> None:
    driver = filled(tmp_path)

    (chunk,) = streamed(driver, ALL)

    assert (chunk.count, chunk.header.revision) == (0, 1)
    driver.close()


def test_a_reader_sees_what_another_process_commits(tmp_path: Path) -> None:
    driver = filled(tmp_path)
    driver.put("a")
    driver.store.close()
    child = os.fork()
    if child == 0:
        other = Filled(driver.directory)
        other.put("b")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    with driver.reader.view() as view:
        assert RangeResponse.FromString(view.range(ALL)).count == 2
    driver.reader.close()
