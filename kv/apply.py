"""Requests that write, one function each; they return the result that is kept and sent.

A response's body is its serialised message without header: the gateway that answers puts its own
member id and term before it. Facts are those of etcd 3.5's applierV3backend.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

from etcdpb.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    CompactionRequest,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    TxnRequest,
)
from kv.errors import (
    COMPACTED,
    FUTURE_REV,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    RESPONSE_TOO_LARGE,
    TOO_MANY_CHANGES,
    EtcdError,
)
from kv.range import add_kvs, range_bounds
from kv.store import KV, SUB_MAX, Progress, Reads, Result
from kv.tally import Tally
from kv.writer import HistoryWriter

NO_LEASE: Final = 0
ALARMS: Final = (AlarmType.NOSPACE, AlarmType.CORRUPT)


def result_of(writer: HistoryWriter, response: Message, tally: Tally) -> Result:
    """Return the result of what was carried out."""
    if tally.is_over:
        return -RESPONSE_TOO_LARGE.number
    body = response.SerializeToString()
    return (writer.revision, body) if body else writer.revision


def put(writer: HistoryWriter, request: PutRequest, tally: Tally) -> PutResponse:
    """Put one key of a checked request; return the response without header.

    A key that a delete of the same txn took away from under `ignore_value` or `ignore_lease` (etcd
    panics there) counts as one with no value and no lease.
    """
    response = PutResponse()
    value, lease = request.value, request.lease
    if request.prev_kv or request.ignore_value or request.ignore_lease:
        previous = writer.get(request.key)
        if request.ignore_value:
            value = previous[1] if previous else b""
        if request.ignore_lease:
            lease = previous[5] if previous else NO_LEASE
        if request.prev_kv and previous and tally.takes((previous,)):
            set_kv(response, previous)
    writer.put(request.key, value, lease)
    return response


def set_kv(response: PutResponse, kv: KV) -> None:
    """Fill prev_kv."""
    target = response.prev_kv
    target.key, target.value, target.create_revision, target.mod_revision = kv[:4]
    target.version, target.lease = kv[4:]


def needs_previous(request: PutRequest) -> bool:
    """Tell whether the key must be there."""
    return request.ignore_value or request.ignore_lease


def apply_put(writer: HistoryWriter, request: PutRequest, tally: Tally) -> Result:
    """Put one key. Raises EtcdError: the lease is checked first, then the key."""
    if not writer.has_lease(request.lease):
        raise EtcdError(LEASE_NOT_FOUND)
    if needs_previous(request) and writer.get(request.key) is None:
        raise EtcdError(KEY_NOT_FOUND)
    return result_of(writer, put(writer, request, tally), tally)


def delete_range(
    writer: HistoryWriter, request: DeleteRangeRequest, tally: Tally
) -> DeleteRangeResponse:
    """Delete a key or a range; return the response without header."""
    response = DeleteRangeResponse()
    found: list[KV] = []
    if request.range_end:
        found += writer.scan(request.key, range_bounds(request.range_end))
    else:
        kv = writer.get(request.key)
        if kv is not None:
            found.append(kv)
    if request.prev_kv and tally.takes(found):
        add_kvs(response.prev_kvs, found)
    for kv in found:
        writer.delete(kv[0])
    response.deleted = len(found)
    return response


def apply_delete_range(writer: HistoryWriter, request: DeleteRangeRequest, tally: Tally) -> Result:
    """Delete a key or a range. Raises EtcdError."""
    check_changes(deletes(writer, request))
    return result_of(writer, delete_range(writer, request, tally), tally)


def deletes(reads: Reads, request: DeleteRangeRequest) -> int:
    """Return how many keys a request deletes at most."""
    if not request.range_end:
        return 1
    return reads.count(request.key, range_bounds(request.range_end))


def check_changes(count: int) -> None:
    """Refuse more changes than a revision can hold, before anything has changed."""
    if count > SUB_MAX:
        raise EtcdError(TOO_MANY_CHANGES)


def apply_compact(progress: Progress, request: CompactionRequest) -> Result:
    """Forget history below a revision, logically; pruning follows. Raises EtcdError."""
    if request.revision <= progress.compact_revision:
        raise EtcdError(COMPACTED)
    if request.revision > progress.revision:
        raise EtcdError(FUTURE_REV)
    progress.compact_revision = request.revision
    return progress.revision


def apply_alarm(alarms: set[tuple[int, int]], revision: int, request: AlarmRequest) -> Result:
    """Raise, clear or list alarms; clearing one that isn't raised changes nothing.

    Nor does raising one that does not exist (etcd panics there).
    """
    alarm = (request.memberID, int(request.alarm))
    told: list[tuple[int, int]] = []
    if request.action == AlarmRequest.GET:
        told = sorted(a for a in alarms if request.alarm in (AlarmType.NONE, a[1]))
    elif request.action == AlarmRequest.ACTIVATE and request.alarm in ALARMS:
        alarms.add(alarm)
        told = [alarm]
    elif request.action == AlarmRequest.DEACTIVATE and alarm in alarms:
        alarms.remove(alarm)
        told = [alarm]
    response = AlarmResponse()
    for member_id, kind in told:
        response.alarms.add(memberID=member_id, alarm=kind)
    body = response.SerializeToString()
    return (revision, body) if body else revision


def takes_space(request: TxnRequest) -> bool:
    """Tell whether a txn is refused while the NOSPACE alarm is raised: any put in it."""
    return any(op.HasField("request_put") for op in request.success) or any(
        op.HasField("request_put") for op in request.failure
    )
