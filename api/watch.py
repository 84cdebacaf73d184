"""etcdserverpb.Watch: the requests of streams, and the bytes of their responses.

Facts of etcd's service (server/etcdserver/api/v3rpc/watch.go) kept here:
1. A create is always answered by `created`; a refused one has `canceled`, watch id -1 and a reason.
2. Ids a client leaves to us count up from 0 and skip those in use. A compacted watcher keeps its id
   until the client cancels it.
3. A cancel is answered if the id is known, else ignored; a request without content is ignored.
4. Progress of the whole stream (watch id -1) is told when all its watchers are synced. A watcher
   that waits for a revision of the future has no progress, so then nothing is told. Requests that
   come in one turn of the loop have one answer.
5. The cancel of a compacted watcher has a header without revision.
"""

from __future__ import annotations

import heapq
import random
import weakref
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from api.backend import Backend
from api.grpc import Call, Method
from api.grpc_call import PREFIX
from etcdpb.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from kv.errors import COMPACTED, Code
from kv.watch import (
    DUPLICATE_ID,
    NO_DELETE,
    NO_PUT,
    PREV_KV,
    EmptyRangeError,
    Sink,
    Watcher,
    fragments,
    watched_range,
)
from raft.varint import varint

INVALID_ID: Final = -1
MALFORMED: Final = "grpc: error unmarshalling request: proto: cannot parse"
OVERHEAD_BYTES: Final = 512 * 1024  # etcd's grpcOverheadBytes
ROOM_BYTES: Final = 64 * 1024
HEADER_BYTES: Final = 64
_FILTERS: Final = {WatchCreateRequest.NOPUT: NO_PUT, WatchCreateRequest.NODELETE: NO_DELETE}
_IS_FRAGMENT: Final = b"\x38\x01"  # WatchResponse.fragment


class Hub(Protocol):
    """Where watchers live."""

    @property
    def revision(self) -> int:
        """What synced watchers have everything up to."""

    def revision_now(self) -> int:
        """Return the store's revision."""

    def add(self, watcher: Watcher) -> int:
        """Take a watcher in; return the store's revision."""

    def remove(self, watcher: Watcher) -> None:
        """Forget a watcher."""

    def resume(self, sink: Sink) -> None:
        """Go on with the watchers of a client that reads again."""

    def is_synced(self, watcher: Watcher) -> bool:
        """Whether the watcher has everything up to `revision`."""

    def is_behind(self, watcher: Watcher) -> bool:
        """Whether there is something to tell the watcher that was not told."""

    def hurry(self) -> None:
        """The store may have grown, and somebody waits to be told."""


class WatchService:
    """The method of etcdserverpb.Watch. `tick` and `turned` are called by the gateway."""

    def __init__(
        self,
        backend: Backend,
        hub: Hub,
        *,
        max_request_bytes: int,
        progress_seconds: float,
    ) -> None:
        self.backend = backend
        self.hub = hub
        self.fragment_bytes = max_request_bytes + OVERHEAD_BYTES
        self.streams: dict[WatchStream, None] = {}
        self.waiting: dict[WatchStream, None] = {}  # asked for progress while behind
        self._progress_seconds = progress_seconds
        self._due: list[tuple[float, int, weakref.ref[WatchStream]]] = []
        self._serial = 0
        self._now = 0.0

    def methods(self) -> dict[bytes, Method]:
        """Return what to route here."""
        return {b"/etcdserverpb.Watch/Watch": Method.stream(self.open)}

    def open(self, call: Call) -> WatchStream:
        """Take a new stream."""
        stream = WatchStream(self, call)
        self.streams[stream] = None
        return stream

    def tick(self, now: float) -> None:
        """Tell the progress that is due."""
        self._now = now
        while self._due and self._due[0][0] <= now:
            stream = heapq.heappop(self._due)[2]()
            if stream is not None and stream in self.streams:
                stream.notify_progress()
                self.notify_later(stream)

    def notify_later(self, stream: WatchStream) -> None:
        """Have a stream's watchers told their progress after a while, not all streams at once."""
        self._serial += 1
        pause = self._progress_seconds * random.uniform(1.0, 1.1)
        heapq.heappush(self._due, (self._now + pause, self._serial, weakref.ref(stream)))

    def turned(self) -> None:
        """Answer progress requests whose streams have caught up."""
        for stream in list(self.waiting):
            stream.tell_progress()


