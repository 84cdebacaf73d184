"""Linearizability by revisions: see linearizability.py.

Slot R holds the write that made revision R and then everything that saw R and changed nothing.
The order of slots is the linearization, so what is checked is:
1. real time: nothing in a slot was called after something in a later slot had returned;
2. the model: each answer is the one the model gives in its slot;
3. a slot whose write nobody was told of has one operation of unknown outcome that fits: its call
   is no later than any return from this slot on, and it explains every key-value pair that
   anybody was shown with this mod revision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf

from tests.sim.model import KV, Answer, Changes, apply, shown, written
from tests.sim.verdict import Operation, UndecidedError, Verdict, describe, is_effective

Keys = dict[bytes, KV]
CONTRADICTION = -1


class ByRevision:
    """One check."""

    def __init__(
        self,
        operations: Sequence[Operation],
        revision: int,
        keys: Mapping[bytes, KV],
        steps_max: int,
    ) -> None:
        self._start = revision
        self._keys = dict(keys)
        self._steps = steps_max
        self._unknown = [op for op in operations if op.returned is None]
        self._writes: dict[int, Operation] = {}
        self._others: dict[int, list[Operation]] = {}
        self._evidence: dict[int, Keys] = {}
        self._pinned: dict[int, int] = {}
        self._broken = ""
        self._depth = 0
        self._why = ""
        self._trail: list[str] = []
        for op in operations:
            if op.returned is not None:
                self._place(op)
        self._end = max([revision, *self._writes, *self._others])
        self._pin(operations)

    def verdict(self) -> Verdict:
        """Check. Raises UndecidedError."""
        self._check_times()
        if not self._broken:
            self._search()
        return Verdict(not self._broken, self._broken)

    def _place(self, op: Operation) -> None:
        assert op.answer is not None
        revision = op.answer.revision
        if is_effective(op):
            twin = self._writes.setdefault(revision, op)
            if twin is not op:
                self._break(f"two writes made revision {revision}:", twin, op)
        else:
            self._others.setdefault(revision, []).append(op)
        if revision < self._start + is_effective(op):
            self._break(f"a revision below {self._start + is_effective(op)}:", op)
        for kv in shown(op.answer.body):
            known = self._evidence.setdefault(kv.mod_revision, {})
            if known.setdefault(kv.key, kv) != kv:
                self._break(f"{known[kv.key]} and {kv} have one mod revision:", op)

    def _break(self, text: str, *operations: Operation) -> None:
        if not self._broken:
            lines = [f"not linearizable: {text}"] + ["  " + describe(op) for op in operations]
            self._broken = "\n".join(lines)

    # --- real time --------------------------------------------------------------------------------

    def _check_times(self) -> None:
        """Rule 1, for what was answered; also the latest call each slot bears from the unknown."""
        latest: Operation | None = None
        ends = [inf] * (self._end + 2)
        for revision in sorted(self._writes.keys() | self._others.keys()):
            write = self._writes.get(revision)
            if write is not None:
                self._check_order(latest, write)
                latest = _later(latest, write)
            others = self._others.get(revision, ())
            for op in others:
                self._check_order(latest, op)
            for op in others:
                if not op.serializable:
                    latest = _later(latest, op)
            slot = [op.returned for op in (write, *others) if op is not None]
            if not self._broken:
                ends[revision] = min(end for end in slot if end is not None)
        for revision in range(self._end, self._start - 1, -1):
            ends[revision] = min(ends[revision], ends[revision + 1])
        self._ends = ends

    def _check_order(self, latest: Operation | None, op: Operation) -> None:
        assert op.returned is not None
        if latest is not None and latest.called > op.returned:
            text = "the first was called after the second had returned, and yet comes before it:"
            self._break(text, latest, op)

    # --- the model --------------------------------------------------------------------------------

    def _pin(self, operations: Sequence[Operation]) -> None:
        """Find the revision of every unknown operation that alone can have put a shown value."""
        writers: dict[tuple[bytes, bytes], set[int]] = {}
        for op in operations:
            for put in written(op.request):
                writers.setdefault((put.key, put.value), set()).add(id(op))
        for revision, keys in self._evidence.items():
            for kv in keys.values():
                who = writers.get((kv.key, kv.value), set())
                if len(who) == 1:
                    self._pinned.setdefault(next(iter(who)), revision)

    def _search(self) -> None:
        """Rules 2 and 3, depth first over the revisions nobody was told of."""
        revision, keys = self._run(self._start, dict(self._keys))
        if revision > self._end:
            return
        nobody: frozenset[int] = frozenset()
        stack = [(revision, keys, nobody, self._candidates(revision, nobody))]
        seen = set()
        if revision == CONTRADICTION:
            stack.clear()
        while stack:
            revision, keys, used, candidates = stack[-1]
            place = next(candidates, None)
            if place is None:
                stack.pop()
                continue
            following = self._fill(revision, keys, self._unknown[place])
            if following is None:
                continue
            now = used | {place}
            reached, following = self._run(revision, following)
            if reached > self._end:
                return
            state = reached, now, frozenset(following.values())
            if reached != CONTRADICTION and state not in seen:
                seen.add(state)
                stack.append((reached, following, now, self._candidates(reached, now)))
        self._broken = "not linearizable: " + self._why

    def _run(self, revision: int, keys: Keys) -> tuple[int, Keys]:
        """Check slot `revision`, whose write is done, and all up to the next gap.

        Return the first revision that is not done, or CONTRADICTION, and the state before it.
        """
        trail: list[Operation] = []
        while True:
            for op in self._others.get(revision, ()):
                if not self._agrees(revision, keys, op, trail):
                    return CONTRADICTION, keys
            revision += 1
            if revision > self._end:
                return revision, keys
            write = self._writes.get(revision)
            if write is None:
                self._note(revision, f"nothing explains revision {revision}", trail)
                return revision, keys
            if not self._agrees(revision - 1, keys, write, trail):
                return CONTRADICTION, keys
            trail.append(write)

    def _agrees(self, revision: int, keys: Keys, op: Operation, trail: list[Operation]) -> bool:
        answer, changes = self._apply(revision, keys, op)
        if answer != op.answer:
            text = f"after revision {revision} the answer would be {answer}, but:\n  {describe(op)}"
            self._note(revision, text, trail)
            return False
        _update(keys, changes)
        return True

    def _apply(self, revision: int, keys: Keys, op: Operation) -> tuple[Answer, Changes]:
        self._steps -= 1
        if self._steps < 0:
            raise UndecidedError("too many steps")
        return apply(revision, keys, op.request)

    def _note(self, revision: int, text: str, trail: list[Operation]) -> None:
        """Keep the contradiction that was reached last: others are of wrong guesses."""
        if revision >= self._depth:
            self._depth = revision
            before = "".join(f"\n  before: {describe(op)}" for op in trail[-5:])
            self._why = text + before

    # --- gaps -------------------------------------------------------------------------------------

    def _candidates(self, revision: int, used: frozenset[int]) -> Iterator[int]:
        """Yield the places of unknown operations that may have made a revision, best first."""
        fitting = [
            place
            for place, op in enumerate(self._unknown)
            if place not in used
            and op.called <= self._ends[revision]
            and self._pinned.get(id(op), revision) == revision
        ]
        fitting.sort(key=lambda p: (id(self._unknown[p]) not in self._pinned, p))
        return iter(fitting)

    def _fill(self, revision: int, keys: Keys, op: Operation) -> Keys | None:
        """Return the state after an unknown operation, None if it can't have made a revision."""
        _, changes = self._apply(revision - 1, keys, op)
        if not changes:
            return None
        for key, kv in self._evidence.get(revision, {}).items():
            if changes.get(key) != kv:
                return None
        after = dict(keys)
        _update(after, changes)
        return after


def _later(one: Operation | None, other: Operation) -> Operation:
    return other if one is None or other.called > one.called else one


def _update(keys: Keys, changes: dict[bytes, KV | None]) -> None:
    for key, kv in changes.items():
        if kv is None:
            keys.pop(key, None)
        else:
            keys[key] = kv
