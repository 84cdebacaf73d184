"""What a gateway does about proposals whose answers are late."""

from __future__ import annotations

from pathlib import Path

from actors.proposals import Proposals
from actors.unanswered import WORK_SECONDS, applier_is_at_work, retry_late
from kv.batch import Op
from tests.actors.boards import make_board
from tests.actors.test_proposals import SESSION, Asker, Wire
from tests.storage.database_driver import filled
from transport.counters import Cell

LATE = 0.6


def test_an_applier_is_at_work_that_is_in_one_message_for_a_while(tmp_path: Path) -> None:
    board = make_board(tmp_path)
    board.set("applier", Cell.SINCE_NS, 10 * 10**9)

    idle = applier_is_at_work(board, 20.0)
    board.set("applier", Cell.TAG, 1)
    soon = applier_is_at_work(board, 10.0 + WORK_SECONDS / 2)
    later = applier_is_at_work(board, 10.0 + WORK_SECONDS)

    assert (idle, soon, later) == (False, False, True)


def test_a_late_batch_is_proposed_again_unless_the_applier_is_at_something(tmp_path: Path) -> None:
    driver, wire = filled(tmp_path), Wire()
    proposals = Proposals(SESSION, wire, lambda asker, r, b: asker.answered(r, b), timeout=7.0)
    proposals.open = True
    proposals.add(Op.PUT, b"put", Asker())
    proposals.flush(0.0)

    seen: list[tuple[int, int]] = []

    def found(first_id: int, count: int) -> None:
        seen.append((first_id, count))

    held = retry_late(driver.reader, proposals, LATE, found, at_work=True)
    early = retry_late(driver.reader, proposals, LATE + 0.1, found, at_work=False)
    again = retry_late(driver.reader, proposals, LATE + 1.0, found, at_work=False)

    assert (held, early, again) == (0, 0, 1)
    assert wire.sent == [wire.sent[0]] * 2
    assert not seen
    driver.close()
