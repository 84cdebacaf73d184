"""grpc.health.v1.Health: SERVING once the member is ready."""

from __future__ import annotations

from collections.abc import Callable

from api.grpc import Call, Method
from api.kv import parsed
from etcdpb.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse
from kv.errors import Code


class HealthService:
    """The methods of grpc.health.v1.Health. Only the service "" (the whole server) is known."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._watchers: set[Call] = set()

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        prefix = b"/grpc.health.v1.Health/"
        return {
            prefix + b"Check": Method.unary(self.check),
            prefix + b"List": Method.unary(self.list_all),
            prefix + b"Watch": Method.server_stream(self.watch),
        }

    def check(self, call: Call, data: bytes) -> None:
        """Answer SERVING or NOT_SERVING; another service's name is NOT_FOUND."""
        request = parsed(HealthCheckRequest, call, data)
        if request is None:
            return
        if request.service:
            call.finish(Code.NOT_FOUND, "unknown service")
        else:
            call.reply(self._now().SerializeToString())

    def list_all(self, call: Call, data: bytes) -> None:
        """Answer the state of every service known: the whole server."""
        response = HealthListResponse()
        response.statuses[""].CopyFrom(self._now())
        call.reply(response.SerializeToString())

    def watch(self, call: Call, data: bytes) -> None:
        """Send the state now and whenever it changes."""
        request = parsed(HealthCheckRequest, call, data)
        if request is None:
            return
        if request.service:
            unknown = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
            call.send(unknown.SerializeToString())
            return
        self._watchers.add(call)
        call.on_close = lambda: self._watchers.discard(call)
        call.send(self._now().SerializeToString())

    def changed(self) -> None:
        """Tell every watcher the new state."""
        for call in list(self._watchers):
            call.send(self._now().SerializeToString())

    def _now(self) -> HealthCheckResponse:
        ready = self._is_ready()
        serving = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=serving)