class WatchStream:
    """One client's stream of watchers; a kv.watch.Sink and an api.grpc.StreamHandler."""

    def __init__(self, service: WatchService, call: Call) -> None:
        self.call = call
        self._service = service
        self._hub = service.hub
        self._header = service.backend.header
        self._watchers: dict[int, Watcher | None] = {}  # None: compacted
        self._live = 0  # watchers not compacted: not to be counted for each request of a flood
        self._next_id = 0
        self._notified = False
        self._out: list[bytes] = []
        self._messages = 0
        self._room = 0

    # --- requests -----------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        """Take a request."""
        try:
            request = WatchRequest.FromString(message)
        except DecodeError:
            self.end()
            self.call.finish(Code.INTERNAL, MALFORMED)
            return
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            self._cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._ask_progress()

    def on_half_close(self) -> None:
        """Go on: events may be all the client is interested in."""

    def on_cancel(self) -> None:
        """Forget the watchers."""
        self.end()

    def on_drain(self) -> None:
        """Go on with the watchers that found no room."""
        self._hub.resume(self)

    def end(self) -> None:
        """Forget everything; the call itself is ended by others."""
        self._service.streams.pop(self, None)
        self._service.waiting.pop(self, None)
        for watcher in self._watchers.values():
            if watcher is not None:
                self._hub.remove(watcher)
        self._watchers = {}
        self._live = 0

    def _create(self, request: WatchCreateRequest) -> None:
        if request.start_revision < 0:
            self._refuse(COMPACTED.text)
            return
        try:
            interval = watched_range(request.key, request.range_end)
        except EmptyRangeError as error:
            self._refuse(str(error))
            return
        identity = request.watch_id or self._free_id()
        if identity in self._watchers:
            self._refuse(DUPLICATE_ID)
            return
        options = PREV_KV if request.prev_kv else 0
        for chosen in request.filters:
            options |= _FILTERS.get(chosen, 0)
        watcher = Watcher(
            self,
            identity,
            interval,
            start=request.start_revision,
            options=options,
            fragment=request.fragment,
            wants_progress=request.progress_notify,
        )
        self._watchers[identity] = watcher
        self._live += 1
        revision = self._hub.add(watcher)
        self._control(revision, WatchResponse(watch_id=identity, created=True))
        if request.progress_notify and not self._notified:
            self._notified = True
            self._service.notify_later(self)

    def _free_id(self) -> int:
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _refuse(self, reason: str) -> None:
        self._control(
            self._hub.revision_now(),
            WatchResponse(watch_id=INVALID_ID, created=True, canceled=True, cancel_reason=reason),
        )

    def _cancel(self, identity: int) -> None:
        if identity not in self._watchers:
            return
        watcher = self._watchers.pop(identity)
        if watcher is not None:
            self._live -= 1
            self._hub.remove(watcher)
        self._control(self._hub.revision_now(), WatchResponse(watch_id=identity, canceled=True))

    # --- responses ----------------------------------------------------------------------------

    def _control(self, revision: int, response: WatchResponse) -> None:
        """Send what is no event; never refused, so that nothing of the kind is lost."""
        self.flush()
        self.call.send(self._header(revision) + response.SerializeToString())

    def take(self, watcher: Watcher, revision: int, events: list[bytes], size: int) -> bool:
        """See kv.watch.Sink."""
        if self._room <= 0:
            self.flush()
            if not self.call.writable:
                return False
            self._room = ROOM_BYTES
        self._room -= size + HEADER_BYTES
        watcher.progress = False
        head = self._header(revision) + b"\x10" + varint(watcher.id)
        if watcher.fragment and size + HEADER_BYTES >= self._service.fragment_bytes:
            parts = fragments(events, HEADER_BYTES, self._service.fragment_bytes)
            for part in parts[:-1]:
                self._add(head + _IS_FRAGMENT, part, sum(map(len, part)))
            events = parts[-1]
            size = sum(map(len, events))
        self._add(head, events, size)
        return True

    def _add(self, head: bytes, events: list[bytes], size: int) -> None:
        out = self._out
        out.append(PREFIX.pack(0, len(head) + size))
        out.append(head)
        out += events
        self._messages += 1

    def flush(self) -> None:
        """Send the events taken; room is looked for anew with the next ones."""
        self._room = 0
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            messages, self._messages = self._messages, 0
            self.call.send_framed(data, messages)

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """See kv.watch.Sink."""
        self._watchers[watcher.id] = None
        self._live -= 1
        self._control(
            0,
            WatchResponse(watch_id=watcher.id, canceled=True, compact_revision=compact_revision),
        )

    # --- progress -----------------------------------------------------------------------------

    def _ask_progress(self) -> None:
        """Have progress told at the end of the hub's next turn; many requests are one till then."""
        if self._live:
            self._service.waiting[self] = None
            self._hub.hurry()

    def tell_progress(self) -> None:
        """Answer a progress request when the last watcher has caught up."""
        watchers = [watcher for watcher in self._watchers.values() if watcher is not None]
        if any(self._hub.is_behind(watcher) for watcher in watchers):
            return
        del self._service.waiting[self]
        if watchers and all(map(self._hub.is_synced, watchers)):
            self._control(self._hub.revision, WatchResponse(watch_id=INVALID_ID))

    def notify_progress(self) -> None:
        """Tell each watcher that asked for it where it is, unless it has had events since."""
        for watcher in self._watchers.values():
            if watcher is None or not watcher.wants_progress:
                continue
            if watcher.progress and self._hub.is_synced(watcher):
                self._control(self._hub.revision, WatchResponse(watch_id=watcher.id))
            watcher.progress = True
