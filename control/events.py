"""What root tells of its children, as it happens: `troupectl events --follow`, and over HTTP.

Root keeps the last few hundred events and adds to one what is known only later (what was decided
about an exit, the name of the crash report): such an event is told again, whole, under the same id.
"""

from __future__ import annotations

from typing import Any, Final

from control.observe import MemberView
from transport.control import ControlClient, ControlTimeoutError

POLL_SECONDS: Final = 0.2
TIMEOUT_SECONDS: Final = 1.0


def event_id(event: dict[str, Any]) -> str:
    """Return what an event is known by; it stays the same when more becomes known."""
    return f"{event['ts']:.6f}-{event['event']}-{event['actor']}"


class EventReader:
    """Follows root's events. A context manager; not shared between threads."""

    def __init__(self, view: MemberView, *, after: str = "") -> None:
        """`after` is the id of the last event that is known already."""
        self._client = ControlClient(view.run_dir / "root.ctl")
        self._after = after
        self._told: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def read(self) -> list[dict[str, Any]] | None:
        """Return what is new or has grown, oldest first; None if root does not answer."""
        try:
            events = self._client.ask("events", TIMEOUT_SECONDS)["events"]
        except ControlTimeoutError:
            return None
        known = {event_id(event): event for event in events}
        if self._after in known:
            for place, event in known.items():
                self._told[place] = event
                if place == self._after:
                    break
        self._after = ""
        new = [event for place, event in known.items() if self._told.get(place) != event]
        self._told = known
        return new
