"""`troupectl fault VERB`: breaks a member that was started with --enable-faults, for a while."""

from __future__ import annotations

import argparse
from typing import Any, Final

from control.observe import MemberView, ObserveError
from control.peek import ask_actor

ROOTS: Final = ("kill", "freeze", "fsync-slow", "fsync-fail", "disk-full")
ACTORS: Final = ("crash", "suspend", "resume", "hang", "slow")
EDGES: Final = ("drop", "duplicate", "delay", "reorder", "flood")
PEERS: Final = ("cut", "mend")
VERBS: Final = (*ROOTS, *ACTORS, *EDGES, *PEERS, "heal")
ANSWER_SECONDS: Final = 5.0
DISK: Final = ("fsync-slow", "fsync-fail", "disk-full")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what `troupectl fault` takes."""
    command.add_argument("verb", choices=VERBS)
    command.add_argument("target", nargs="?", default="", help="an actor, FROM:TO, or a peer")
    command.add_argument("--for", type=float, default=10.0, dest="seconds", metavar="SECONDS")
    command.add_argument("--ms", type=float, help="for slow, delay and fsync-slow")
    command.add_argument("--type", default="", help="only this type of messages on an edge")
    command.add_argument("--ratio", type=float, default=1.0, help="share of messages on an edge")
    command.add_argument("--count", type=int, help="messages of a flood")


def inject(view: MemberView, verb: str, target: str, **arguments: Any) -> dict[str, Any]:
    """Inject a fault; return what was answered. Raises ObserveError if it was refused.

    `target` is an actor; FROM:TO for an edge (an empty TO means all); a peer for cut and mend.
    """
    known = {key: value for key, value in arguments.items() if value is not None}
    if verb == "heal":
        return {name: _asked(view, name, verb, known) for name in ("root", *view.actors())}
    if verb in PEERS:
        named = {"peer": target} if target else {}
        answer = ask_actor(view, "transport", verb, ANSWER_SECONDS, **named, **known)
        return _answer(answer, "transport")
    if verb in EDGES:
        sender, _, receiver = target.partition(":")
        return _asked(view, sender, verb, known | {"to": receiver})
    if verb in DISK:
        return _asked(view, "root", verb, known)
    if target not in (*view.board.names, "zygote"):
        raise ObserveError(f"no actor {target!r}; there are {', '.join(view.actors())}")
    if verb == "resume":  # of a freeze, then of a suspension
        _asked(view, "root", verb, known | {"actor": target})
    to = "root" if verb in ROOTS else target
    return _asked(view, to, verb, known | {"actor": target})


def _asked(view: MemberView, name: str, verb: str, known: dict[str, Any]) -> dict[str, Any]:
    if name not in view.board.names:
        raise ObserveError(f"no actor {name!r}; there are {', '.join(view.actors())}")
    return _answer(ask_actor(view, name, "fault", ANSWER_SECONDS, verb=verb, **known), name)


def _answer(answer: dict[str, Any] | None, name: str) -> dict[str, Any]:
    if answer is None:
        raise ObserveError(f"{name} does not answer")
    if "error" in answer:
        raise ObserveError(answer["error"])
    return answer
