"""etcdserverpb.Cluster: who the members are. Changing them needs peers and comes later."""

from __future__ import annotations

from typing import Any

from api.backend import Backend
from api.grpc import Call, Method
from api.kv import parsed
from etcdpb.rpc_pb2 import MemberListRequest, MemberListResponse


class ClusterService:
    """The methods of etcdserverpb.Cluster."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        return {b"/etcdserverpb.Cluster/MemberList": Method.unary(self.member_list)}

    def member_list(self, call: Call, data: bytes) -> None:
        """List the members; linearizable unless the request says otherwise."""
        request = parsed(MemberListRequest, call, data)
        if request is None:
            return

        def serve(view: Any, call: Call) -> None:
            response = MemberListResponse()
            for member in view.members():
                response.members.add(
                    ID=member.id,
                    name=member.name,
                    peerURLs=member.peer_urls,
                    clientURLs=member.client_urls,
                    isLearner=member.is_learner,
                )
            call.reply(self._backend.header(0) + response.SerializeToString())

        self._backend.read(call, serve, serializable=not request.linearizable)
