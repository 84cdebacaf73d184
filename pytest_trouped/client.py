"""An etcd client on grpcio with the raw messages: what it sends is what the test wrote.

It retries nothing and hides nothing. It is independent of the server's own HTTP/2 stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import Message

from etcdpb import rpc_pb2 as pb

# Request type -> (path, response type) of the unary methods the tests use.
METHODS: Final[dict[type[Message], tuple[str, type[Message]]]] = {
    pb.RangeRequest: ("/etcdserverpb.KV/Range", pb.RangeResponse),
    pb.PutRequest: ("/etcdserverpb.KV/Put", pb.PutResponse),
    pb.DeleteRangeRequest: ("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeResponse),
    pb.TxnRequest: ("/etcdserverpb.KV/Txn", pb.TxnResponse),
    pb.CompactionRequest: ("/etcdserverpb.KV/Compact", pb.CompactionResponse),
    pb.LeaseGrantRequest: ("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse),
    pb.LeaseRevokeRequest: ("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse),
    pb.LeaseTimeToLiveRequest: (
        "/etcdserverpb.Lease/LeaseTimeToLive",
        pb.LeaseTimeToLiveResponse,
    ),
    pb.LeaseLeasesRequest: ("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesResponse),
    pb.StatusRequest: ("/etcdserverpb.Maintenance/Status", pb.StatusResponse),
    pb.HashKVRequest: ("/etcdserverpb.Maintenance/HashKV", pb.HashKVResponse),
    pb.MemberListRequest: ("/etcdserverpb.Cluster/MemberList", pb.MemberListResponse),
    pb.MoveLeaderRequest: ("/etcdserverpb.Maintenance/MoveLeader", pb.MoveLeaderResponse),
}
RANGE_STREAM: Final = "/etcdserverpb.KV/RangeStream"
# A channel of its own for every client, quick to come back to a server that restarts.
OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 2000),  # how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]
TIMEOUT_SECONDS: Final = 10.0
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came back with: a message, or a status other than OK and its text."""

    code: str
    text: str
    message: Message | None

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.message is not None

    def __str__(self) -> str:
        return f"OK {self.message}".strip() if self.ok else f"{self.code}: {self.text}"


class CallError(Exception):
    """A call the test expected to succeed did not."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


class Client:
    """One connection to one endpoint (`host:port`)."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._channel = grpc.insecure_channel(endpoint, options=OPTIONS)
        self._stubs: dict[type[Message], Any] = {
            request: self._channel.unary_unary(
                path,
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for request, (path, response) in METHODS.items()
        }
        self._range_stream: Any = self._channel.unary_stream(
            RANGE_STREAM,
            request_serializer=pb.RangeRequest.SerializeToString,
            response_deserializer=pb.RangeStreamResponse.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._channel.close()

    def begin(
        self, request: Message, timeout: float = TIMEOUT_SECONDS, *, wait: bool = False
    ) -> Callable[[], Answer]:
        """Send a request; the returned function waits for its answer.

        `wait` lets the call wait for a connection instead of failing without one.
        """
        call = self._stubs[type(request)].future(request, timeout=timeout, wait_for_ready=wait)
        return lambda: _answer_of(call)

    def then(
        self, request: Message, done: Callable[[Answer], None], timeout: float = TIMEOUT_SECONDS
    ) -> None:
        """Send a request; `done` gets its answer on a thread of the connection."""
        call = self._stubs[type(request)].future(request, timeout=timeout)
        call.add_done_callback(lambda finished: done(_answer_of(finished)))

    def answer(
        self, request: Message, timeout: float = TIMEOUT_SECONDS, *, wait: bool = False
    ) -> Answer:
        """Send a request and return its answer, whatever it is."""
        return self.begin(request, timeout, wait=wait)()

    def call(self, request: Message, response: type[M], timeout: float = TIMEOUT_SECONDS) -> M:
        """Send a request that must succeed. Raises CallError."""
        answer = self.answer(request, timeout)
        if not isinstance(answer.message, response):
            raise CallError(answer)
        return answer.message

    def put(self, key: bytes, value: bytes, timeout: float = TIMEOUT_SECONDS) -> int:
        """Put a key and return the revision. Raises CallError."""
        request = pb.PutRequest(key=key, value=value)
        return self.call(request, pb.PutResponse, timeout).header.revision

    def get(
        self, key: bytes, *, serializable: bool = False, timeout: float = TIMEOUT_SECONDS
    ) -> bytes | None:
        """Return a key's value, None if it has none. Raises CallError."""
        request = pb.RangeRequest(key=key, serializable=serializable)
        response = self.call(request, pb.RangeResponse, timeout)
        return response.kvs[0].value if response.kvs else None

    def range(self, request: pb.RangeRequest, timeout: float = TIMEOUT_SECONDS) -> pb.RangeResponse:
        """Send a Range that must succeed. Raises CallError."""
        return self.call(request, pb.RangeResponse, timeout)

    def range_stream(self, request: pb.RangeRequest) -> Answer:
        """Collect a RangeStream into the RangeResponse it stands for."""
        whole = pb.RangeResponse()
        try:
            for part in self._range_stream(request, timeout=TIMEOUT_SECONDS):
                whole.MergeFrom(part.range_response)
        except grpc.RpcError as error:
            return _failure(error)
        return Answer("OK", "", whole)

    def raw(self, path: str, payload: bytes, timeout: float = TIMEOUT_SECONDS) -> Answer:
        """Send bytes as they are to a unary method; an OK answer has an empty message."""
        stub: Any = self._channel.unary_unary(path)
        call = stub.future(payload, timeout=timeout)
        answer = _answer_of(call)
        return Answer("OK", "", pb.HashRequest()) if answer.code == "OK" else answer


def paged(client: Client, key: bytes, range_end: bytes, page: int = 5000) -> Iterator[Any]:
    """Yield all keys of a range as KeyValues, page by page, at one revision."""
    revision = 0
    while True:
        request = pb.RangeRequest(key=key, range_end=range_end, limit=page, revision=revision)
        response = client.range(request, timeout=60.0)
        revision = revision or response.header.revision
        yield from response.kvs
        if not response.more:
            return
        key = response.kvs[-1].key + b"\0"


def _answer_of(call: Any) -> Answer:
    try:
        return Answer("OK", "", call.result())
    except grpc.RpcError as error:
        return _failure(error)


def _failure(error: Any) -> Answer:
    code, text = "UNKNOWN", str(error)
    with suppress(AttributeError):
        code, text = error.code().name, error.details() or ""
    return Answer(code, text, None)
