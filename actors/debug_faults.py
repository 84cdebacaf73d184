"""Faults over HTTP: `POST /debug/actors/faults`, on members started with --enable-faults only.

The body is JSON: {"verb": "suspend", "target": "applier", "for": 5} and what `troupectl fault` has
as options: ms, p99_ms, type, ratio, count, bytes. Who asks must own the run directory, and proves
it by the key that lies there (`Authorization: Bearer KEY`; `troupectl page` prints an address with
it): no cookie, nothing a browser would add by itself, so no other site's page can ask.
"""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any, Final

from actors.faults import REFUSED
from api.http1 import Request
from control import fault
from control.observe import MemberView, ObserveError

NUMBERS: Final = ("for", "ms", "p99_ms", "ratio", "count", "bytes")
BUTTONS: Final = ("suspend", "resume", "freeze", "kill", "crash", "hang", "slow")
"""What the page offers for an actor."""
NOT_OWNER: Final = (
    f"only the owner of the run directory may inject faults: send Authorization: Bearer and the "
    f"key in its file {fault.KEY_FILE} (troupectl page prints it)"
)


class FaultRefusedError(Exception):
    """Nobody, or not this client, may inject faults; the text says why (status 403)."""


class FaultOrderError(Exception):
    """The body is no order (status 400)."""


def check_owner(run_dir: Path, request: Request) -> None:
    """Raise FaultRefusedError unless the member takes faults and the client owns it."""
    key = fault.key(run_dir)
    if not key:
        raise FaultRefusedError(REFUSED)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise FaultRefusedError(NOT_OWNER)


def parse_order(body: bytes) -> tuple[str, str, dict[str, Any]]:
    """Return verb, target and arguments of fault.inject. Raises FaultOrderError."""
    try:
        order = json.loads(body)
    except ValueError:
        raise FaultOrderError("the body is no JSON") from None
    if not isinstance(order, dict) or order.get("verb") not in fault.VERBS:
        raise FaultOrderError(f"verb must be one of {', '.join(fault.VERBS)}")
    target = order.get("target", "")
    arguments = {name: order[name] for name in (*NUMBERS, "type") if name in order}
    unknown = order.keys() - {"verb", "target", *NUMBERS, "type"}
    if unknown:
        raise FaultOrderError(f"unknown: {', '.join(sorted(unknown))}")
    for name, value in arguments.items():
        wanted = str if name == "type" else int | float
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise FaultOrderError(f"{name} must be a {'text' if name == 'type' else 'number'}")
    if not isinstance(target, str):
        raise FaultOrderError("target must be a text")
    return order["verb"], target, arguments


def inject(view: MemberView, order: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """Inject; return what was answered. Raises ObserveError."""
    verb, target, arguments = order
    try:
        return fault.inject(view, verb, target, **arguments)
    except (ValueError, TypeError) as error:
        raise ObserveError(str(error)) from None


def offered(run_dir: Path) -> dict[str, Any]:
    """Return what the page may offer."""
    return {"enabled": bool(fault.key(run_dir)), "verbs": list(BUTTONS)}
