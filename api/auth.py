"""etcdserverpb.Auth while authentication is off, as it always is: so far there are no users.

Clients that are given a user name ask for a token first and go on without when they hear that
authentication is not enabled. Each answer needs a quorum, as etcd's.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import Message

from api.backend import Backend
from api.grpc import Call, Method
from api.kv import parsed
from etcdpb.rpc_pb2 import (
    AuthDisableRequest,
    AuthDisableResponse,
    AuthenticateRequest,
    AuthStatusRequest,
    AuthStatusResponse,
)
from kv.errors import AUTH_NOT_ENABLED

AUTH_REVISION: Final = 1
"""Of an auth store that nobody has ever changed."""


class AuthService:
    """The methods of etcdserverpb.Auth that have an answer without users."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        prefix = b"/etcdserverpb.Auth/"
        return {
            prefix + b"Authenticate": Method.unary(self.authenticate),
            prefix + b"AuthStatus": Method.unary(self.status),
            prefix + b"AuthDisable": Method.unary(self.disable),
        }

    def authenticate(self, call: Call, data: bytes) -> None:
        """Give no token: FAILED_PRECONDITION, whoever asks."""
        if parsed(AuthenticateRequest, call, data) is None:
            return

        def serve(view: Any, call: Call) -> None:
            call.fail(AUTH_NOT_ENABLED)

        self._backend.read(call, serve, serializable=False)

    def status(self, call: Call, data: bytes) -> None:
        """Tell that authentication is off."""
        if parsed(AuthStatusRequest, call, data) is not None:
            self._answer(call, AuthStatusResponse(enabled=False, authRevision=AUTH_REVISION))

    def disable(self, call: Call, data: bytes) -> None:
        """Turn off what is off: nothing changes."""
        if parsed(AuthDisableRequest, call, data) is not None:
            self._answer(call, AuthDisableResponse())

    def _answer(self, call: Call, response: Message) -> None:
        body = response.SerializeToString()

        def serve(view: Any, call: Call) -> None:
            call.reply(self._backend.header(view.revision) + body)

        self._backend.read(call, serve, serializable=False)
