"""`troupectl tree`: who is supervised, how he fares, what his restarts have cost.

Root is asked for what only it knows (restarts used of those allowed, the last exit in words); when
it does not answer, the rest is shown from the board.
"""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.tree import Tree

from control.observe import MemberView, exit_words
from transport.control import ControlClient, ControlTimeoutError
from transport.counters import Cell, State

COLOURS = {"running": "green"} | dict.fromkeys(
    ("starting", "backoff", "stopping", "frozen"), "yellow"
)


def ask_root(view: MemberView, cmd: str, timeout: float = 0.5) -> dict[str, Any] | None:
    """Return root's answer; None if it does not answer in time."""
    client = ControlClient(view.run_dir / "root.ctl")
    try:
        return client.ask(cmd, timeout)
    except ControlTimeoutError:
        return None
    finally:
        client.close()


def tree(view: MemberView) -> dict[str, Any]:
    """Return the supervision tree as data."""
    told = ask_root(view, "tree")
    by_root = {child["name"]: child for child in told["children"]} if told else {}
    specs = {spec["name"]: spec for spec in view.info["children"]}
    children = []
    for name in view.actors():
        sample, spec = view.sample(name), specs.get(name, {})
        root_says = by_root.get(name, {})
        last_exit = exit_words(sample.last_exit) if sample.restarts else ""
        children.append(
            {
                "name": name,
                "state": sample.state,
                "pid": sample.pid,
                "incarnation": sample.incarnation,
                "strategy": spec.get("restart", "permanent"),
                "restarts": sample.restarts,
                "used": root_says.get("used"),
                "allowed": spec.get("allowed"),
                "period": spec.get("period"),
                "next_backoff": root_says.get("next_backoff"),
                "last_exit": root_says.get("last_exit", last_exit),
                "reason": spec.get("reason", ""),
            }
        )
    state = State(view.board.get("root", Cell.STATE)).name.lower()
    return {
        "member": view.info["name"],
        "data_dir": view.info["data_dir"],
        "run_dir": str(view.run_dir),
        "pid": view.info["pid"],
        "state": state if told else "silent",
        "zygote": told["zygote"] if told else None,
        "children": children,
    }


def rendered(found: dict[str, Any]) -> Tree:
    """Return the tree for people."""
    head = f"[bold]{escape(found['member'])}[/]  root  {found['state']}  pid {found['pid']}"
    shown = Tree(f"{head}  one-for-one  {escape(found['data_dir'])}")
    zygote = found["zygote"]
    if zygote is not None:
        used = f"{zygote['used']} of {zygote['allowed']} in {zygote['period']:g} s"
        shown.add(f"zygote  pid {zygote['pid']}  restarts {used}")
    for child in found["children"]:
        colour = COLOURS.get(child["state"], "red")
        used = "?" if child["used"] is None else child["used"]
        line = (
            f"[bold]{child['name']}[/]  [{colour}]{child['state']}[/]  pid {child['pid']}  "
            f"incarnation {child['incarnation']}  {child['strategy']}  "
            f"restarts {used} of {child['allowed']} in {child['period']:g} s"
        )
        if child["next_backoff"]:
            line += f"  next back-off up to {child['next_backoff']:g} s"
        if child["last_exit"]:
            line += f"  last: {escape(child['last_exit'])}"
        shown.add(f"{line}\n[dim]{escape(child['reason'])}[/]")
    return shown
