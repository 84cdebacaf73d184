"""The isolation matrix: its quick form is as declared, and what is not would be seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.faults import SYNCING
from supervisor.root import ZYGOTE
from supervisor.tree import children
from tests.isolation import matrix
from tests.isolation.declared import (
    ACTORS,
    ALL,
    DISK,
    EITHER,
    ENDING,
    FAULTS,
    FSYNC_FAIL,
    FSYNC_SLOW,
    NOT_APPLICABLE,
    OF_THE_ZYGOTE,
    STORM,
    Effect,
    declared,
    exit_code_declared,
)
from tests.isolation.matrix import RUNS, SHORT, cells, measure_all, spokesman, tell
from tests.isolation.matrix_cell import Cell
from tests.isolation.matrix_table import GUIDE, document, not_applicable, table, update, words

DURABLE = ("applier", "kill")


def cell(actor: str = "applier", fault: str = "kill", put: float = 0.0, error: str = "") -> Cell:
    added = dict.fromkeys(ALL, 0.0) | {"put": put}
    errors: dict[str, set[str]] = {subject: set() for subject in ALL}
    return Cell(actor, fault, added, errors | {"put": {error} if error else set()})


def changed(**fields: object) -> Cell:
    found = cell()
    for name, value in fields.items():
        setattr(found, name, value)
    return found


@pytest.mark.e2e
def test_the_quick_form_is_as_declared(tmp_path: Path) -> None:
    found = measure_all(tmp_path, SHORT, RUNS, lambda _: None, believing=True)

    assert {(one.actor, one.fault): one.wrong() for one in found if one.wrong()} == {}
    assert len(found) == len(SHORT)


@pytest.mark.e2e
@pytest.mark.slow
def test_every_cell_is_as_declared(tmp_path: Path) -> None:
    found = measure_all(tmp_path, cells(), RUNS, tell)

    assert {(one.actor, one.fault): one.wrong() for one in found if one.wrong()} == {}


def test_every_actor_and_every_fault_has_a_row() -> None:
    rows = cells()

    many = len(ACTORS) * len(FAULTS) + len(OF_THE_ZYGOTE) + len(DISK) + len(SYNCING) + len(ENDING)
    assert len(rows) == len(set(rows)) == many
    assert {actor for actor, fault in rows if fault == STORM} == {
        spec.name for spec in (*children(1), ZYGOTE)
    }
    for fault in (FSYNC_SLOW, FSYNC_FAIL):
        measured = {actor for actor, row in rows if row == fault} - {"disk"}
        refused = {actor for actor, _, why in NOT_APPLICABLE if why == "it syncs no file"}
        assert sorted([*measured, *refused]) == sorted([*ACTORS, "zygote"])
    assert set(SHORT) <= set(rows)


def test_each_actor_that_cannot_start_is_told_by_its_own_exit_code() -> None:
    codes = [exit_code_declared(actor, fault) for actor, fault in ENDING if fault == STORM]

    assert len(codes) == len(set(codes))
    assert None not in codes
    assert 0 not in codes


def test_a_cell_is_one_class_unless_a_reason_is_given() -> None:
    rows = [(actor, fault, subject) for actor, fault in cells() for subject in ALL]

    assert {row for row in rows if len(declared(*row)) == 2} == set(EITHER)
    assert all(len(declared(*row)) in (1, 2) for row in rows)
    assert all(reason for _, reason in EITHER.values())


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (cell(put=0.4), "put: ≤ 1 s (0.40 s), declared none"),
        (cell(put=1.2), "put: ≤ 5 s (1.20 s), declared none"),
        (cell(put=7.0), "put: > 5 s"),
        (cell(error="UNAVAILABLE"), "put: errors (UNAVAILABLE)"),
        (cell("applier", "freeze", put=0.1), "put: none (0.10 s), declared ≤ 5 s"),
        (cell("applier", STORM), "put: none (0.00 s), declared ended"),
        (cell("applier", STORM), "exit code None"),
        (cell("raft-node", "kill"), "0 elections"),
        (changed(data="lost: 3"), "data: lost: 3"),
        (changed(elections=2), "2 elections"),
        (cell(error="RESOURCE_EXHAUSTED"), "put: refused (RESOURCE_EXHAUSTED), declared none"),
        (cell("disk", "disk-full"), "put: none (0.00 s), declared refused"),
        (cell("disk", "disk-full", error="UNAVAILABLE"), "put: errors"),
        (changed(exit_code=74), "put: ended"),
        (changed(exit_code=74), "exit code 74"),
    ],
)
def test_what_is_worse_or_better_than_declared_is_told(found: Cell, said: str) -> None:
    assert any(said in wrong for wrong in found.wrong()), found.wrong()


def test_what_is_as_declared_is_not() -> None:
    ended = changed(fault=STORM, elections=1, exit_code=82)

    assert ended.wrong() == []
    assert cell().wrong() == []
    assert cell("applier", "freeze", put=4.2).wrong() == []
    assert cell("disk", "disk-full", error="RESOURCE_EXHAUSTED").wrong() == []


GOOD, BAD = cell(), cell(put=3.0)


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [([GOOD, GOOD], GOOD), ([BAD, GOOD, GOOD], GOOD), ([BAD, BAD], BAD), ([BAD, GOOD, BAD], BAD)],
)
def test_two_of_three_runs_decide(
    runs: Sequence[Cell], verdict: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(runs)
    monkeypatch.setattr(matrix, "Member", Nobody)
    monkeypatch.setattr(matrix, "Load", Nobody)
    monkeypatch.setattr(matrix, "measure", lambda *_: left.pop(0))

    assert measure_all(tmp_path, [DURABLE], RUNS, lambda _: None) == [verdict]
    assert left == []
    assert spokesman(runs) is verdict


def test_the_quick_form_believes_a_good_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [GOOD, BAD]
    monkeypatch.setattr(matrix, "Member", Nobody)
    monkeypatch.setattr(matrix, "Load", Nobody)
    monkeypatch.setattr(matrix, "measure", lambda *_: left.pop(0))

    assert measure_all(tmp_path, [DURABLE], RUNS, lambda _: None, believing=True) == [GOOD]


class Nobody:
    """Stands for a member and its clients where nothing is measured."""

    endpoint = ""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_the_table_shows_the_declared_beside_the_measured(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("before\n<!-- matrix -->\nformer\n<!-- /matrix -->\nafter\n")
    ended = changed(fault=STORM, elections=1, exit_code=82)

    document(
        [
            cell(),
            cell("lessor", "kill", put=0.4),
            cell("applier", "freeze", put=4.2),
            cell("gateway-0", "kill", error="UNAVAILABLE"),
            ended,
        ],
        guide,
    )

    text = guide.read_text()
    assert "| applier | kill | none | none |" in text
    assert "| lessor | kill | **0.40 s** (none) | none |" in text
    assert "| applier | freeze 5 s | 4.20 s (≤ 5 s) | none |" in text
    assert "| gateway-0 | kill | errors (none or errors) | none (none or errors) |" in text
    assert "| applier | crash at every start, exit code 82 | ended | ended |" in text
    assert "former" not in text
    assert text.startswith("before\n<!-- matrix -->\nMeasured by ")
    assert text.endswith("<!-- /matrix -->\nafter\n")
    assert declared("lessor", "kill", "put") == {Effect.NONE}


def test_a_part_measured_later_takes_the_place_of_its_rows(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("<!-- matrix -->\n<!-- /matrix -->\nafter\n")
    gone = changed(fault="hog")
    document([cell(), cell("lessor", "kill"), gone, cell("applier", "freeze", put=4.2)], guide)
    first = guide.read_text().replace(words("applier", "hog"), "hog of former times")
    guide.write_text(re.sub(r" on \S+ at commit \S+,", " on 2001-02-03 at commit abc,", first))
    full = cell("disk", "disk-full", error="RESOURCE_EXHAUSTED")

    for _ in range(2):
        update([cell("lessor", "kill", put=0.4), full], guide, "kill,disk-full")

    text = guide.read_text()
    lines = [line[: line.index("|", 12)] for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:5] == ["| applier | kill ", "| lessor | kill ", "| applier | freeze 5 s ", (
        "| disk | no file may grow, 2 s "
    )]  # fmt: skip
    assert "| lessor | kill | **0.40 s** (none) | none |" in text
    assert "| disk | no file may grow, 2 s | refused | none | none | none | none |" in text
    assert " on 2001-02-03 at commit abc, one member" in text
    assert text.count("Measured later: `kill,disk-full` on 20") == 1
    assert text.count(not_applicable()) == 1
    assert text.endswith("<!-- /matrix -->\nafter\n")


def test_the_guide_has_a_row_for_every_cell() -> None:
    text = GUIDE.read_text()
    measured = text[text.index("<!-- matrix -->") :]

    for actor, fault in cells():
        assert f"| {actor} | {words(actor, fault)}" in measured
    assert not_applicable() in measured
    assert table([]).splitlines()[0] in measured
