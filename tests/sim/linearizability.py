"""Is a history of client operations linearizable? etcd's model (model.py), two methods.

`revisions` uses that etcd tells its revision with every answer: writes that were acknowledged stand
in the order of their revisions, and whatever changed nothing stands right behind the write whose
revision it tells. What is left to find is which operation of unknown outcome made the revisions
that nobody was told of: only there it searches. Near linear, and complete.

`search` is the algorithm of Wing and Gong with Lowe's cache (as in porcupine): it tries operations
that may come first, and remembers (done, state). It needs no revisions; it is split by key if no
operation spans keys and none compares revisions.

    verdict = check(history)
    assert verdict, verdict.text

An operation without a return time was never answered: it may take effect at any time after its
call, also long after its client has gone on, or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.sim.model import KV, Answer, Request, Txn, apply, touched
from tests.sim.revisions import ByRevision
from tests.sim.verdict import Operation, UndecidedError, Verdict, describe

__all__ = ["Answer", "Operation", "UndecidedError", "Verdict", "check"]

STEPS_MAX = 5_000_000
Method = Literal["auto", "revisions", "search"]
State = tuple[int, tuple[KV, ...]]


def check(
    history: Iterable[Operation],
    *,
    method: Method = "auto",
    revision: int = 1,
    keys: Mapping[bytes, KV] | None = None,
    steps_max: int = STEPS_MAX,
) -> Verdict:
    """Judge a history that began at a revision with these keys; nobody else may have written.

    `auto` takes `revisions` if every answer tells its own. Raises UndecidedError after `steps_max`
    steps of search, ValueError for a history that is none (a return before its call).
    """
    operations = [op for op in history if not (op.returned is None and op.serializable)]
    for op in operations:
        if op.returned is not None and (op.answer is None or op.returned < op.called):
            raise ValueError(f"not an operation: {describe(op)}")
    known = keys or {}
    told = all(op.answer is None or op.answer.revision for op in operations)
    if method == "revisions" or (method == "auto" and told):
        if not told:
            raise ValueError("an answer without a revision")
        return ByRevision(operations, revision, known, steps_max).verdict()
    operations = [op for op in operations if not op.serializable]
    parts = _parts(operations, known)
    if parts is None:
        start = revision, tuple(sorted(known.values()))
        return _Search(operations, start, steps_max, relative=False).verdict()
    for key, part in sorted(parts.items()):
        kv = known.get(key)
        start = revision, (kv,) if kv else ()
        verdict = _Search(part, start, steps_max, relative=True).verdict()
        if not verdict:
            return verdict
    return Verdict(True, "")


def _parts(
    operations: Sequence[Operation], keys: Mapping[bytes, KV]
) -> dict[bytes, list[Operation]] | None:
    """Split by key; None if that can't be done, or revisions are told and so tie keys together."""
    parts: dict[bytes, list[Operation]] = {}
    for op in operations:
        names = touched(op.request)
        if names is None or len(names) != 1 or _compares_revisions(op.request):
            return None
        if op.answer is not None and op.answer.revision:
            return None
        parts.setdefault(names.pop(), []).append(op)
    return parts


def _compares_revisions(request: Request) -> bool:
    return isinstance(request, Txn) and any(c.target in ("create", "mod") for c in request.compares)


def _plain(answer: Answer) -> str:
    """Return an answer's body without revisions, as something that compares."""
    return repr(_strip(answer.body))


def _strip(value: object) -> object:
    if isinstance(value, KV):
        return value.key, value.value, value.version
    if isinstance(value, tuple):
        return tuple(_strip(item) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        fields = value.__dataclass_fields__
        return type(value).__name__, tuple(_strip(getattr(value, name)) for name in fields)
    return value


@dataclass(slots=True, eq=False)
class _Node:
    """A call or a return in the list of events; `match` is a call's return."""

    place: int
    match: _Node | None = None
    before: _Node | None = None
    after: _Node | None = None


class _Search:
    """One search; see the module docstring."""

    def __init__(
        self, operations: Sequence[Operation], start: State, steps_max: int, *, relative: bool
    ) -> None:
        self._operations = operations
        self._state = start
        self._relative = relative
        self._steps = steps_max
        self._head = _events(operations)
        self._left = sum(op.returned is not None for op in operations)
        self._longest: list[int] = []
        self._stuck = 0

    def verdict(self) -> Verdict:
        """Search. Raises UndecidedError."""
        seen: set[tuple[int, State]] = set()
        done = 0
        stack: list[tuple[_Node, State]] = []
        state = self._state
        node = self._head.after
        while self._left:
            assert node is not None, "there are returns ahead of everything not answered"
            if node.match is None:  # a return: what was called before it must have come first
                if len(stack) >= len(self._longest):
                    self._longest = [n.place for n, _ in stack]
                    self._stuck = node.place
                if not stack:
                    return Verdict(False, self._counterexample())
                node, state = stack.pop()
                done ^= 1 << node.place
                self._left += self._operations[node.place].returned is not None
                _unlift(node)
                node = node.after
                continue
            following = self._try(node.place, state)
            marked = done | 1 << node.place
            if following is None or (marked, following) in seen:
                node = node.after
                continue
            seen.add((marked, following))
            stack.append((node, state))
            done, state = marked, following
            self._left -= self._operations[node.place].returned is not None
            _lift(node)
            node = self._head.after
        return Verdict(True, "")

    def _try(self, place: int, state: State) -> State | None:
        """Return the state after an operation, None if its answer can't come from this one."""
        self._steps -= 1
        if self._steps < 0:
            raise UndecidedError("too many steps")
        op = self._operations[place]
        keys = {kv.key: kv for kv in state[1]}
        answer, changes = apply(state[0], keys, op.request)
        if op.answer is not None and op.returned is not None:
            if self._relative or not op.answer.revision:
                if _plain(answer) != _plain(op.answer):
                    return None
            elif answer != op.answer:
                return None
        if not changes:
            return state
        for key, kv in changes.items():
            if kv is None:
                keys.pop(key, None)
            else:
                keys[key] = kv
        return answer.revision, tuple(sorted(keys.values()))

    def _counterexample(self) -> str:
        lines = ["not linearizable; the longest order found ends with"]
        lines += ["  " + describe(self._operations[place]) for place in self._longest[-8:]]
        lines.append("and nothing lets this one return:")
        lines.append("  " + describe(self._operations[self._stuck]))
        return "\n".join(lines)


def _events(operations: Sequence[Operation]) -> _Node:
    """Return the head of the list of calls and returns in their order; the unanswered end it."""
    events: list[tuple[float, int, _Node]] = []
    for place, op in enumerate(operations):
        returns = _Node(place)
        # At the same moment a call comes before a return: then the two are concurrent.
        events.append((op.called, 0, _Node(place, returns)))
        end = float("inf") if op.returned is None else op.returned
        events.append((end, 1, returns))
    events.sort(key=lambda event: event[:2])
    head = last = _Node(-1)
    for _, _, node in events:
        last.after, node.before = node, last
        last = node
    return head


def _lift(call: _Node) -> None:
    for node in (call, call.match):
        assert node is not None
        assert node.before is not None
        node.before.after = node.after
        if node.after is not None:
            node.after.before = node.before


def _unlift(call: _Node) -> None:
    for node in (call.match, call):
        assert node is not None
        assert node.before is not None
        node.before.after = node
        if node.after is not None:
            node.after.before = node
