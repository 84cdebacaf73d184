"""`troupectl tap ACTOR`: what an actor receives and sends, as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from control.observe import MemberView, ObserveError
from control.recorder import duration
from transport.control import ControlClient, ControlTimeoutError

POLL_SECONDS: Final = 0.05
TIMEOUT_SECONDS: Final = 2.0
STOP_SECONDS: Final = 0.5


class TapReader:
    """One tap, open. A context manager; not shared between threads.

    Raises ControlTimeoutError if the actor does not answer, ObserveError if it refuses.
    """

    def __init__(
        self,
        view: MemberView,
        name: str,
        *,
        types: Sequence[str] = (),
        peers: Sequence[str] = (),
        values: bool = False,
    ) -> None:
        self.dropped = 0
        """Messages the actor could not keep."""
        self._epoch = time.time() - time.monotonic()
        self._client = ControlClient(view.run_dir / f"{name}.ctl")
        arguments = {"types": list(types), "from": list(peers), "values": values}
        try:
            self._number = _asked(self._client, "tap", **arguments)["tap"]
        except (ControlTimeoutError, ObserveError):
            self._client.close()
            raise

    def __enter__(self) -> TapReader:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ControlTimeoutError):  # a tap that nobody reads ends by itself
            self._client.ask("tap-stop", STOP_SECONDS, tap=self._number)
        self._client.close()

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the oldest messages not yet read, and whether there are more already."""
        answer = _asked(self._client, "tap-read", tap=self._number)
        self.dropped = answer["dropped"]
        found = [
            message | {"ts": round(self._epoch + message.pop("monotonic_ns") / 1e9, 6)}
            for message in answer["messages"]
        ]
        return found, answer["more"]


def tap(
    view: MemberView,
    name: str,
    show: Callable[[dict[str, Any]], None],
    *,
    types: Sequence[str] = (),
    peers: Sequence[str] = (),
    values: bool = False,
    limit: int = 0,
    seconds: float = 0.0,
) -> dict[str, int]:
    """Call `show` with every message until `limit` messages or `seconds` (0: for ever).

    Return how many were shown and how many the actor could not keep. Raises ControlTimeoutError if
    the actor does not answer, ObserveError if it refuses.
    """
    shown = 0
    with TapReader(view, name, types=types, peers=peers, values=values) as reader:
        until = time.monotonic() + seconds if seconds else None
        while True:
            messages, more = reader.read()
            for message in messages:
                show(message)
                shown += 1
                if shown == limit:
                    return {"shown": shown, "dropped": reader.dropped}
            if until is not None and time.monotonic() >= until:
                return {"shown": shown, "dropped": reader.dropped}
            if not more:
                time.sleep(POLL_SECONDS)


def _asked(client: ControlClient, cmd: str, **arguments: Any) -> dict[str, Any]:
    answer = client.ask(cmd, TIMEOUT_SECONDS, **arguments)
    if "error" in answer:
        raise ObserveError(answer["error"])
    return answer


def line(message: dict[str, Any]) -> str:
    """Return one message for people."""
    clock = time.strftime("%H:%M:%S", time.localtime(message["ts"]))
    clock += f"{message['ts'] % 1:.6f}"[1:]
    arrow = "◀" if message["direction"] == "in" else "▶"
    wait = f"  waited {duration(message['wait_ns'])}" if message["direction"] == "in" else ""
    head = f"{clock} {arrow} {message['peer']:<12} {message['type']:<14} #{message['sequence']}"
    sizes = f"{message['items']} items, {message['bytes']} bytes{wait}"
    return f"{head}  {sizes}  {json.dumps(message['fields'])}"
