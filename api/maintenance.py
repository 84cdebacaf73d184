"""etcdserverpb.Maintenance: what a member tells of itself, alarms, and who is to lead."""

from __future__ import annotations

from typing import Any

from api.backend import Backend
from api.grpc import Call, Method
from api.kv import parsed
from etcdpb.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    HashKVRequest,
    HashKVResponse,
    MoveLeaderRequest,
    StatusRequest,
    StatusResponse,
)
from kv.batch import Op
from kv.errors import BAD_LEADER_TRANSFEREE, NO_LEADER, NOT_LEADER
from kv.version import VERSION


def alarm_name(alarm: int) -> str:
    """Return what Go prints of an alarm: its number if it has no name."""
    return AlarmType.Name(alarm) if alarm in AlarmType.values() else str(alarm)


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
            prefix + b"MoveLeader": Method.unary(self.move_leader),
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
                storageVersion=view.cluster_version() or "",
                dbSizeQuota=status.quota_bytes,
            )
            if not status.leader:
                response.errors.append(NO_LEADER.text)
            for member_id, alarm in view.alarms():
                response.errors.append(f"memberID:{member_id} alarm:{alarm_name(alarm)} ")
            response.downgradeInfo.SetInParent()
            call.reply(self._backend.header(view.revision) + response.SerializeToString())

        self._backend.read(call, serve, serializable=True)

    def alarm(self, call: Call, data: bytes) -> None:
        """List the alarms, from a fresh view; raise or clear one, through the log."""
        request = parsed(AlarmRequest, call, data)
        if request is None:
            return
        if request.action != AlarmRequest.GET:
            self._backend.propose(Op.ALARM, data, call)
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

    def move_leader(self, call: Call, data: bytes) -> None:
        """Have this member, which leads, hand leadership to a voter."""
        request = parsed(MoveLeaderRequest, call, data)
        if request is None:
            return
        if not self._backend.status().is_leader:
            call.fail(NOT_LEADER)
            return
        target = request.targetID

        def serve(view: Any, call: Call) -> None:
            if any(member.id == target and not member.is_learner for member in view.members()):
                self._backend.move_leader(call, target)
            else:
                call.fail(BAD_LEADER_TRANSFEREE)

        self._backend.read(call, serve, serializable=True)
