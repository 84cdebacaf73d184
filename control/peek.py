"""`troupectl peek ACTOR`: what an actor does and what waits for it, also when it is stuck.

The board tells what it is doing and how much each neighbour has sent that it has not handled; the
senders' flight recorders what that is; the actor's control mailbox, if it answers, what it has
taken out of its socket already.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.pretty import Pretty
from rich.table import Table
from rich.text import Text

from control.observe import MemberView, can_run
from control.recorder import duration
from transport.control import ControlClient, ControlTimeoutError
from transport.counters import Cell

TIMEOUT_SECONDS = 1.0
WAITING_SHOWN: Final = 50
_HISTOGRAMS: Final = ("wait", "work", "flush")


def peek(view: MemberView, name: str) -> dict[str, Any]:
    """Return the actor's sample, the depth by sender, and its own answer (None: no answer).

    `messages` are what waits, oldest first, as its senders remember it (at most WAITING_SHOWN).
    """
    sample = asdict(view.sample(name, memory=True))
    edges = (view.edge(sender, name) for sender in view.board.names)
    queued = ask_actor(view, name, "peek")
    return {
        "actor": {key: value for key, value in sample.items() if key not in _HISTOGRAMS},
        "waiting": {edge.sender: edge.depth for edge in edges if edge.depth},
        "messages": [asdict(waiting) for waiting in view.waiting(name)[:WAITING_SHOWN]],
        "queued": queued,
        "stats": ask_actor(view, name, "stats") if queued is not None else None,
    }


def ask_actor(
    view: MemberView, name: str, cmd: str, within: float | None = None, **arguments: Any
) -> dict[str, Any] | None:
    """Return an actor's answer to a command; None if it does not answer in time.

    That is `within` seconds whatever becomes of it; or TIMEOUT_SECONDS, and then nobody waits for a
    process that is stopped, or that ends or is replaced meanwhile.
    """
    pid = view.board.get(name, Cell.PID)

    def may_answer() -> bool:
        return within is not None or (view.board.get(name, Cell.PID) == pid and can_run(pid))

    if not may_answer():
        return None
    client = ControlClient(view.run_dir / f"{name}.ctl")
    try:
        return client.ask(cmd, within or TIMEOUT_SECONDS, may_answer=may_answer, **arguments)
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
    parts: list[RenderableType] = [Text("\n".join(lines))]
    if found["messages"]:
        parts.append(_messages(found["messages"]))
    parts += [Pretty(found[key]) for key in ("queued", "stats") if found[key] is not None]
    return Group(*parts)


def _messages(messages: list[dict[str, Any]]) -> Table:
    table = Table(title="waiting, as its senders tell it")
    for column in ("from", "type", "seq", "items", "bytes", "age"):
        table.add_column(column, justify="left" if column in ("from", "type") else "right")
    for one in messages:
        table.add_row(
            one["sender"],
            one["type"],
            str(one["sequence"]),
            str(one["items"]),
            str(one["bytes"]),
            duration(round(one["age_seconds"] * 1e9)),
        )
    return table
