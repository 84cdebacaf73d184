"""The applier goes over to a received snapshot: once, wholly, and everybody hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import applier as applier_module
from actors.messages import Applied, AppliedTo, Apply, InstallSnapshot, Prune, Pruned
from actors.metrics import ApplierMetric
from storage.database import DatabaseError, generation, set_current
from storage.files import OsFiles
from storage.reader import Reader
from storage.snapshot import publish
from tests.actors.test_applier import SESSION, Bench, opening, put
from tests.storage.snapshot_bench import TERM, Database, announced, made
from transport.counters import Cell
from transport.mailbox import Flush

FILES = OsFiles()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(applier_module, "WATCH_NS", 0)
    bench = Bench(tmp_path)
    bench.apply(opening(), put(1, b"k", b"old"))
    bench.sent.clear()
    yield bench
    bench.reader.close()
    bench.actor.links.close()


def receive(bench: Bench, tmp_path: Path, puts: int = 60) -> InstallSnapshot:
    """Put a snapshot of a leader beside the applier's database, complete."""
    leader = Database(tmp_path / "leader" / "db")
    leader.put(puts, key="k")
    facts = made(leader)
    leader.close()
    directory = bench.actor.context.data_dir / "member" / "db"
    facts.path.rename(directory / announced(facts).partial_name)
    publish(directory, announced(facts), FILES)
    return InstallSnapshot(facts.index, facts.term)


def go_on(bench: Bench, *batches: bytes) -> None:
    """Hand over the entries after the snapshot's, as its leader would."""
    terms, kinds = [TERM] * len(batches), [0] * len(batches)
    bench.actor.apply(Apply(61 + len(batches), 62, terms, kinds, list(batches)))
    bench.actor.flush(Flush())


def word(bench: Bench, metric: ApplierMetric) -> int:
    return bench.actor.board.get("applier", Cell.METRICS + metric)


def test_everybody_hears_of_the_new_state(bench: Bench, tmp_path: Path) -> None:
    order = receive(bench, tmp_path)

    bench.actor.install_snapshot(order)

    assert Applied(61, 61, []) in [m for to, m in bench.sent if to == "gateway-0"]
    assert AppliedTo(61) in [m for to, m in bench.sent if to == "raft-node"]
    assert word(bench, ApplierMetric.GENERATION) == 61
    assert word(bench, ApplierMetric.APPLIED_INDEX) == 61
    assert bench.actor.have("raft-node") == 61
    assert bench.reader.reopen()
    assert bench.value(b"k") == b"61." * 25


def test_entries_go_on_after_the_snapshot(bench: Bench, tmp_path: Path) -> None:
    bench.actor.install_snapshot(receive(bench, tmp_path))
    bench.sent.clear()

    go_on(bench, opening(), put(1, b"k", b"new"))
    bench.reader.reopen()

    assert bench.answers()[-1] == [SESSION, 1, [62]]
    assert bench.value(b"k") == b"new"


def test_what_was_carried_out_ahead_is_gone(bench: Bench, tmp_path: Path) -> None:
    order = receive(bench, tmp_path)
    bench.apply(put(2, b"ahead", b"v"), committed=2)  # open, in the old file

    bench.actor.install_snapshot(order)
    go_on(bench, opening())
    bench.reader.reopen()

    assert bench.value(b"ahead") is None
    assert bench.actor.have("raft-node") == 62


def test_entries_that_came_before_the_snapshot_and_wait_are_forgotten(
    bench: Bench, tmp_path: Path
) -> None:
    order = receive(bench, tmp_path)
    bench.actor.apply(Apply(3, 3, [1], [0], [put(2, b"waiting", b"v")]))

    bench.actor.install_snapshot(order)
    go_on(bench, opening())
    bench.reader.reopen()

    assert bench.value(b"waiting") is None
    assert bench.actor.have("raft-node") == 62


def test_a_snapshot_of_the_past_is_ignored(bench: Bench, tmp_path: Path) -> None:
    order = receive(bench, tmp_path)
    bench.actor.install_snapshot(order)
    go_on(bench, opening(), put(1, b"k", b"newer"))
    bench.sent.clear()

    bench.actor.install_snapshot(order)
    bench.actor.install_snapshot(InstallSnapshot(5, TERM))

    assert bench.sent == []
    bench.reader.reopen()
    assert bench.value(b"k") == b"newer"


def test_a_successor_installs_what_its_predecessor_died_over(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = receive(bench, tmp_path)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(applier_module, "set_current", die)
    with pytest.raises(KeyboardInterrupt):
        bench.actor.install_snapshot(order)
    monkeypatch.undo()
    bench.actor._store.close()
    directory = bench.actor.context.data_dir / "member" / "db"
    assert generation(directory) == "db.0-0"

    bench.actor.on_start()
    assert bench.actor.have("raft-node") == 2
    bench.actor.install_snapshot(order)

    assert generation(directory) == "db.3-61"
    assert bench.actor.have("raft-node") == 61


def test_a_full_disk_costs_the_ballast_and_not_the_snapshot(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = receive(bench, tmp_path)
    failures = [OSError(28, "No space left on device")]

    def full_at_first(directory: Path, name: str) -> None:
        if failures:
            raise failures.pop()
        set_current(directory, name)

    monkeypatch.setattr(applier_module, "set_current", full_at_first)
    before = bench.actor._ballast.present
    bench.actor.install_snapshot(order)

    assert (before, bench.actor._ballast.present) == (True, False)
    assert bench.actor.have("raft-node") == 61


def test_a_missing_file_is_an_error_that_names_it(bench: Bench) -> None:
    with pytest.raises(DatabaseError, match=r"db\.3-99 was installed, but it does not exist"):
        bench.actor.install_snapshot(InstallSnapshot(99, TERM))


def test_a_reader_that_has_not_moved_only_waits(bench: Bench, tmp_path: Path) -> None:
    late = Reader(bench.actor.context.data_dir / "member" / "db")

    bench.actor.install_snapshot(receive(bench, tmp_path))
    go_on(bench, opening())

    with late.view() as view:
        assert view.applied_index == 2
    assert late.reopen()
    with late.view() as view:
        assert view.applied_index == 62
    late.close()


def test_a_slice_of_pruning_ordered_before_is_answered(bench: Bench, tmp_path: Path) -> None:
    order = receive(bench, tmp_path)
    bench.actor.prune(Prune(100, 10))
    bench.actor.install_snapshot(order)
    bench.actor.flush(Flush())

    assert [type(message) for to, message in bench.sent if to == "compactor"][-1] is Pruned
