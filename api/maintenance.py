"""etcdserverpb.Maintenance: what one member can tell of itself, so far."""

from __future__ import annotations

from typing import Any

from api.backend import Backend
from api.grpc import Call, Method
from api.kv import parsed
from etcdpb.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    HashKVRequest,
    HashKVResponse,
    StatusRequest,
    StatusResponse,
)
from kv.errors import NO_LEADER, Code
from kv.version import CLUSTER_VERSION, VERSION

NOT_BUILT = "etcdserver: raising and clearing alarms is not implemented"


class MaintenanceService:
    """The methods of etcdserverpb.Maintenance."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        prefix = b"/etcdserverpb.Maintenance/"
        return {
            prefix + b"Status": Method.unary(self.status),
            prefix + b"Alarm": Method.unary(self.alarm),
            prefix + b"HashKV": Method.unary(self.hash_kv),
        }

    def status(self, call: Call, data: bytes) -> None:
        """Tell version, size, leader and indexes; served without asking anyone."""
        if parsed(StatusRequest, call, data) is None:
            return
        status = self._backend.status()

        def serve(view: Any, call: Call) -> None:
            response = StatusResponse(
                version=VERSION,
                dbSize=status.db_bytes,
                leader=status.leader,
                raftIndex=status.committed_index,
                raftTerm=status.term,
                raftAppliedIndex=view.applied_index,
                dbSizeInUse=status.db_in_use_bytes,
                isLearner=status.is_learner,
                storageVersion=CLUSTER_VERSION,
                dbSizeQuota=status.quota_bytes,
            )
            if not status.leader:
                response.errors.append(NO_LEADER.text)
            call.reply(self._backend.header(view.revision) + response.SerializeToString())

        self._backend.read(call, serve, serializable=True)

    def alarm(self, call: Call, data: bytes) -> None:
        """List the alarms raised; raising and clearing is refused until it is built."""
        request = parsed(AlarmRequest, call, data)
        if request is None:
            return
        if request.action != AlarmRequest.GET:
            call.finish(Code.UNIMPLEMENTED, NOT_BUILT)
            return

        def serve(view: Any, call: Call) -> None:
            response = AlarmResponse()
            for member_id, alarm in view.alarms():
                if request.alarm in (0, alarm) and request.memberID in (0, member_id):
                    response.alarms.add(memberID=member_id, alarm=alarm)
            call.reply(self._backend.header(view.revision) + response.SerializeToString())

        self._backend.read(call, serve, serializable=False)

    def hash_kv(self, call: Call, data: bytes) -> None:
        """Hash the history up to a revision; equal over members and over a compaction there."""
        request = parsed(HashKVRequest, call, data)
        if request is None:
            return

        def finished(revision: int, digest: int, compact_revision: int, at: int) -> None:
            response = HashKVResponse(
                hash=digest, compact_revision=compact_revision, hash_revision=at
            )
            call.reply(self._backend.header(revision) + response.SerializeToString())

        self._backend.hash_kv(call, request.revision, finished)
