"""The isolation matrix: its quick form is as declared, and what is not would be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.isolation import matrix
from tests.isolation.declared import ACTORS, ALL, DISK, FAULTS, Effect, declared
from tests.isolation.matrix import SHORT, Cell, cells, document, measure_all, table

GUIDE = Path(__file__).parents[2] / "docs" / "isolation.md"


def cell(actor: str = "applier", fault: str = "kill", put: float = 0.0, error: str = "") -> Cell:
    added = dict.fromkeys(ALL, 0.0) | {"put": put}
    errors: dict[str, set[str]] = {subject: set() for subject in ALL}
    return Cell(actor, fault, added, errors | {"put": {error} if error else set()})


@pytest.mark.e2e
def test_the_quick_form_is_as_declared(tmp_path: Path) -> None:
    found = measure_all(tmp_path, SHORT, 3, lambda _: None)

    assert {(one.actor, one.fault): one.wrong() for one in found if one.wrong()} == {}
    assert len(found) == len(SHORT)


@pytest.mark.e2e
@pytest.mark.slow
def test_every_cell_is_as_declared(tmp_path: Path) -> None:
    found = measure_all(tmp_path, cells(), 3, matrix._tell)

    assert {(one.actor, one.fault): one.wrong() for one in found if one.wrong()} == {}


def test_every_actor_and_every_fault_has_a_row() -> None:
    rows = cells()

    assert len(rows) == len(set(rows)) == len(ACTORS) * len(FAULTS) + 2 + len(DISK)
    assert set(SHORT) <= set(rows)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (cell(put=1.2), "put: ≤ 5 s (1.20 s), declared none or ≤ 1 s"),
        (cell(put=7.0), "put: > 5 s"),
        (cell(error="UNAVAILABLE"), "put: errors (UNAVAILABLE)"),
        (cell("applier", "freeze", put=0.1), "put: none (0.10 s), declared ≤ 1 s or ≤ 5 s"),
        (cell("raft-node", "kill"), "0 elections"),
        (Cell(**(vars(cell()) | {"data": "lost: 3"})), "data: lost: 3"),
        (Cell(**(vars(cell()) | {"elections": 2})), "2 elections"),
    ],
)
def test_what_is_worse_or_better_than_declared_is_told(found: Cell, words: str) -> None:
    assert any(words in wrong for wrong in found.wrong()), found.wrong()


def test_two_of_three_runs_speak_for_a_cell() -> None:
    good, bad = cell(), cell(put=3.0)

    assert matrix._spokesman([bad, good, good]) is good
    assert matrix._spokesman([bad, good, bad]) is bad


def test_the_table_marks_what_is_not_as_declared(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("before\n<!-- matrix -->\nformer\n<!-- /matrix -->\nafter\n")

    document([cell(put=0.4), cell("lessor", "kill", put=0.4)], guide)

    text = guide.read_text()
    assert "| applier | kill | 0.40 s | none |" in text
    assert "| lessor | kill | **0.40 s** | none |" in text
    assert "former" not in text
    assert text.startswith("before\n<!-- matrix -->\n")
    assert text.endswith("<!-- /matrix -->\nafter\n")
    assert declared("lessor", "kill", "put") == {Effect.NONE}


def test_the_guide_has_a_row_for_every_cell() -> None:
    text = GUIDE.read_text()
    measured = text[text.index("<!-- matrix -->") :]

    for actor, fault in cells():
        words = matrix.WORDS.get(fault, fault)
        assert f"| {actor} | {words} |" in measured
    assert table([]).splitlines()[0] in measured
