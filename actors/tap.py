"""Taps: a live copy of what an actor receives and sends, for people.

While nobody taps this costs one look at an attribute. A tap keeps references to messages, within
TAP_MESSAGES and TAP_BYTES, and puts them into words only when it is read (on the control thread); a
tap that nobody reads ends by itself, and what does not fit is counted.

Values, passwords and tokens: bytes and texts in messages are told by their length. Asked for
values, a tap shows the requests in a batch, but only of the kinds that can hold no secret; and the
`message` whole, so that it can be replayed into an isolated actor.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from google.protobuf import text_format

from actors import messages
from actors.json_form import SHOWN, replayable, to_json
from kv.batch import BatchDecodeError, Op, decode_batch

TAP_MESSAGES: Final = 2000
TAP_BYTES: Final = 8 << 20
TAPS_MAX: Final = 4
UNREAD_SECONDS: Final = 3.0
READ_MAX: Final = 100
LIST_MAX: Final = 8
TEXT_MAX: Final = 300
NAMES: Final = ("gateway", "sender", "to_actor")
"""Fields whose text is the name of an actor."""
REPLAY_BYTES_MAX: Final = 64 << 10
"""Greater messages are not shown whole: the control thread has other things to do."""

Seen = tuple[str, str, Any, int, int, int, int, int]


class Tapped(Protocol):
    """What a tap hangs on: transport.links.Links."""

    on_sent: Callable[[str, Any, int, int, int, int], None] | None


class Tap:
    """One reader's copy. Filled by the actor's thread, read on the control thread."""

    def __init__(self, *, types: set[str], peers: set[str], values: bool) -> None:
        """`types` and `peers` let only these through; empty sets let all."""
        self._types = types
        self._peers = peers
        self._values = values
        self._seen: deque[Seen] = deque()
        self._bytes_in = 0
        self._bytes_out = 0
        self.dropped = 0
        self.read_at = time.monotonic()

    def __len__(self) -> int:
        """Return how many copies wait to be read."""
        return len(self._seen)

    def offer(self, seen: Seen) -> None:
        """Take a copy if it is wanted and there is room."""
        if self._types and type(seen[2]).__name__ not in self._types:
            return
        if self._peers and seen[1] not in self._peers:
            return
        held = self._bytes_in - self._bytes_out
        if len(self._seen) >= TAP_MESSAGES or held + seen[6] > TAP_BYTES:
            self.dropped += 1
            return
        self._bytes_in += seen[6]
        self._seen.append(seen)

    def read(self) -> list[dict[str, Any]]:
        """Take the oldest copies, in words; at most READ_MAX."""
        self.read_at = time.monotonic()
        found = []
        for _ in range(min(READ_MAX, len(self._seen))):
            seen = self._seen.popleft()
            self._bytes_out += seen[6]
            direction, peer, body, items, when, sequence, size, wait = seen
            shown: dict[str, Any] = {}
            if self._values and size <= REPLAY_BYTES_MAX and replayable(body):
                shown = {"message": to_json(body)}
            found.append(
                {
                    "direction": direction,
                    "peer": peer,
                    "type": type(body).__name__,
                    "monotonic_ns": when,
                    "sequence": sequence,
                    "items": items,
                    "bytes": size,
                    "wait_ns": wait,
                    "fields": described(body, values=self._values),
                    **shown,
                }
            )
        return found


class Taps:
    """All taps of one actor. `open` is what the hot path looks at."""

    def __init__(self, links: Tapped, position: int) -> None:
        self._links = links
        self._position = position
        self._taps: dict[int, Tap] = {}
        self._number = 0
        self.open = False

    def received(
        self, peer: str, body: Any, items: int, when: int, sequence: int, size: int, wait: int
    ) -> None:
        """Offer what the actor is about to handle."""
        self._offer(("in", peer, body, items, when, sequence, size, wait))

    def sent(self, peer: str, body: Any, items: int, when: int, sequence: int, size: int) -> None:
        """Offer what the actor has sent."""
        self._offer(("out", peer, body, items, when, sequence, size, 0))

    def _offer(self, seen: Seen) -> None:
        now = time.monotonic()
        for number, tap in tuple(self._taps.items()):
            if now - tap.read_at > UNREAD_SECONDS:
                self._taps.pop(number, None)
                self._settle()
            else:
                tap.offer(seen)

    def _settle(self) -> None:
        self.open = len(self._taps) > 0
        self._links.on_sent = self.sent if self.open else None

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `tap`: {types, from, values} -> {tap: its number}."""
        if len(self._taps) >= TAPS_MAX:
            return {"error": f"{TAPS_MAX} taps are open already"}
        self._number += 1
        self._taps[self._number] = Tap(
            types=set(request.get("types", ())),
            peers=set(request.get("from", ())),
            values=bool(request.get("values")),
        )
        self._settle()
        return {"tap": self._number}

    def read(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `tap-read`: {tap} -> {messages, dropped, more}; `more` are there already."""
        tap = self._taps.get(request["tap"])
        if tap is None:
            return {"error": "there is no such tap (any more)"}
        return {"messages": tap.read(), "dropped": tap.dropped, "more": len(tap) > 0}

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `tap-stop`: {tap} -> {}."""
        self._taps.pop(request["tap"], None)
        self._settle()
        return {}


def described(body: Any, *, values: bool = False) -> dict[str, Any]:
    """Return a message's fields for people, without what might be a secret."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(body):
        value = getattr(body, field.name)
        if field.name in NAMES and isinstance(value, str):
            found[field.name] = value[:TEXT_MAX]
        else:
            found[field.name] = _redacted(value)
    if values and isinstance(body, messages.Propose):
        found["batch"] = _batch(body.batch)
    elif values and isinstance(body, messages.Apply):
        found["datas"] = [_batch(data) for data in body.datas[:LIST_MAX]]
    return found


def _redacted(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return f"<{len(value)} characters>"
    if isinstance(value, list | tuple):
        shown = [_redacted(one) for one in value[:LIST_MAX]]
        return [*shown, f"... {len(value)} in all"] if len(value) > LIST_MAX else shown
    return f"<{type(value).__name__}>"


def _batch(data: bytes) -> Any:
    try:
        batch = decode_batch(data)
    except BatchDecodeError:
        return _redacted(data)
    shown = []
    for op, request in list(zip(batch.ops, batch.requests, strict=True))[:LIST_MAX]:
        kind = SHOWN.get(op)
        name = Op(op).name.lower() if op in Op._value2member_map_ else f"op {op}"
        if kind is None:
            shown.append(f"{name} <{len(request)} bytes>")
            continue
        text = text_format.MessageToString(kind.FromString(request), as_one_line=True)
        shown.append(f"{name} {text}"[:TEXT_MAX])
    return {"session": batch.session, "mark": batch.mark, "requests": shown}
