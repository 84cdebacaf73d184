"""`troupectl peek ACTOR`: what an actor does and what waits for it, also when it is stuck.

The board tells what it is doing and how much each neighbour has sent that it has not handled; the
actor's control mailbox, if it answers, what it has taken out of its socket already.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.pretty import Pretty
from rich.text import Text

from control.observe import MemberView
from transport.control import ControlClient, ControlTimeoutError

TIMEOUT_SECONDS = 1.0


def peek(view: MemberView, name: str) -> dict[str, Any]:
    """Return the actor's sample, the depth by sender, and its own answer (None: no answer)."""
    sample = view.sample(name, memory=True)
    edges = (view.edge(sender, name) for sender in view.board.names)
    return {
        "actor": asdict(sample),
        "waiting": {edge.sender: edge.depth for edge in edges if edge.depth},
        "queued": _ask(view, name, "peek"),
        "stats": _ask(view, name, "stats"),
    }


def _ask(view: MemberView, name: str, cmd: str) -> dict[str, Any] | None:
    client = ControlClient(view.run_dir / f"{name}.ctl")
    try:
        return client.ask(cmd, TIMEOUT_SECONDS)
    except ControlTimeoutError:
        return None
    finally:
        client.close()


def rendered(found: dict[str, Any]) -> RenderableType:
    """Return the answer for people."""
    actor = found["actor"]
    doing = f"{actor['doing']} for {actor['doing_seconds']:.3f} s" if actor["doing"] else "nothing"
    waiting = ", ".join(f"{count} from {name}" for name, count in found["waiting"].items())
    lines = [
        f"{actor['name']}  {actor['state']}  pid {actor['pid']}  doing {doing}",
        f"in the mailbox: {waiting or 'nothing'}",
    ]
    if found["queued"] is None:
        lines.append("its control mailbox does not answer: frozen, dead or not up yet")
    answers = [Pretty(found[key]) for key in ("queued", "stats") if found[key] is not None]
    return Group(Text("\n".join(lines)), *answers)
