"""What a gateway does about requests whose answers may have been lost: look first, then ask again.

Results are replicated with the data (RULES A3), so whatever was applied and never told is found in
the database. Only what is not there is proposed again.
"""

from __future__ import annotations

from actors.proposals import Proposals
from storage.reader import Reader


def look_up(reader: Reader, proposals: Proposals, batches: list[tuple[int, int]]) -> None:
    """Answer batches, as (first id, count), from the database as far as they were applied."""
    if not batches:
        return
    session = proposals.session
    with reader.view() as view:
        found = {
            first_id: view.session_results(session, range(first_id, first_id + count))
            for first_id, count in batches
        }
    for first_id, count in batches:
        results = found[first_id]
        if len(results) == count:
            proposals.applied(first_id, [results[first_id + place] for place in range(count)])


def recover(reader: Reader, proposals: Proposals, now: float) -> int:
    """Somebody on the way to the log is new: answer or propose again; return how many again."""
    look_up(reader, proposals, list(proposals.unanswered()))
    return proposals.propose_again(now)


def retry_late(reader: Reader, proposals: Proposals, now: float) -> int:
    """The same for batches that wait too long without any such notice."""
    due = proposals.late(now)
    look_up(reader, proposals, due)
    for first_id, _ in due:
        proposals.retry(first_id, now)
    return len(due)
