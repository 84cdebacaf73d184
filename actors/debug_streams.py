"""Server-sent events: what happens in a member, told to a browser or curl as it happens.

    GET /debug/actors/events?stream                     what root tells of its children
    GET /debug/actors/tap/ACTOR?stream&type=..&from=..  what an actor receives and sends, no values

Each stream has a thread of its own, which asks the actor by its control mailbox and hands text to
the event loop; it asks for the next only when less than a client's share of text waits to be sent.
A client that does not read holds up nobody: of a tap it is told how many messages it has missed
(`event: missed`), events it gets later. In silence it is told that the gateway lives
(`event: alive`): whoever hears nothing asks another one. Nothing is kept for a client that has
gone, and a stream ends when the server does.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from api.http1 import Request, Response
from control import events, tap
from control.observe import MemberView, ObserveError
from transport.control import ControlTimeoutError
from transport.log import Logger

STREAMS_MAX: Final = 8
"""Of one gateway; each is a thread and a connection."""
ALIVE_SECONDS: Final = 0.5
"""A stream with nothing to say says that so often; who has gone is noticed too."""
LOOK_SECONDS: Final = 0.1
_TYPE: Final = "text/event-stream"


def told(data: Any, *, event: str = "", number: str = "") -> str:
    """Return one event of a stream."""
    head = (f"id: {number}\n" if number else "") + (f"event: {event}\n" if event else "")
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n"


def page_failed(log: Logger, page: str, error: Exception) -> str:
    """Log a defect of a page, which ends nothing but its answer; return what the asker is told."""
    text = f"{type(error).__name__}: {error}"
    stack = "".join(traceback.format_exception(error))
    log.error("a debug page failed", page=page, error=text, stack=stack)
    return text


class EventStreams:
    """The open streams of one gateway. Used by the event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        headers: tuple[tuple[str, str], ...],
        log: Logger,
    ) -> None:
        """`headers` are sent besides the content type."""
        self._loop = loop
        self._headers = headers
        self._log = log
        self._open: set[_Stream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def events(self, request: Request, view: MemberView) -> Response | None:
        """Answer with what root tells, all of it first; Last-Event-ID says where to go on."""
        after = request.headers.get("last-event-id", "")
        return self._start(request, lambda stream: _tell_events(stream, view, after))

    def tap(self, request: Request, view: MemberView, name: str) -> Response | None:
        """Answer with what passes from now on; `type` and `from` let only these through."""
        query = request.query
        types, peers = query.get("type", []), query.get("from", [])
        return self._start(request, lambda stream: _tell_tap(stream, view, name, types, peers))

    def _start(self, request: Request, tell: Callable[[_Stream], None]) -> Response | None:
        if request.method == "HEAD":
            return Response(200, b"", _TYPE, self._headers)
        if len(self._open) >= STREAMS_MAX:
            text = json.dumps({"error": f"{STREAMS_MAX} streams are open already"})
            return Response(503, text.encode(), "application/json", self._headers)
        stream = _Stream(request, self._loop, self._open)
        request.on_close = request.on_drain = stream.end
        request.begin(Response(200, b"retry: 1000\n\n", _TYPE, self._headers))
        told_by = partial(self._tell, request.path, tell, stream)
        threading.Thread(target=told_by, name="stream", daemon=True).start()
        return None

    def _tell(self, path: str, tell: Callable[[_Stream], None], stream: _Stream) -> None:
        """Run on a stream's thread."""
        try:
            tell(stream)
        except (ObserveError, ControlTimeoutError) as error:
            stream.send(told({"error": str(error) or "no answer"}, event="failed"))
        except Exception as error:  # noqa: BLE001 - as net/http recovers a handler: it only looks
            stream.send(told({"error": page_failed(self._log, path, error)}, event="failed"))
        stream.finish()


class _Stream:
    """One answer without an end: its loop's side, and what its thread may call."""

    def __init__(
        self, request: Request, loop: asyncio.AbstractEventLoop, all_streams: set[_Stream]
    ) -> None:
        self._request = request
        self._loop = loop
        self._all = all_streams
        self._all.add(self)
        self._over = threading.Event()
        self._ready = threading.Event()
        self._ready.set()

    # --- on the event loop ------------------------------------------------------------------------

    def end(self) -> None:
        """End the answer, if its client is still there."""
        self._over.set()
        self._all.discard(self)
        self._request.end()

    def _push(self, text: str) -> None:
        self._request.write(text.encode())
        self._look()

    def _look(self) -> None:
        if self._over.is_set() or self._request.writable:
            self._ready.set()
        else:
            self._loop.call_later(LOOK_SECONDS, self._look)

    # --- on the stream's thread -------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nobody listens any more."""
        return self._over.is_set()

    @property
    def ready(self) -> bool:
        """Whether the client has taken enough of what was sent before."""
        return self._ready.is_set()

    def send(self, text: str) -> None:
        """Send; only while `ready`."""
        self._ready.clear()
        self._call(lambda: self._push(text))

    def pause(self, seconds: float) -> None:
        """Wait, but not once it is over."""
        self._over.wait(seconds)

    def finish(self) -> None:
        """End it."""
        self._call(self.end)

    def _call(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop has been closed: so has the server
            self._over.set()


class _Silence:
    """Since when a stream has said nothing."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def filled(self, text: str) -> str:
        """Return what to send in a round: what there is to say, or that the gateway lives."""
        now = time.monotonic()
        if not text and now - self._told < ALIVE_SECONDS:
            return ""
        self._told = now
        return text or told({}, event="alive")


def _tell_events(stream: _Stream, view: MemberView, after: str) -> None:
    """Tell of events until nobody listens; while root does not answer nothing is told."""
    silence = _Silence()
    with events.EventReader(view, after=after) as reader:
        while not stream.over:
            if stream.ready:
                new = reader.read() or ()
                text = "".join(told(one, number=events.event_id(one)) for one in new)
                if text := silence.filled(text):
                    stream.send(text)
            stream.pause(events.POLL_SECONDS)


def _tell_tap(
    stream: _Stream, view: MemberView, name: str, types: list[str], peers: list[str]
) -> None:
    """Tell of messages until nobody listens. Raises what TapReader raises."""
    silence = _Silence()
    missed = told_missed = 0
    with tap.TapReader(view, name, types=types, peers=peers) as reader:
        while not stream.over:
            messages, more = reader.read()
            if not stream.ready:  # read all the same: else the actor takes the tap for forgotten
                missed += len(messages)
                stream.pause(LOOK_SECONDS)
                continue
            text = "".join(told(one) for one in messages)
            if reader.dropped + missed > told_missed:
                told_missed = reader.dropped + missed
                text += told({"messages": told_missed}, event="missed")
            if text := silence.filled(text):
                stream.send(text)
            if not more:
                stream.pause(tap.POLL_SECONDS)
