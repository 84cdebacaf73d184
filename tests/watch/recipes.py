"""A client of the Lock and Election services on grpcio."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf.message import Message

from etcdpb import election_pb2 as epb
from etcdpb import lock_pb2 as lpb
from etcdpb import rpc_pb2 as pb
from tests.client import OPTIONS

METHODS: Final[dict[type[Message], tuple[str, type[Message]]]] = {
    lpb.LockRequest: ("/v3lockpb.Lock/Lock", lpb.LockResponse),
    lpb.UnlockRequest: ("/v3lockpb.Lock/Unlock", lpb.UnlockResponse),
    epb.CampaignRequest: ("/v3electionpb.Election/Campaign", epb.CampaignResponse),
    epb.ProclaimRequest: ("/v3electionpb.Election/Proclaim", epb.ProclaimResponse),
    epb.LeaderRequest: ("/v3electionpb.Election/Leader", epb.LeaderResponse),
    epb.ResignRequest: ("/v3electionpb.Election/Resign", epb.ResignResponse),
    pb.LeaseGrantRequest: ("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse),
    pb.LeaseRevokeRequest: ("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse),
}
OBSERVE: Final = "/v3electionpb.Election/Observe"
WAIT_SECONDS: Final = 10.0


class Recipes:
    """One connection."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(endpoint, options=OPTIONS)
        self._stubs: dict[type[Message], Any] = {
            request: self._channel.unary_unary(
                path,
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for request, (path, response) in METHODS.items()
        }
        self._observe: Any = self._channel.unary_stream(
            OBSERVE,
            request_serializer=epb.LeaderRequest.SerializeToString,
            response_deserializer=epb.LeaderResponse.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()

    def begin(self, request: Message, timeout: float = WAIT_SECONDS) -> Any:
        """Send a request; return grpcio's future."""
        return self._stubs[type(request)].future(request, timeout=timeout)

    def call(self, request: Message, timeout: float = WAIT_SECONDS) -> Any:
        """Send a request and return the response. Raises grpc.RpcError."""
        return self.begin(request, timeout).result()

    def error(self, request: Message, timeout: float = WAIT_SECONDS) -> tuple[str, str]:
        """Send a request that is refused; return the code's name and the text."""
        error = self.begin(request, timeout).exception()
        assert isinstance(error, grpc.Call), error
        return error.code().name, error.details() or ""

    def observe(self, name: bytes) -> Any:
        """Return an iterator over who leads."""
        return self._observe(epb.LeaderRequest(name=name), timeout=3 * WAIT_SECONDS)

    def lease(self, ttl: int = 60) -> int:
        """Grant a lease."""
        return int(self.call(pb.LeaseGrantRequest(TTL=ttl)).ID)

    def revoke(self, lease: int) -> None:
        """Revoke a lease."""
        self.call(pb.LeaseRevokeRequest(ID=lease))
