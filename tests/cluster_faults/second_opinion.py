"""The same history before the simulation's checker, which knows nothing of the store's contents.

It shares no code with `history`: it runs etcd's model over what clients saw and searches for an
order, where `history` reads the true order back from the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.cluster_faults.history import EVERYTHING, KeyState, Kind, Operation, Outcome, State
from tests.sim import model
from tests.sim.linearizability import Verdict, check
from tests.sim.verdict import Operation as Judged


def judge(revision: int, state: State, operations: Iterable[Operation]) -> Verdict:
    """Judge a history that began with a store at a revision. Raises UndecidedError."""
    judged = [
        translated(number, each)
        for number, each in enumerate(operations)
        if each.outcome is not Outcome.FAILED
        and not (each.outcome is Outcome.UNKNOWN and each.kind in (Kind.GET, Kind.SCAN))
    ]
    return check(judged, method="revisions", revision=revision, keys=_keys(state))


def translated(number: int, operation: Operation) -> Judged:
    """Return an operation in the other checker's words; an unknown one has no return."""
    request = _request(operation)
    if operation.outcome is Outcome.UNKNOWN:
        return Judged(number, operation.called, request)
    answer = model.Answer(operation.revision, _body(operation))
    return Judged(number, operation.called, request, operation.returned, answer)


def _request(operation: Operation) -> model.Request:
    key = operation.key
    if operation.kind is Kind.PUT:
        return model.Put(key, operation.value)
    if operation.kind is Kind.DELETE:
        return model.Delete(key)
    if operation.kind is Kind.GET:
        return model.Range(key)
    if operation.kind is Kind.SCAN:
        return model.Range(EVERYTHING, EVERYTHING)
    return model.Txn(
        (model.Compare("mod", key, "=", operation.compare),),
        (model.Put(key, operation.value),),
        (model.Range(key),),
    )


def _body(operation: Operation) -> model.Body:
    shown = tuple(kv for _, kv in sorted(_keys(operation.found).items()))
    if operation.kind is Kind.PUT:
        return model.Putted()
    if operation.kind is Kind.DELETE:
        return model.Deleted(operation.count)
    if operation.kind in (Kind.GET, Kind.SCAN):
        return model.Ranged(shown)
    if operation.succeeded:
        return model.Txned(True, (model.Putted(),))
    return model.Txned(False, (model.Ranged(shown),))


def _keys(state: Mapping[bytes, KeyState]) -> dict[bytes, model.KV]:
    return {
        key: model.KV(key, held.value, held.create_revision, held.mod_revision, held.version)
        for key, held in state.items()
    }
