"""What a checker of histories is given and what it says."""

from __future__ import annotations

from dataclasses import dataclass

from tests.sim.model import Answer, Body, Deleted, Putted, Request, Txned


class UndecidedError(Exception):
    """The search took too many steps: the history may be linearizable or not."""


@dataclass(slots=True, eq=False)
class Operation:
    """One call of one client; times are seconds (or anything that ascends) of one clock."""

    client: int
    called: float
    request: Request
    returned: float | None = None
    """None: never answered, or by an error that leaves the outcome open (a timeout).

    An operation that surely had no effect (refused before it was proposed) is no part of a history.
    """
    answer: Answer | None = None
    serializable: bool = False
    """A read of some past state; it is held against the state of its revision only."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """True if the history is linearizable; else `text` shows where it breaks."""

    ok: bool
    text: str

    def __bool__(self) -> bool:
        return self.ok


def describe(op: Operation) -> str:
    """Return one line about an operation."""
    until = "never" if op.returned is None else f"{op.returned:.6f}"
    answer = "unknown" if op.answer is None else f"@{op.answer.revision} {op.answer.body}"
    return f"client {op.client} [{op.called:.6f}, {until}] {op.request} -> {answer}"


def is_effective(op: Operation) -> bool:
    """Tell whether an answered operation changed keys, by its answer."""
    assert op.answer is not None
    body = op.answer.body
    if isinstance(body, Txned):
        return any(_changed(answer) for answer in body.answers)
    return _changed(body)


def _changed(body: Body) -> bool:
    return isinstance(body, Putted) or (isinstance(body, Deleted) and body.count > 0)
