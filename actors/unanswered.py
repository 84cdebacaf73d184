"""What a gateway does about requests whose answers may have been lost: look first, then ask again.

Results are replicated with the data (RULES A3), so whatever was applied and never told is found in
the database. Only what is not there is proposed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.proposals import Proposals
from storage.reader import Reader
from transport.counters import Board, Cell

WORK_SECONDS: Final = 0.25
"""Half of the time after which a batch is proposed again."""
Found = Callable[[int, int], None]
"""Is told (first id, count) of a batch that the database answered, in place of a message."""


def applier_is_at_work(board: Board, now: float) -> bool:
    """Whether the applier has been in one message for a while; `now` by CLOCK_MONOTONIC.

    That nothing is applied would not do: the last entries may be lost on their way to it, and
    only a later one shows it the gap.
    """
    since = board.get("applier", Cell.SINCE_NS) / 1e9
    return bool(board.get("applier", Cell.TAG)) and now - since >= WORK_SECONDS


def look_up(
    reader: Reader, proposals: Proposals, batches: list[tuple[int, int]], found: Found
) -> None:
    """Answer batches, as (first id, count), from the database as far as they were applied."""
    if not batches:
        return
    session = proposals.session
    with reader.view() as view:
        answers = {
            first_id: view.session_results(session, range(first_id, first_id + count))
            for first_id, count in batches
        }
    for first_id, count in batches:
        results = answers[first_id]
        if len(results) == count:
            found(first_id, count)
            proposals.applied(first_id, [results[first_id + place] for place in range(count)])


def recover(reader: Reader, proposals: Proposals, now: float, found: Found) -> int:
    """Somebody on the way to the log is new: answer or propose again; return how many again."""
    look_up(reader, proposals, list(proposals.unanswered()), found)
    return proposals.propose_again(now)


def retry_late(
    reader: Reader, proposals: Proposals, now: float, found: Found, *, at_work: bool
) -> int:
    """The same for batches that wait too long without any such notice.

    Not while the applier is `at_work` for long: they may be what it is at, or stand behind that,
    and a copy of a txn over a big range would cost it as much again.
    """
    due = proposals.late(now)
    look_up(reader, proposals, due, found)
    if at_work:
        return 0
    for first_id, _ in due:
        proposals.retry(first_id, now)
    return len(due)
