"""Watch streams on grpcio: raw requests out, raw responses in, nothing retried or merged."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import grpc

from etcdpb import rpc_pb2 as pb
from tests.client import OPTIONS

WATCH: Final = "/etcdserverpb.Watch/Watch"
WAIT_SECONDS: Final = 10.0


class StreamEndedError(Exception):
    """The stream has ended; the text is the status."""


class Watches:
    """Streams on one connection of their own."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(endpoint, options=OPTIONS)
        self._stub: Any = self._channel.stream_stream(
            WATCH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )
        self._streams: list[Stream] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for stream in self._streams:
            stream.close()
        self._channel.close()

    def stream(self, *metadata: tuple[str, str]) -> Stream:
        """Open a stream."""
        stream = Stream(self._stub, metadata)
        self._streams.append(stream)
        return stream


class Stream:
    """One stream. `next` gives its responses in order."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._requests: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        self._responses: queue.SimpleQueue[pb.WatchResponse | str] = queue.SimpleQueue()
        self._reads = threading.Event()
        self._reads.set()
        self._call = stub(self._requests_to_send(), metadata=metadata)
        threading.Thread(target=self._receive, daemon=True).start()

    def _requests_to_send(self) -> Iterator[pb.WatchRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _receive(self) -> None:
        try:
            for response in self._call:
                self._reads.wait()
                self._responses.put(response)
            self._responses.put("OK")
        except grpc.RpcError as error:
            self._responses.put(f"{error.code().name}: {error.details()}")

    def send(self, request: pb.WatchRequest) -> None:
        """Send a request as it is."""
        self._requests.put(request)

    def pause(self) -> None:
        """Read no more from the connection than grpcio takes in by itself."""
        self._reads.clear()

    def go_on(self) -> None:
        """Read again."""
        self._reads.set()

    def half_close(self) -> None:
        """Send no more."""
        self._requests.put(None)

    def create(self, key: bytes, range_end: bytes = b"", **options: Any) -> None:
        """Ask for a watcher; the options are the fields of WatchCreateRequest."""
        create = pb.WatchCreateRequest(key=key, range_end=range_end, **options)
        self.send(pb.WatchRequest(create_request=create))

    def watch(self, key: bytes, range_end: bytes = b"", **options: Any) -> pb.WatchResponse:
        """Create a watcher and return the answer."""
        self.create(key, range_end, **options)
        return self.until(lambda response: response.created)

    def cancel(self, watch_id: int) -> None:
        """Ask for a watcher's end."""
        self.send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self) -> None:
        """Ask how far the stream is."""
        self.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    def next(self, timeout: float = WAIT_SECONDS) -> pb.WatchResponse:
        """Return the next response. Raises StreamEndedError, or queue.Empty after the timeout."""
        response = self._responses.get(block=timeout > 0, timeout=timeout)
        if isinstance(response, str):
            raise StreamEndedError(response)
        return response

    def poll(self) -> pb.WatchResponse | None:
        """Return a response that is there already. Raises StreamEndedError."""
        try:
            return self.next(0)
        except queue.Empty:
            return None

    def until(self, wanted: Callable[[pb.WatchResponse], bool]) -> pb.WatchResponse:
        """Return the next response that is wanted; others are lost."""
        while not wanted(response := self.next()):
            pass
        return response

    def events(self, count: int) -> list[tuple[int, str, bytes, bytes]]:
        """Return (mod revision, type, key, value) of the next events, `count` at least."""
        found: list[tuple[int, str, bytes, bytes]] = []
        while len(found) < count:
            found += plain(self.next())
        return found

    def close(self) -> None:
        """End the stream."""
        self._requests.put(None)
        self._reads.set()
        self._call.cancel()


def plain(response: pb.WatchResponse) -> list[tuple[int, str, bytes, bytes]]:
    """Return (mod revision, type, key, value) of a response's events."""
    return [
        (event.kv.mod_revision, "DELETE" if event.type else "PUT", event.kv.key, event.kv.value)
        for event in response.events
    ]
